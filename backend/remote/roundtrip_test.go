package remote

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

// The whole cycle with both sites elsewhere: out and home, and only deltas
// travel.
func TestRoundTrip(t *testing.T) {
	roundtriptest.Run(t,
		roundtriptest.End{Name: "home", Harness: remoteMemory(t, memory.Options{Site: "home"})},
		roundtriptest.End{Name: "far", Harness: remoteMemory(t, memory.Options{Site: "far"})})
}

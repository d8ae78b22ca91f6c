package roundtriptest_test

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

// Any platform to any other, out and home. Between two sites of one platform, and
// with the drill and the change of points, each backend's own TestRoundTrip goes.
func TestAnyToAny(t *testing.T) {
	if testing.Short() {
		t.Skip("long; each backend's own round trip isn't skipped")
	}
	roundtriptest.Matrix(t,
		roundtriptest.Platform{Name: "VMware", End: vsphere},
		roundtriptest.Platform{Name: "Azure", End: subscription},
		roundtriptest.Platform{Name: "physical", End: hosts},
		roundtriptest.Platform{Name: "Hyper-V", End: hyperV},
	)
}

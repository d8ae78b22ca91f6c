package servertest

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// sample are the promises that are tested on PostgreSQL each time: those that
// are kept by timers, by heartbeats, by many at once, and across deaths.
var sample = []string{
	"steps run in order",
	"an attempt that falls silent",
	"cancelling stops what runs",
	"a refused gate cancels the run",
	"steps that only wait",
	"Runs are listed",
	"a death is no failure",
	"a decision and a cancellation survive",
}

// The contract on a server as it is installed: PostgreSQL below, and payloads
// sealed. LIFEBOAT_LONG=1 has it tested whole.
func TestContractOnPostgreSQL(t *testing.T) {
	s := temporalserver.Start(t, temporalserver.Options{})
	codec, err := temporal.NewCodec(temporal.CodecOptions{Keys: []temporal.Key{{ID: "k", Secret: make([]byte, 32)}}})
	require.NoError(t, err)
	at := place{address: s.Address, namespace: s.Namespace, codec: codec}
	at.undertaker = newLink().dialTo(t, at)
	t.Cleanup(at.undertaker.Close)
	begun := time.Now()
	t.Run("all", func(t *testing.T) {
		enginetest.Run(t, func(et enginetest.T) enginetest.State {
			name := strings.ReplaceAll(strings.TrimPrefix(et.Name(), t.Name()+"/"), "_", " ")
			if os.Getenv("LIFEBOAT_LONG") != "1" && !slices.ContainsFunc(sample, func(p string) bool { return strings.HasPrefix(name, p) }) {
				et.Skipf("minutes in all; LIFEBOAT_LONG=1 runs it, and the same is tested on a server within the process")
			}
			et.(*testing.T).Parallel()
			st := newState(et, temporal.Options{Converter: codec.DataConverter()})
			st.at = at
			return st
		})
	})
	t.Logf("%v; the server used %v of CPU", time.Since(begun), s.CPU())
}

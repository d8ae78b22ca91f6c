package failback_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var everyFault = flag.Bool("faults", false, "fail each call of each flow, not a sample of them")

// The n-th call of backends, stores and records fails, for every n, before
// its effect or behind it, with steps that are tried again and with steps that
// aren't. A flow ends done, or what was before is there again; nothing is left
// over, and one machine runs where one ran. Then the flow works.
func TestEveryCallFails(t *testing.T) {
	for _, f := range flows {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, when := range []backendtest.When{backendtest.Before, backendtest.After} {
				for _, attempts := range []int{1, 0} {
					stride := 1
					if !*everyFault {
						stride = 11 + 26*min(1-attempts, 1) // without failing runs there is less to see
					}
					for n := 1 + len(f.name)%stride; failAt(t, f, n, when, attempts); n += stride {
					}
				}
			}
		})
	}
}

func failAt(t *testing.T, f flow, n int, when backendtest.When, attempts int) bool {
	w := newWorld(t, all, all)
	defer w.end()
	w.serve(nil)
	f.stage(w)
	p, err := f.plan(w)
	require.NoError(t, err)
	for i := range p.Steps {
		if p.Steps[i].Gate == "" && attempts != 0 {
			p.Steps[i].Attempts = attempts
		}
	}
	before, bytes, former, ran := w.picture(f.whole...), w.activeOn(), w.record(), len(w.running())
	var failed string
	fault := backendtest.FailNth(n, when)
	w.intercept(func(ctx ctx, c backendtest.Call, do func() error) error {
		err := fault.Intercept(ctx, c, do)
		if isInjected(err) && failed == "" {
			failed = err.Error()
		}
		return err
	})
	st := w.wait(w.start(p))
	w.intercept(nil)
	if !fault.Fired() {
		return false
	}
	where := fmt.Sprintf("%s, %d tries, call %d: %s", f.name, attempts, n, failed)
	switch {
	case st.State == dr.RunDone:
		if f.lossless {
			w.same(bytes, w.activeOn(), where)
		}
		require.LessOrEqual(t, len(w.running()), ran+b2i(strings.HasPrefix(f.name, "unplanned")), where)
		if attempts == 0 {
			w.clean(where)
		}
		w.followed(where)
	case st.State == dr.RunFailed:
		require.Equal(t, 1, attempts, "%s: a call that fails once doesn't fail a flow: %s", where, st.Reason)
		if f.gives != "" && !w.equal(bytes, w.activeOn()) {
			w.same(w.pointBytes(former.Active.Site, former.Standby.Machine, former.Failover.Point.ID), w.activeOn(), where)
			require.Equal(t, former.Failover, w.record().Failover, where)
		} else {
			require.Equal(t, before, w.picture(f.whole...), "%s: %s", where, st.Reason)
		}
		again(w, f, where)
	default:
		require.Fail(t, "how it ended", "%s: %s: %s", where, st.State, st.Reason)
	}
	return true
}

// clean sees that no capture, no draft and no pin of a run is left.
func (w *world) clean(where string) {
	w.t.Helper()
	for _, site := range []string{hq, away} {
		for _, id := range w.machines(site) {
			caps, err := w.hosts[site].Captures(id)
			require.NoError(w.t, err)
			require.Empty(w.t, caps, "%s: captures of %s", where, id)
			for q, err := range w.stores[site].Pending(w.t.Context(), id) {
				require.NoError(w.t, err)
				require.Fail(w.t, "a draft is left", "%s: %s of %s at %s", where, q.ID, id, site)
			}
		}
	}
	p := w.record()
	for q, who := range p.Pins {
		if p.Test == nil {
			require.NotContains(w.t, who, "run/", "%s: point %s is pinned", where, q)
		}
	}
}

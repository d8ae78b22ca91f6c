package failback_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// From the n-th call to one site's platform on none is answered, for every n,
// that one having had its effect or not, until the flow has ended. No machine is started beside another of the same
// disks unless that is what was asked for; if none runs, or another than the
// record says, the run says what was left; and what runs has its bytes. Then
// the platform answers again, and everything can be gone on with.
func TestSiteGoesSilent(t *testing.T) {
	for _, f := range flows {
		for _, site := range []string{hq, away} {
			t.Run(f.name+"/"+site, func(t *testing.T) {
				t.Parallel()
				stride := 7
				if *everyFault {
					stride = 1
				}
				for _, when := range []backendtest.When{backendtest.Before, backendtest.After} {
					for n := 1 + len(f.name)%stride; silentFrom(t, f, site, n, when); n += stride {
					}
				}
			})
		}
	}
}

func silentFrom(t *testing.T, f flow, site string, n int, when backendtest.When) bool {
	w := newWorld(t, all, all)
	defer w.end()
	w.serve(nil)
	f.stage(w)
	p, err := f.plan(w)
	require.NoError(t, err)
	for i := range p.Steps {
		p.Steps[i].Attempts = min(2, 2*len(p.Steps[i].Action))
	}
	var calls atomic.Int64
	var healed atomic.Bool
	at := w.env.Sites[site]
	w.env.Sites[site] = replication.Site{Points: at.Points, Backend: backendtest.Wrap(at.Backend, func(_ ctx, _ backendtest.Call, do func() error) error {
		call := calls.Add(1)
		if call < int64(n) || healed.Load() {
			return do()
		}
		if call == int64(n) && when == backendtest.After {
			_ = do()
		}
		return errNoAnswer
	})}
	second := make(chan string, 100)
	ran := w.running()
	w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
		if c.Op == backendtest.OpStart && len(ran) == 1 && !strings.HasPrefix(f.name, "unplanned") && !isDrill(w, c.Machine) {
			for _, id := range w.running() {
				if id != c.Machine {
					second <- fmt.Sprintf("%s is started while %s runs", c.Machine, id)
				}
			}
		}
		return do()
	})
	had, former := w.activeOn(), w.record()
	run := w.start(p)
	st, err := dr.Wait(t.Context(), w.engine, run, func(s dr.Status) {
		for _, x := range s.Steps {
			switch x.State {
			case dr.StepWaiting:
				_ = w.engine.Decide(t.Context(), run, x.ID, dr.Decision{Verdict: dr.Approve, By: "test"})
			case dr.StepStuck:
				healed.Store(true)
				_ = w.engine.Decide(t.Context(), run, x.ID, dr.Decision{Verdict: dr.Retry, By: "test"})
			}
		}
	})
	require.NoError(t, err)
	reached := calls.Load() >= int64(n)
	healed.Store(true)
	w.intercept(nil)
	if !reached {
		return false
	}
	where := fmt.Sprintf("%s, %s silent from call %d on: %s %s", f.name, site, n, st.State, st.Reason)
	select {
	case what := <-second:
		require.Fail(t, what, where)
	default:
	}
	now := w.record()
	require.Empty(t, now.Run, where)
	on := w.power(now.Active.Site, now.Active.Machine) == dr.On
	if !on || st.State == dr.RunFailed && fmt.Sprint(ran) != fmt.Sprint(w.running()) {
		require.Contains(t, st.Reason, "undoing step", where)
	}
	if !on { // as a person would, who has read that
		if now.Standby.Machine != "" && w.power(now.Standby.Site, now.Standby.Machine) == dr.On {
			require.NoError(t, w.hosts[now.Standby.Site].Power(now.Standby.Machine, dr.Off))
		}
		if err := w.hosts[now.Active.Site].Power(now.Active.Machine, dr.On); err != nil {
			// Only what gives up the disks' content leaves them torn: again.
			require.ErrorIs(t, err, dr.ErrTorn, where)
			require.NotEmpty(t, f.gives, where)
			w.must(f.plan(w))
		}
	}
	if st.State == dr.RunFailed && (f.gives == "" || w.equal(had, w.activeOn())) {
		require.Equal(t, former.State, now.State, where)
		w.same(had, w.activeOn(), where)
	} else if f.lossless {
		w.same(had, w.activeOn(), where)
	}
	return true
}

func isDrill(w *world, id dr.MachineID) bool {
	for _, site := range []string{hq, away} {
		if pl, err := w.hosts[site].Placement(id); err == nil && strings.HasPrefix(pl.Key, "test/") {
			return true
		}
	}
	return false
}

package failback_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// Every flow is cancelled before and behind each of its steps. Afterwards the
// record, both sides' machines and stores are as they were, and a flow that is
// asked for again works. Behind the point of no return cancelling is refused,
// and the flow goes on to its end.
func TestCancelAtEachStep(t *testing.T) {
	for _, f := range flows {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for i := 0; ; i++ {
				if !cancelAt(t, f, i/2, i%2 == 1) {
					break
				}
			}
		})
	}
}

func cancelAt(t *testing.T, f flow, step int, behind bool) bool {
	w := newWorld(t, all, all)
	blocked, pass := make(chan struct{}), make(chan struct{})
	w.serve(dr.Actions{"own.block@1": func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		close(blocked)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-pass:
			return nil, nil
		}
	}})
	f.stage(w)
	p, err := f.plan(w)
	require.NoError(t, err)
	if step >= len(p.Steps) {
		w.end()
		return false
	}
	at := p.Steps[step].ID
	where := fmt.Sprintf("%s, cancelled before %s", f.name, at)
	own := dr.Step{ID: "own", Action: "own.block@1"}
	if behind {
		where = fmt.Sprintf("%s, cancelled behind %s", f.name, at)
		p, err = p.InsertAfter(at, own)
	} else {
		p, err = p.InsertBefore(at, own)
	}
	require.NoError(t, err)
	whole := f.whole
	if f.gives != "" && reached(p, f.gives, own.ID) {
		whole = nil
	}
	before := w.picture(whole...)
	had := w.activeOn()
	former := w.record()

	run := w.start(p)
	ended := make(chan dr.Status, 1)
	go func() { ended <- w.wait(run) }()
	<-blocked
	if err := w.engine.Cancel(t.Context(), run, "to see"); err != nil {
		require.ErrorIs(t, err, dr.ErrNotAllowed, where)
		require.True(t, final(p, own.ID), where)
		close(pass)
		st := <-ended
		require.Equal(t, dr.RunDone, st.State, "%s: %s", where, st.Reason)
	} else {
		st := <-ended
		require.Equal(t, dr.RunCancelled, st.State, "%s: %s", where, st.Reason)
		require.Equal(t, "to see", st.Reason, where)
		if f.gives != "" && reached(p, f.gives, own.ID) {
			// What the guest wrote since the failover is given up: it runs
			// from the former point again.
			w.same(w.pointBytes(former.Active.Site, former.Standby.Machine, former.Failover.Point.ID), w.activeOn(), where)
			require.Equal(t, former.Failover, w.record().Failover, where)
		} else {
			require.Equal(t, before, w.picture(whole...), where)
			w.same(had, w.activeOn(), where)
		}
		again(w, f, where)
	}
	w.end()
	return true
}

// again runs the flow anew, after a cycle where cycles are allowed.
func again(w *world, f flow, where string) {
	w.t.Helper()
	if w.record().Allow(dr.OpReplicate) == nil {
		w.cycle()
		w.guest(1)
	}
	bytes := w.activeOn()
	st := w.do(f.plan(w))
	require.Equal(w.t, dr.RunDone, st.State, "%s, then again: %s", where, st.Reason)
	if f.lossless {
		w.same(bytes, w.activeOn(), where+", then again")
	}
	w.followed(where)
}

// followed sees that a machine that came to the end of a flow is alive and
// can go all the rest of the way round.
func (w *world) followed(where string) {
	w.t.Helper()
	p := w.record()
	require.Equal(w.t, dr.On, w.power(p.Active.Site, p.Active.Machine), where)
	require.Empty(w.t, p.Run, where)
	if p.State == dr.Protected && p.Test == nil {
		w.guest(2)
		bytes := w.activeOn()
		st := w.must(failover.Unplanned(p, failover.Options{Shutdown: true}))
		require.True(w.t, resultOf[failover.Report](w.t, st, failover.StepFinish).Loss.None)
		w.same(bytes, w.activeOn(), where+", then failed over")
	}
}

// reached tells whether the plan comes to a step before another.
func reached(p dr.Plan, step, before string) bool {
	for _, s := range p.Steps {
		switch s.ID {
		case before:
			return false
		case step:
			return true
		}
	}
	return false
}

// final tells whether the plan has passed its point of no return at a step.
func final(p dr.Plan, at string) bool {
	for _, s := range p.Steps {
		if s.ID == at {
			break
		}
		if s.NoReturn {
			return true
		}
	}
	return false
}

func (w *world) equal(a, b content) bool {
	for d := range a {
		if !bytes.Equal(a[d], b[d]) {
			return false
		}
	}
	return true
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

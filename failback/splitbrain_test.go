package failback_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

var errNoAnswer = errors.New("no answer")

// A flow fails behind each of its steps, and from then on no platform stops a
// machine, or none removes one either. Taking the flow back never starts a
// machine beside another of the same disks, and starts the former one where
// the other is gone.
func TestUndoNeverStartsASecondMachine(t *testing.T) {
	for _, f := range flows {
		for _, removes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/removes=%t", f.name, removes), func(t *testing.T) {
				t.Parallel()
				for i := 0; stopFails(t, f, i, removes); i++ {
				}
			})
		}
	}
}

func stopFails(t *testing.T, f flow, step int, removes bool) bool {
	w := newWorld(t, all, all)
	defer w.end()
	var broken atomic.Bool
	w.serve(dr.Actions{"own.fail@1": func(context.Context, *dr.Call) (json.RawMessage, error) {
		broken.Store(true)
		return nil, dr.Permanent(errors.New("own failure"))
	}})
	f.stage(w)
	p, err := f.plan(w)
	require.NoError(t, err)
	if step >= len(p.Steps) {
		return false
	}
	at := p.Steps[step].ID
	if p, err = p.InsertAfter(at, dr.Step{ID: "own", Action: "own.fail@1"}); err != nil {
		require.NoError(t, err)
	}
	where := fmt.Sprintf("%s, failed behind %s", f.name, at)
	on := w.running()
	if final(p, "own") || len(on) != 1 {
		return true
	}
	for i := range p.Steps {
		p.Steps[i].Attempts = min(2, 2*len(p.Steps[i].Action))
	}
	second := make(chan string, 100)
	w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
		switch {
		case !broken.Load():
		case c.Op == backendtest.OpStop, c.Op == backendtest.OpRemove && !removes:
			return errNoAnswer
		case c.Op == backendtest.OpStart:
			for _, id := range w.running() {
				if id != c.Machine {
					second <- fmt.Sprintf("%s is started while %s runs", c.Machine, id)
				}
			}
		}
		return do()
	})
	st := w.wait(w.start(p))
	w.intercept(nil)
	require.Equal(t, dr.RunFailed, st.State, where)
	select {
	case what := <-second:
		require.Fail(t, what, where)
	default:
	}
	now := w.running()
	require.NotEmpty(t, now, "%s: %s", where, st.Reason)
	for _, s := range st.Steps { // whoever reads the report must see that there is something to do
		if !slices.Equal(on, now) && s.State == dr.StepUndoFailed {
			require.Contains(t, st.Reason, "undoing step", where)
			return true
		}
	}
	if !slices.Equal(on, now) {
		require.Fail(t, "another machine runs, and nothing says so", "%s: %v, now %v", where, on, now)
	}
	require.Empty(t, w.record().Run)
	return true
}

// A guest that was asked to shut down goes down after the flow has given up:
// then, too, the machine runs in the end.
func TestGuestThatGoesDownLate(t *testing.T) {
	w := newWorld(t, all, all)
	w.serve(nil)
	protected(w)
	down := make(chan struct{})
	w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
		if c.Op != backendtest.OpShutdown {
			return do()
		}
		time.AfterFunc(50*time.Millisecond, func() {
			defer close(down)
			_ = w.hosts[hq].Power(vm, dr.Off)
		})
		return dr.Permanent(errNoAnswer)
	})
	st := w.do(failover.Planned(w.record(), failover.Options{ShutdownTimeout: patience}))
	require.Equal(t, dr.RunFailed, st.State)
	<-down
	require.Equal(t, dr.On, w.power(hq, vm), "%s", st.Reason)
}

// A drill that failed while its platform neither stopped nor removed anything
// is cleaned up later, though its machine runs.
func TestFailedDrillThatRunsIsCleanedUp(t *testing.T) {
	w := newWorld(t, all, all)
	w.serve(dr.Actions{"own.fail@1": func(context.Context, *dr.Call) (json.RawMessage, error) {
		w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
			if c.Op == backendtest.OpStop || c.Op == backendtest.OpRemove {
				return errNoAnswer
			}
			return do()
		})
		return nil, dr.Permanent(errors.New("own failure"))
	}})
	protected(w)
	p, err := failover.Test(w.record(), w.next(failover.FlowTest), failover.Options{})
	require.NoError(t, err)
	p, err = p.InsertAfter(failover.StepStart, dr.Step{ID: "own", Action: "own.fail@1"})
	require.NoError(t, err)
	for i := range p.Steps {
		p.Steps[i].Attempts = 1
	}
	require.Equal(t, dr.RunFailed, w.do(p, nil).State)
	w.intercept(nil)
	require.Equal(t, dr.TestFailed, w.record().Test.State)
	require.Len(t, w.machines(away), 1)
	w.must(failover.CleanUp(w.record(), ""))
	require.Nil(t, w.record().Test)
	require.Empty(t, w.machines(away))
}

// A site that is needed later and gives no answer is found out before anything
// is stopped.
func TestNothingIsStoppedForASiteThatIsSilent(t *testing.T) {
	for _, f := range flows {
		var silent dr.MachineID
		switch f.name {
		case "cancel":
			silent = vm
		case "cancel of a failback", "planned, warm":
			silent = "awaymade-1"
		case "failback", "synchronize before", "synchronize during":
			silent = vm
		default:
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t, all, all)
			w.serve(nil)
			f.stage(w)
			on, had := w.running(), w.activeOn()
			var stopped atomic.Bool
			w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
				switch {
				case c.Op == backendtest.OpMachine && c.Machine == silent:
					return errNoAnswer
				case c.Op == backendtest.OpStop, c.Op == backendtest.OpShutdown:
					stopped.Store(true)
				}
				return do()
			})
			p, err := f.plan(w)
			require.NoError(t, err)
			for i := range p.Steps {
				p.Steps[i].Attempts = min(1, len(p.Steps[i].Action))
			}
			st := w.do(p, nil)
			w.intercept(nil)
			require.Equal(t, dr.RunFailed, st.State)
			require.False(t, stopped.Load(), st.Reason)
			require.Equal(t, on, w.running())
			w.same(had, w.activeOn())
		})
	}
}

package failback_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// The rules of the domain, by their names: what Azure Site Recovery's articles
// promise and forbid, and where this library does better.
var rules = []struct {
	rule  string
	stage func(*world)
	check func(*testing.T, *world)
}{
	{"test failover: a chosen point, isolated; production and replication untouched; cleaned up with notes", protected, func(t *testing.T, w *world) {
		first := w.firstPoint(away, vm)
		bytes := w.activeOn()
		w.must(failover.Test(w.record(), w.next(failover.FlowTest), failover.Options{Point: custom(first)}))
		at := w.record().Test.Place
		w.same(w.pointBytes(away, vm, first), w.disks(away, at.Machine))
		place, err := w.hosts[away].Placement(at.Machine)
		require.NoError(t, err)
		require.True(t, place.Isolated)
		w.scribble(away, at.Machine, 2)
		w.cycle()
		w.same(bytes, w.activeOn())
		require.Contains(t, w.record().Pins[first], "run/", "retention leaves the drill's point")
		st := w.must(failover.CleanUp(w.record(), "it came up"))
		require.Equal(t, "it came up", resultOf[failover.Cleaned](t, st, failover.StepFinish).Notes)
		require.Nil(t, w.record().Test)
		require.Empty(t, w.record().Pins)
		require.Equal(t, []dr.MachineID{vm}, append(w.machines(hq), w.machines(away)...))
	}},
	{"test failover: with a replica there already it makes a machine of its own", warm, func(t *testing.T, w *world) {
		w.must(failover.Test(w.record(), w.next(failover.FlowTest), failover.Options{}))
		require.NotEqual(t, w.record().Standby.Machine, w.record().Test.Place.Machine)
		w.must(failover.CleanUp(w.record(), ""))
	}},
	{"planned failover: shut down, last changes replicated, nothing lost", protected, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		rep := report(t, w.must(failover.Planned(w.record(), failover.Options{})))
		require.True(t, rep.Loss.None)
		require.Zero(t, rep.Loss.Unreplicated)
		require.Equal(t, "heartbeat", rep.Evidence.Kind)
		w.same(bytes, w.activeOn())
		require.Len(t, w.running(), 1)
	}},
	{"planned failover: the final point is found in a store that processes later", func(w *world) {
		w.stores[away] = memstore.New(memstore.Options{Deferred: true})
		w.end()
		w.open()
		w.serve(nil)
		w.protect()
		w.guest(3)
	}, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		w.must(failover.Planned(w.record(), failover.Options{}))
		w.same(bytes, w.activeOn())
	}},
	{"planned failover: doesn't run if the machine isn't shut down", protected, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[hq].Hang(vm, true))
		before := w.picture()
		st := w.do(failover.Planned(w.record(), failover.Options{ShutdownTimeout: time.Millisecond}))
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, "did not shut down within 1ms")
		require.Contains(t, st.Reason, "shut the guest down by hand and try again, or allow power off")
		require.Equal(t, before, w.picture())
		w.must(failover.Planned(w.record(), failover.Options{ShutdownTimeout: time.Millisecond, PowerOff: true}))
	}},
	{"planned failover: if it aborts the source runs again and replication resumes", protected, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		w.intercept(refuse(backendtest.OpProbe, backendtest.OpStart, "awaymade-1"))
		st := w.do(failover.Planned(w.record(), failover.Options{}))
		w.intercept(nil)
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, "start on target at site away, machine awaymade-1")
		w.same(bytes, w.activeOn())
		require.Equal(t, dr.On, w.power(hq, vm))
		require.Empty(t, w.machines(away))
		w.cycle()
	}},
	{"planned failover: refused while somebody runs the standby machine, before anything is shut down", warm, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[away].Power("awaymade-1", dr.On))
		before := w.picture()
		st := w.do(failover.Planned(w.record(), failover.Options{}))
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, "somebody started it: switch it off")
		require.Equal(t, before, w.picture())
	}},
	{"unplanned failover: with shutdown and last sync nothing is lost", protected, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		rep := report(t, w.must(failover.Unplanned(w.record(), failover.Options{Shutdown: true})))
		require.True(t, rep.Loss.None)
		w.same(bytes, w.activeOn())
	}},
	{"unplanned failover: goes on when the shutdown fails, with the last sync", protected, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[hq].Hang(vm, true))
		bytes := w.activeOn()
		rep := report(t, w.must(failover.Unplanned(w.record(), failover.Options{Shutdown: true, ShutdownTimeout: time.Millisecond})))
		require.False(t, rep.Loss.None, "it still runs, and may write")
		require.False(t, w.record().Failover.Stopped)
		w.same(bytes, w.activeOn())
	}},
	{"unplanned failover: a guest that shuts down too late is started again by cancelling", protected, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[hq].Hang(vm, true))
		w.must(failover.Unplanned(w.record(), failover.Options{Shutdown: true, ShutdownTimeout: time.Millisecond}))
		require.NoError(t, w.hosts[hq].Power(vm, dr.Off))
		w.must(failover.Cancel(w.record()))
		require.Equal(t, dr.On, w.power(hq, vm))
	}},
	{"unplanned failover: without shutdown the latest point, and the report says what was lost", protected, func(t *testing.T, w *world) {
		last := w.record().Last
		w.scribble(hq, vm, 5)
		rep := report(t, w.must(failover.Unplanned(w.record(), failover.Options{})))
		require.Equal(t, last.ID, rep.Point.ID)
		require.False(t, rep.Loss.None)
		require.Positive(t, rep.Loss.Unreplicated)
		require.Positive(t, rep.Loss.Age)
		w.same(w.pointBytes(away, vm, last.ID), w.activeOn())
	}},
	{"unplanned failover: runs when the site is lost at every call", protected, func(t *testing.T, w *world) {
		last := w.record().Last
		require.NoError(t, w.hosts[hq].Destroy(vm))
		rep := report(t, w.must(failover.Unplanned(w.record(), failover.Options{Shutdown: true})))
		require.EqualValues(t, -1, rep.Loss.Unreplicated, "nobody can tell")
		w.same(w.pointBytes(away, vm, last.ID), w.activeOn())
	}},
	{"unplanned failover: a replica that somebody has deleted is made again", warm, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[away].Destroy("awaymade-1"))
		bytes := w.activeOn()
		w.must(failover.Unplanned(w.record(), failover.Options{Shutdown: true}))
		require.Equal(t, dr.MachineID("awaymade-2"), w.record().Active.Machine)
		w.same(bytes, w.activeOn())
	}},
	{"change point: any point until the commit; going back to the last loses nothing again", failedOver, func(t *testing.T, w *world) {
		f := w.record().Failover
		require.True(t, f.Loss.None)
		first := w.firstPoint(away, vm)
		w.must(failover.ChangePoint(w.record(), custom(first), failover.Options{}))
		w.same(w.pointBytes(away, vm, first), w.activeOn())
		require.False(t, w.record().Failover.Loss.None)
		w.guest(2)
		w.must(failover.ChangePoint(w.record(), recoverypoint.Choice{}, failover.Options{}))
		w.same(w.pointBytes(away, vm, f.Point.ID), w.activeOn())
		require.True(t, w.record().Failover.Loss.None)
		require.Equal(t, map[dr.PointID]string{f.Point.ID: "failover"}, w.record().Pins)
	}},
	{"commit: all points are deleted, and the point can't be changed any more", failedOver, func(t *testing.T, w *world) {
		w.must(failover.Commit(w.record(), failover.CommitOptions{}))
		require.Empty(t, w.record().Pins)
		require.Empty(t, w.firstPoint(away, vm))
		_, err := failover.ChangePoint(w.record(), recoverypoint.Choice{}, failover.Options{})
		require.ErrorIs(t, err, dr.ErrNotAllowed)
		_, err = failover.Cancel(w.record())
		require.ErrorIs(t, err, dr.ErrNotAllowed)
	}},
	{"commit of a failback: the machine that was left is removed with its disks", failedBack, func(t *testing.T, w *world) {
		w.must(failover.Commit(w.record(), failover.CommitOptions{}))
		require.Empty(t, w.machines(away))
		require.Equal(t, dr.Place{Site: away}, w.record().Standby)
	}},
	{"cancel: the state before, and replication goes on", protected, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		w.must(failover.Planned(w.record(), failover.Options{}))
		w.guest(3)
		w.must(failover.Cancel(w.record()))
		require.Equal(t, dr.Protected, w.record().State)
		require.Equal(t, []dr.MachineID{vm}, w.running())
		w.same(bytes, w.activeOn())
		w.cycle()
		w.followed("after cancelling")
	}},
	{"cancel: if the former machine can't be started the other runs on", failedOver, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		require.NoError(t, w.hosts[hq].Destroy(vm))
		st := w.do(failover.Cancel(w.record()))
		require.Equal(t, dr.RunFailed, st.State)
		require.Equal(t, dr.FailedOver, w.record().State)
		require.Equal(t, []dr.MachineID{"awaymade-1"}, w.running())
		w.same(bytes, w.activeOn())
	}},
	{"reprotect, original location: changes on both sides are found, and only they travel", parted, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		st := w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
		require.Equal(t, dr.Off, w.power(hq, vm), "turned off, and stays off")
		r := resultOf[failback.Reprotected](t, st, failover.StepFinish)
		require.Less(t, r.First.Written, sizes["a"]+sizes["b"])
		require.Empty(t, r.First.Full)
		p := w.record()
		w.same(bytes, w.pointBytes(hq, p.Active.Machine, p.Last.ID))
		w.same(bytes, w.disks(hq, vm), "its disks are warm")
		require.Equal(t, p.Last.ID, p.Common.ID)
	}},
	{"reprotect, original location: refused if the machine is gone, naming the alternate", committed, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[hq].Destroy(vm))
		before := w.picture()
		st := w.do(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, "if it is gone, choose an alternate location")
		require.Equal(t, before, w.picture())
	}},
	{"reprotect, alternate location: the machine is made, with other name and networks; everything is copied", committed, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[hq].Destroy(vm))
		bytes := w.activeOn()
		w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{Alternate: true, Where: failover.Where{Name: "app1-new", Networks: map[string]string{"lan": "dmz"}}}))
		at := w.record().Standby
		require.NotEmpty(t, at.Key)
		place, err := w.hosts[hq].Placement(at.Machine)
		require.NoError(t, err)
		require.Equal(t, "app1-new", place.Name)
		require.Equal(t, map[string]string{"lan": "dmz"}, place.Networks)
		w.same(bytes, w.disks(hq, at.Machine))
		w.must(failback.Failback(w.record(), failback.Options{}))
		w.same(bytes, w.activeOn())
		require.True(t, w.record().AtHome())
	}},
	{"reprotect: disks that a cancelled failback has left half written are no base", committed, func(t *testing.T, w *world) {
		w.intercept(refuse(backendtest.OpCommit, backendtest.OpCommit, vm))
		st := w.do(failback.Failback(w.record(), failback.Options{Sync: failback.During}))
		w.intercept(nil)
		require.Equal(t, dr.RunFailed, st.State)
		require.ErrorIs(t, w.hosts[hq].Power(vm, dr.On), dr.ErrTorn)
		bytes := w.activeOn()
		w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
		w.same(bytes, w.disks(hq, vm))
		w.must(failback.Failback(w.record(), failback.Options{}))
		w.same(bytes, w.activeOn())
	}},
	{"failback: the latest point, shut down, nothing lost", reprotected, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		rep := report(t, w.must(failback.Failback(w.record(), failback.Options{Options: failover.Options{Point: recoverypoint.Choice{Option: recoverypoint.Latest}}})))
		require.True(t, rep.Loss.None)
		w.same(bytes, w.activeOn())
		require.Equal(t, []dr.MachineID{vm}, w.running())
	}},
	{"failback: the latest app-consistent point may be behind, and the report says so", reprotected, func(t *testing.T, w *world) {
		r, err := w.env.Replicate(t.Context(), pid, dr.ApplicationConsistent, nil)
		require.NoError(t, err)
		bytes := w.activeOn()
		w.guest(3)
		rep := report(t, w.must(failback.Failback(w.record(), failback.Options{Options: failover.Options{Point: recoverypoint.Choice{Option: recoverypoint.LatestApplicationConsistent}}})))
		require.Equal(t, r.Point.ID, rep.Point.ID)
		require.False(t, rep.Loss.None)
		w.same(bytes, w.activeOn())
	}},
	{"synchronize before: copied while it runs, then a person completes it", committed, func(t *testing.T, w *world) {
		p, err := failback.Failback(w.record(), failback.Options{Sync: failback.Before})
		require.NoError(t, err)
		run := w.start(p)
		w.until(run, failback.StepComplete)
		require.Equal(t, []dr.MachineID{"awaymade-1"}, w.running(), "it runs until somebody completes")
		caps, err := w.hosts[away].Captures("awaymade-1")
		require.NoError(t, err)
		require.Empty(t, caps, "no snapshot grows while a person thinks")
		w.guest(3)
		bytes := w.activeOn()
		require.NoError(t, w.engine.Decide(t.Context(), run, failback.StepComplete, dr.Decision{Verdict: dr.Approve, By: "anna"}))
		st := w.wait(run)
		require.Equal(t, dr.RunDone, st.State, st.Reason)
		w.same(bytes, w.activeOn())
		rep := report(t, st)
		require.True(t, rep.Loss.None)
		require.LessOrEqual(t, rep.Copied.Changed, int64(8*dr.SumBlock), "phase 2 copies what was written since phase 1")
	}},
	{"synchronize before: a person who rejects leaves the machine where it runs", committed, func(t *testing.T, w *world) {
		before, bytes := w.picture(), w.activeOn()
		p, err := failback.Failback(w.record(), failback.Options{Sync: failback.Before})
		require.NoError(t, err)
		run := w.start(p)
		w.until(run, failback.StepComplete)
		require.NoError(t, w.engine.Decide(t.Context(), run, failback.StepComplete, dr.Decision{Verdict: dr.Reject, By: "anna", Note: "not today"}))
		st := w.wait(run)
		require.Equal(t, dr.RunCancelled, st.State)
		require.Contains(t, st.Reason, "anna: not today")
		require.Equal(t, before, w.picture())
		w.same(bytes, w.activeOn())
	}},
	{"synchronize during: no sums are computed, everything is copied", committed, func(t *testing.T, w *world) {
		var sums, changes atomic.Int64
		w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
			switch c.Op {
			case backendtest.OpSums:
				sums.Add(1)
			case backendtest.OpChanges:
				changes.Add(1)
			}
			return do()
		})
		bytes := w.activeOn()
		rep := report(t, w.must(failback.Failback(w.record(), failback.Options{Sync: failback.During})))
		require.Zero(t, sums.Load())
		require.Zero(t, changes.Load())
		require.Equal(t, sizes["a"]+sizes["b"], rep.Copied.Changed)
		w.same(bytes, w.activeOn())
	}},
	{"reverse replicate: only deltas", home, func(t *testing.T, w *world) {
		bytes := w.activeOn()
		st := w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{Cold: true}))
		r := resultOf[replication.Report](t, st, failback.StepReplicate)
		require.Less(t, r.Read, int64(8*dr.SumBlock))
		p := w.record()
		w.same(bytes, w.pointBytes(away, vm, p.Last.ID))
	}},
	{"reverse replicate: a machine that ran after it was left is not taken for the common point", failedBack, func(t *testing.T, w *world) {
		require.NoError(t, w.hosts[away].Power("awaymade-1", dr.On))
		w.scribble(away, "awaymade-1", 6)
		require.NoError(t, w.hosts[away].Power("awaymade-1", dr.Off))
		w.must(failover.Commit(w.record(), failover.CommitOptions{}))
		bytes := w.activeOn()
		w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
		p := w.record()
		w.same(bytes, w.pointBytes(away, vm, p.Last.ID))
		w.same(bytes, w.disks(away, p.Standby.Machine))
	}},
	{"reprotect: a machine that runs between base and first point is not taken for the base", committed, func(t *testing.T, w *world) {
		p, err := failback.Reprotect(w.record(), failback.ReprotectOptions{})
		require.NoError(t, err)
		p, err = p.InsertAfter(failover.StepSeed, dr.Step{ID: "mistake", Action: "own.mistake@1"})
		require.NoError(t, err)
		bytes := w.activeOn()
		w.must(p, nil)
		w.same(bytes, w.disks(hq, vm), "the standby machine's disks")
	}},
	{"pins of several: one who lets go doesn't take the others' pin", reprotected, func(t *testing.T, w *world) {
		standby := w.record().Common.ID
		require.Contains(t, w.record().Pins, standby)
		w.must(failover.Test(w.record(), w.next(failover.FlowTest), failover.Options{Point: custom(standby)}))
		require.Contains(t, w.record().Pins[standby], "run/")
		w.must(failover.CleanUp(w.record(), ""))
		require.Equal(t, "standby", w.record().Pins[standby])
	}},
}

func TestRules(t *testing.T) {
	for _, r := range rules {
		t.Run(r.rule, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, all, memory.Options{})
			w.serve(dr.Actions{"own.mistake@1": func(context.Context, *dr.Call) (json.RawMessage, error) {
				if err := w.hosts[hq].Power(vm, dr.On); err != nil {
					return nil, err
				}
				if err := w.hosts[hq].Write(vm, "b", []byte("a stray guest"), 70000); err != nil {
					return nil, err
				}
				return nil, w.hosts[hq].Power(vm, dr.Off)
			}})
			r.stage(w)
			r.check(t, w)
		})
	}
}

func report(t *testing.T, st dr.Status) failover.Report {
	return resultOf[failover.Report](t, st, failover.StepFinish)
}

func custom(id dr.PointID) recoverypoint.Choice {
	return recoverypoint.Choice{Option: recoverypoint.Custom, Point: id}
}

func (w *world) firstPoint(store string, m dr.MachineID) dr.PointID {
	for q, err := range w.stores[store].List(w.t.Context(), m) {
		require.NoError(w.t, err)
		return q.ID
	}
	return ""
}

// refuse fails two methods of one machine.
func refuse(a, b backendtest.Op, m dr.MachineID) backendtest.Interceptor {
	return func(_ ctx, c backendtest.Call, do func() error) error {
		if c.Machine == m && (c.Op == a || c.Op == b) {
			return errors.New("refused")
		}
		return do()
	}
}

// until waits for a gate.
func (w *world) until(run dr.RunID, gate string) {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	defer stop()
	for st, err := range w.engine.Watch(ctx, run) {
		require.NoError(w.t, err)
		require.False(w.t, st.State.Ended(), "%s: %s", st.State, st.Reason)
		if s, ok := st.Step(gate); ok && s.State == dr.StepWaiting {
			return
		}
	}
}

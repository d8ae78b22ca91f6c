package hyperv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// away is a machine of a Hyper-V host that was failed over, committed, and has
// been written to since on the other side.
type away struct {
	*roundtriptest.Trip
	t       *testing.T
	s       *site
	id      dr.MachineID // there
	changed int64        // bytes written there, at most

	mu    sync.Mutex // of what follows; fail is called with it held
	fail  func(backendtest.Call) error
	calls int // of the host's backend since fail was set
}

// meet is at each call of the host's backend.
func (a *away) meet(c backendtest.Call) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail == nil {
		return nil
	}
	a.calls++
	return a.fail(c)
}

// watch has f called at each call from now on.
func (a *away) watch(f func(backendtest.Call) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail, a.calls = f, 0
}

func failedOver(t *testing.T) *away {
	a := &away{t: t, s: newSite(t, hypervtest.Options{})}
	h := a.s.harness()
	h.Backend = backendtest.Wrap(h.Backend, func(ctx context.Context, c backendtest.Call, do func() error) error {
		if err := a.meet(c); err != nil {
			return err
		}
		return do()
	})
	a.Trip = roundtriptest.New(t, roundtriptest.End{Name: "home", Harness: h}, memoryEnd(t, "far"))
	a.Must(replication.Protect(a.Record()))
	a.Home.Scribble(t, a.Machine, a.Disks[0], 8)
	a.Cycle()
	st := a.Must(failover.Planned(a.Record(), failover.Options{}))
	require.True(t, roundtriptest.Result[failover.Report](t, st, failover.StepFinish).Loss.None, "zero loss")
	a.Must(failover.Commit(a.Record(), failover.CommitOptions{}))
	for p, err := range a.Env.Sites["far"].Points.List(t.Context(), a.Machine) {
		require.NoError(t, err)
		require.Fail(t, "commit deletes all recovery points", "%s", p.ID)
	}
	a.id = a.Record().Active.Machine
	a.changed = a.Far.Scribble(t, a.id, a.Disks[0], 5)
	return a
}

// start begins a failback and waits until it is over, or asks the person.
func (a *away) start(run dr.RunID, sync failback.Sync) {
	p, err := failback.Failback(a.Record(), failback.Options{Sync: sync})
	require.NoError(a.t, err)
	require.NoError(a.t, a.Engine.Start(a.t.Context(), run, p))
}

func (a *away) asked(run dr.RunID) {
	_, err := dr.WaitUntil(a.t.Context(), a.Engine, run, func(st dr.Status) bool {
		s, ok := st.Step(failback.StepComplete)
		return st.State.Ended() || ok && s.State == dr.StepWaiting
	})
	require.NoError(a.t, err)
}

func (a *away) end(run dr.RunID, approve bool) dr.Status {
	if approve {
		a.asked(run)
		_ = a.Engine.Decide(a.t.Context(), run, failback.StepComplete, dr.Decision{Verdict: dr.Approve, By: "anna"})
	}
	st, err := dr.Wait(a.t.Context(), a.Engine, run, nil)
	require.NoError(a.t, err)
	return st
}

// Synchronize before the failover: the snapshot is copied while the machine runs;
// a person completes; only what has changed since travels in the downtime.
func TestSynchronizeBefore(t *testing.T) {
	a := failedOver(t)
	a.start("before", failback.Before)
	a.asked("before")
	m, err := a.Far.Backend.Machine(t.Context(), a.id)
	require.NoError(t, err)
	require.Equal(t, dr.On, m.Power, "it runs there during the first phase")
	late := a.Far.Scribble(t, a.id, a.Disks[1], 3)
	st := a.end("before", true)
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	first := roundtriptest.Result[failover.Copied](t, st, failback.StepFirst)
	last := roundtriptest.Result[failover.Copied](t, st, failover.StepCopy)
	require.LessOrEqual(t, first.Report.Written, a.changed, "to the original only changes travel")
	require.LessOrEqual(t, last.Report.Written, late, "in the downtime only what has changed since")
	require.NotZero(t, last.Report.Written)
	a.home()
}

// Synchronize during the failover only: everything is downloaded, and no sums are
// calculated.
func TestSynchronizeDuring(t *testing.T) {
	a := failedOver(t)
	sums := 0
	a.watch(func(c backendtest.Call) error {
		if c.Op == backendtest.OpSums {
			sums++
		}
		return nil
	})
	a.start("during", failback.During)
	st := a.end("during", false)
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	a.watch(nil)
	last := roundtriptest.Result[failover.Copied](t, st, failover.StepCopy)
	require.Zero(t, sums, "no checksums")
	require.Equal(t, a.Disks[0].Size+a.Disks[1].Size, last.Report.Written+last.Report.Zeroed, "a plain download")
	a.home()
}

// home requires that the machine runs at home with all that it had away, and
// replicates again, by deltas only.
func (a *away) home() {
	require.True(a.t, a.Record().AtHome())
	roundtriptest.Same(a.t, a.Far.Content(a.t, a.id, a.Disks), a.Home.Content(a.t, a.Machine, a.Disks), "failed back")
	a.Must(failover.Commit(a.Record(), failover.CommitOptions{}))
	changed := a.Home.Scribble(a.t, a.Machine, a.Disks[1], 2)
	st := a.Must(failback.Reprotect(a.Record(), failback.ReprotectOptions{}))
	again := roundtriptest.Result[failback.Reprotected](a.t, st, failover.StepFinish)
	require.LessOrEqual(a.t, again.First.Read, changed+a.changed, "reverse replication sends deltas")
}

// A synchronization that is cancelled, or fails for good, at any call to the host:
// its machine is as it was or clearly torn, and nobody can start it half written,
// by whatever tool. Then it is done again, and succeeds.
func TestACancelledSynchronizationCorruptsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	torn := 0
	for _, sync := range []failback.Sync{failback.Before, failback.During} {
		for _, how := range []string{"cancelled", "failed"} {
			for n := 1; ; n += 11 {
				a := failedOver(t)
				was := a.Home.Content(t, a.Machine, a.Disks)
				run := dr.RunID("cut-off")
				struck := false
				a.watch(func(c backendtest.Call) error {
					if struck || a.calls != n {
						return nil
					}
					struck = true
					if how == "failed" {
						return dr.Permanent(errors.New("the host gave up"))
					}
					return a.Engine.Cancel(context.Background(), run, "a person changed their mind")
				})
				a.start(run, sync)
				st := a.end(run, sync == failback.Before)
				a.watch(nil)
				if !struck {
					require.Equal(t, dr.RunDone, st.State, st.Reason)
					break
				}
				what := fmt.Sprintf("synchronize %s, %s at call %d", sync, how, n)
				vm, err := a.s.vm(a.Machine)
				require.NoError(t, err)
				if st.State != dr.RunDone {
					require.False(t, a.Record().AtHome(), what)
					if vm.Start() != nil {
						torn++
					} else {
						got := a.Home.Content(t, a.Machine, a.Disks)
						now := a.Far.Content(t, a.id, a.Disks)
						require.True(t, equalContent(got, was) || equalContent(got, now), "%s: a mixture could be started", what)
						vm.PowerOff()
					}
					st = a.restart(sync)
					require.Equal(t, dr.RunDone, st.State, "%s: %s", what, st.Reason)
				}
				a.home()
			}
		}
	}
	require.NotZero(t, torn, "some leave it torn")
}

func (a *away) restart(sync failback.Sync) dr.Status {
	a.start("again", sync)
	return a.end("again", sync == failback.Before)
}

func equalContent(a, b map[dr.DiskID][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return string(x) == string(y) })
}

// The failover doesn't run if the machine isn't shut down, or if errors occur; it
// goes on running then, and replicating. With a guest that is well it runs.
func TestPlannedFailoverDoesNotRunWithoutShutdown(t *testing.T) {
	const patience = 300 * time.Millisecond
	for name, c := range map[string]struct {
		guest func(*hypervtest.Guest)
		why   string // "": it runs
	}{
		"the guest is well":   {guest: func(*hypervtest.Guest) {}},
		"the guest hangs":     {func(g *hypervtest.Guest) { g.Shutdown = hypervtest.ShutdownHangs }, "is not off"},
		"the guest is locked": {func(g *hypervtest.Guest) { g.Shutdown = hypervtest.ShutdownLocked }, "the guest is locked"},
		"the guest says no":   {func(g *hypervtest.Guest) { g.Shutdown = hypervtest.ShutdownFails }, "InitiateShutdown"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, hypervtest.Options{})
			tr := roundtriptest.New(t, roundtriptest.End{Name: "home", Harness: s.harness()}, memoryEnd(t, "far"))
			tr.Must(replication.Protect(tr.Record()))
			vm, err := s.vm(tr.Machine)
			require.NoError(t, err)
			vm.SetGuest(c.guest)
			timeout := time.Minute
			if c.why != "" {
				timeout = patience
			}
			p, err := failover.Planned(tr.Record(), failover.Options{ShutdownTimeout: timeout})
			require.NoError(t, err)
			require.NoError(t, tr.Engine.Start(t.Context(), "planned", p))
			st, err := dr.Wait(t.Context(), tr.Engine, "planned", nil)
			require.NoError(t, err)
			if c.why == "" {
				require.Equal(t, dr.RunDone, st.State, st.Reason)
				require.False(t, vm.Running())
				return
			}
			require.NotEqual(t, dr.RunDone, st.State)
			require.Contains(t, fmt.Sprintf("%s %+v", st.Reason, st.Steps), c.why)
			require.Equal(t, dr.Protected, tr.Record().State)
			require.True(t, vm.Running(), "it runs on")
			tr.Home.Scribble(t, tr.Machine, tr.Disks[0], 1)
			tr.Cycle()
		})
	}
}

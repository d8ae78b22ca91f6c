package failback_test

import (
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Stages bring a fresh world to where flows begin.

func unprotected(w *world) { w.enroll() }

func protected(w *world) {
	w.protect()
	w.scribble(hq, vm, 3)
	w.cycle()
	w.scribble(hq, vm, 3)
}

// warm: there is a replica already, because a failover was cancelled.
func warm(w *world) {
	protected(w)
	w.must(failover.Planned(w.record(), failover.Options{ShutdownTimeout: patience}))
	w.guest(2)
	w.must(failover.Cancel(w.record()))
	w.guest(2)
	w.cycle()
	w.guest(2)
}

func drilled(w *world) {
	protected(w)
	w.must(failover.Test(w.record(), w.next(failover.FlowTest), failover.Options{}))
}

func failedOver(w *world) {
	protected(w)
	w.must(failover.Planned(w.record(), failover.Options{ShutdownTimeout: patience}))
	w.guest(3)
}

func failedOverRunning(w *world) {
	protected(w)
	w.must(failover.Unplanned(w.record(), failover.Options{}))
	w.guest(3)
	w.scribble(hq, vm, 3) // nobody has stopped it
}

func committed(w *world) {
	failedOver(w)
	w.must(failover.Commit(w.record(), failover.CommitOptions{}))
	w.guest(3)
}

// parted: both sides have written since their common point, and both run.
func parted(w *world) {
	committed(w)
	if err := w.hosts[hq].Power(vm, dr.On); err != nil {
		panic(err)
	}
	w.scribble(hq, vm, 4)
}

func reprotected(w *world) {
	parted(w)
	w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
	w.guest(3)
	w.cycle()
	w.guest(3)
}

func failedBack(w *world) {
	reprotected(w)
	w.must(failback.Failback(w.record(), failback.Options{Options: failover.Options{ShutdownTimeout: patience}}))
	w.guest(3)
}

func home(w *world) {
	failedBack(w)
	w.must(failover.Commit(w.record(), failover.CommitOptions{}))
	w.guest(3)
}

// guest writes on the active side.
func (w *world) guest(n int) int64 {
	w.t.Helper()
	a := w.active()
	return w.scribble(a.Site, a.Machine, n)
}

type flow struct {
	name  string
	stage func(*world)
	plan  func(*world) (dr.Plan, error)
	// whole are the stopped machines whose bytes have to come back when the
	// flow is taken back.
	whole []dr.MachineID
	// gives up what the guest wrote since the failover, once the disks have
	// been written to.
	gives string
	// lossless: afterwards the machine has exactly the bytes from before.
	lossless bool
}

// flows are all that there are, from wherever they may begin.
var flows = []flow{
	{name: "protect", stage: unprotected, plan: func(w *world) (dr.Plan, error) { return replication.Protect(w.record()) }, lossless: true},
	{name: "unprotect", stage: warm, plan: func(w *world) (dr.Plan, error) { return replication.Unprotect(w.record()) }, lossless: true},
	{name: "test", stage: protected, plan: func(w *world) (dr.Plan, error) {
		return failover.Test(w.record(), w.next(failover.FlowTest), failover.Options{})
	}, lossless: true},
	{name: "clean-up", stage: drilled, plan: func(w *world) (dr.Plan, error) { return failover.CleanUp(w.record(), "fine") }, lossless: true},
	{name: "planned", stage: protected, plan: func(w *world) (dr.Plan, error) {
		return failover.Planned(w.record(), failover.Options{ShutdownTimeout: patience})
	}, lossless: true},
	{name: "planned, warm", stage: warm, plan: func(w *world) (dr.Plan, error) {
		return failover.Planned(w.record(), failover.Options{ShutdownTimeout: patience})
	}, lossless: true},
	{name: "unplanned", stage: protected, plan: func(w *world) (dr.Plan, error) { return failover.Unplanned(w.record(), failover.Options{}) }},
	{name: "unplanned, shutdown, warm", stage: warm, plan: func(w *world) (dr.Plan, error) {
		return failover.Unplanned(w.record(), failover.Options{Shutdown: true, ShutdownTimeout: patience})
	}},
	{name: "change point", stage: failedOver, gives: failover.StepHydrate, plan: func(w *world) (dr.Plan, error) {
		return failover.ChangePoint(w.record(), recoverypoint.Choice{Option: recoverypoint.Custom, Point: w.oldest()}, failover.Options{})
	}},
	{name: "commit", stage: failedOver, plan: func(w *world) (dr.Plan, error) {
		return failover.Commit(w.record(), failover.CommitOptions{})
	}, lossless: true},
	{name: "commit at home", stage: failedBack, whole: []dr.MachineID{"awaymade-1"}, plan: func(w *world) (dr.Plan, error) {
		return failover.Commit(w.record(), failover.CommitOptions{})
	}, lossless: true},
	{name: "cancel", stage: failedOver, plan: func(w *world) (dr.Plan, error) { return failover.Cancel(w.record()) }},
	{name: "cancel, both run", stage: failedOverRunning, plan: func(w *world) (dr.Plan, error) { return failover.Cancel(w.record()) }},
	{name: "cancel of a failback", stage: failedBack, plan: func(w *world) (dr.Plan, error) { return failover.Cancel(w.record()) }},
	{name: "reprotect original", stage: parted, whole: []dr.MachineID{vm}, plan: func(w *world) (dr.Plan, error) {
		return failback.Reprotect(w.record(), failback.ReprotectOptions{})
	}, lossless: true},
	{name: "reprotect alternate", stage: parted, whole: []dr.MachineID{vm}, plan: func(w *world) (dr.Plan, error) {
		return failback.Reprotect(w.record(), failback.ReprotectOptions{Alternate: true})
	}, lossless: true},
	{name: "reverse replicate", stage: home, plan: func(w *world) (dr.Plan, error) {
		return failback.Reprotect(w.record(), failback.ReprotectOptions{})
	}, lossless: true},
	{name: "failback", stage: reprotected, plan: func(w *world) (dr.Plan, error) {
		return failback.Failback(w.record(), failback.Options{Options: failover.Options{ShutdownTimeout: patience}})
	}, lossless: true},
	{name: "synchronize before", stage: committed, plan: func(w *world) (dr.Plan, error) {
		return failback.Failback(w.record(), failback.Options{Sync: failback.Before, Options: failover.Options{ShutdownTimeout: patience}})
	}, lossless: true},
	{name: "synchronize during", stage: reprotected, plan: func(w *world) (dr.Plan, error) {
		return failback.Failback(w.record(), failback.Options{Sync: failback.During, Options: failover.Options{ShutdownTimeout: patience}})
	}, lossless: true},
	{name: "synchronize before, alternate", stage: committed, whole: []dr.MachineID{vm}, plan: func(w *world) (dr.Plan, error) {
		return failback.Failback(w.record(), failback.Options{Sync: failback.Before, Alternate: true, Options: failover.Options{ShutdownTimeout: patience}})
	}, lossless: true},
}

// next is the name that the next run will have.
func (w *world) next(flow string) dr.RunID { return runID(w.runs+1, flow) }

// oldest is the first recovery point that the machine can run from.
func (w *world) oldest() dr.PointID {
	p := w.record()
	for q, err := range w.stores[p.Active.Site].List(w.t.Context(), p.Standby.Machine) {
		if err != nil {
			panic(err)
		}
		if !q.Base {
			return q.ID
		}
	}
	return ""
}

var all = memory.Options{}

// patience is how long guests are given to shut down, and how long a flow that
// is taken back waits whether one still does.
const patience = 2 * time.Second

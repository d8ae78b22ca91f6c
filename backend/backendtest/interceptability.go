package backendtest

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Each type here intercepts one ability and has no other: which of them stand
// before a value is decided by what the value can do.

type link struct{ next any }

func (l link) Unwrap() any { return l.next }

type lister struct {
	link
	backend.Lister
	around Interceptor
}

func (a lister) Machines(ctx context.Context) iter.Seq2[dr.Machine, error] {
	return sequence(ctx, a.around, Call{Op: OpMachines}, func() iter.Seq2[dr.Machine, error] { return a.Lister.Machines(ctx) })
}

type shutdowner struct {
	link
	backend.Shutdowner
	around Interceptor
}

func (a shutdowner) Shutdown(ctx context.Context, id dr.MachineID) error {
	return a.around(ctx, Call{Op: OpShutdown, Machine: id}, func() error { return a.Shutdowner.Shutdown(ctx, id) })
}

type quiescer struct {
	link
	backend.Quiescer
	around Interceptor
}

func (a quiescer) Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	var got dr.Consistency
	var thaw func(context.Context) error
	err := a.around(ctx, Call{Op: OpQuiesce, Machine: id}, func() (err error) {
		got, thaw, err = a.Quiescer.Quiesce(ctx, id, want)
		return err
	})
	if err != nil {
		if thaw != nil {
			_ = thaw(ctx) // the caller has nothing to thaw with
		}
		return 0, nil, err
	}
	return got, func(ctx context.Context) error {
		return a.around(ctx, Call{Op: OpThaw, Machine: id}, func() error { return thaw(ctx) })
	}, nil
}

type sweeper struct {
	link
	backend.Sweeper
	around Interceptor
}

func (a sweeper) Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	return result(ctx, a.around, Call{Op: OpSweep, Machine: id}, func() ([]dr.PointID, error) { return a.Sweeper.Sweep(ctx, id, keep) })
}

type forgetter struct {
	link
	backend.Forgetter
	around Interceptor
}

func (a forgetter) Forget(ctx context.Context, id dr.MachineID, before dr.PointID) error {
	return a.around(ctx, Call{Op: OpForget, Machine: id, Point: before}, func() error { return a.Forgetter.Forget(ctx, id, before) })
}

type prober struct {
	link
	backend.Prober
	around Interceptor
}

func (a prober) Probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	return result(ctx, a.around, Call{Op: OpProbe, Machine: id}, func() (backend.Evidence, error) { return a.Prober.Probe(ctx, id) })
}

type preflighter struct {
	link
	backend.Preflighter
	around Interceptor
}

func (a preflighter) Preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	return result(ctx, a.around, Call{Op: OpPreflight, Machine: id}, func() ([]backend.Problem, error) { return a.Preflighter.Preflight(ctx, id) })
}

type networkLister struct {
	link
	backend.NetworkLister
	around Interceptor
}

func (a networkLister) Networks(ctx context.Context) ([]backend.Network, error) {
	return result(ctx, a.around, Call{Op: OpNetworks}, func() ([]backend.Network, error) { return a.NetworkLister.Networks(ctx) })
}

type summer struct {
	link
	dr.Summer
	around Interceptor
	of     Call
}

func (a summer) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	c := a.of.at(OpSums, disk, off, int64(len(sums))*dr.SumBlock)
	return a.around(ctx, c, func() error { return a.Summer.Sums(ctx, disk, off, sums) })
}

// at is a call on the same image or draft.
func (c Call) at(op Op, disk dr.DiskID, off, n int64) Call {
	c.Op, c.Disk, c.Off, c.Len = op, disk, off, n
	return c
}

package memory

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Each type here is one ability and nothing else. dr.As follows Unwrap from
// one to the next, so a chain of them is a set of abilities that is chosen
// when the value is made: what Options switch off isn't in the chain.

type link struct{ next any }

func (l link) Unwrap() any { return l.next }

func (b *Backend) chain() any {
	var c any
	if !b.opts.NoList {
		c = lister{link{c}, b}
	}
	if !b.opts.NoShutdown {
		c = shutdowner{link{c}, b}
	}
	if !b.opts.NoQuiesce {
		c = quiescer{link{c}, b}
	}
	if !b.opts.NoSweep {
		c = sweeper{link{c}, b}
	}
	if !b.opts.NoProbe {
		c = prober{link{c}, b}
	}
	if !b.opts.NoInspect {
		c = inspector{link{c}, b}
	}
	if !b.opts.NoPreflight {
		c = preflighter{link{c}, b}
	}
	if !b.opts.NoRoom {
		c = roomer{link{c}, b}
	}
	if !b.opts.NoNetworks {
		c = networkLister{link{c}, b}
	}
	return c
}

func (i *image) chain() any {
	var c any
	if !i.b.opts.NoTracker {
		c = changeTracker{link{c}, i}
	}
	if !i.b.opts.NoMap {
		c = mapper{link{c}, i}
	}
	if !i.b.opts.NoSums {
		c = summer{link{c}, i.sums}
	}
	return c
}

func (d *draft) chain() any {
	var c any
	if !d.b.opts.NoZero {
		c = zeroer{link{c}, d}
	}
	if !d.b.opts.NoResume {
		c = resumer{link{c}, d}
	}
	if !d.b.opts.NoSums {
		c = summer{link{c}, d.sums}
	}
	return c
}

type changeTracker struct {
	link
	img *image
}

func (c changeTracker) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return c.img.changes(ctx, disk, since)
}

type mapper struct {
	link
	img *image
}

func (m mapper) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return m.img.extents(ctx, disk)
}

type summer struct {
	link
	sums func(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error
}

func (s summer) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	return s.sums(ctx, disk, off, sums)
}

type zeroer struct {
	link
	d *draft
}

func (z zeroer) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	return z.d.zero(ctx, disk, off, n)
}

type resumer struct {
	link
	d *draft
}

func (r resumer) Durable(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return r.d.durable(ctx, disk)
}

type lister struct {
	link
	b *Backend
}

func (l lister) Machines(ctx context.Context) iter.Seq2[dr.Machine, error] {
	return func(yield func(dr.Machine, error) bool) {
		if err := l.b.enter(ctx, OpMachines); err != nil {
			yield(dr.Machine{}, err)
			return
		}
		for _, m := range l.b.all() {
			m.mu.Lock()
			d, err := m.describe(), m.gone("list")
			m.mu.Unlock()
			if err == nil && !yield(d, ctx.Err()) {
				return
			}
		}
	}
}

type preflighter struct {
	link
	b *Backend
}

func (f preflighter) Preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	return f.b.preflight(ctx, id)
}

type networkLister struct {
	link
	b *Backend
}

func (n networkLister) Networks(ctx context.Context) ([]backend.Network, error) {
	return n.b.listNetworks(ctx)
}

type inspector struct {
	link
	b *Backend
}

func (i inspector) Inspect(ctx context.Context, id dr.MachineID) (backend.Facts, error) {
	return i.b.inspect(ctx, id)
}

type prober struct {
	link
	b *Backend
}

func (p prober) Probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	return p.b.probe(ctx, id)
}

type shutdowner struct {
	link
	b *Backend
}

func (s shutdowner) Shutdown(ctx context.Context, id dr.MachineID) error {
	return s.b.shutdown(ctx, id)
}

type quiescer struct {
	link
	b *Backend
}

func (q quiescer) Quiesce(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	return q.b.quiesce(ctx, id, want)
}

type sweeper struct {
	link
	b *Backend
}

func (s sweeper) Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	return s.b.sweep(ctx, id, keep)
}

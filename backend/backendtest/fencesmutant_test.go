package backendtest

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// bare is a context from which nothing can be had but when it ends.
type bare struct{ context.Context }

func (bare) Value(any) any { return nil }

// Each of these ignores the fences of one call, or remembers less than it must.
var fencesMutants = []mutant{
	{"ignores fences when starting", func(l *liar, b *memory.Backend, _ *Harness) {
		l.start = func(ctx context.Context, id dr.MachineID) error { return b.Start(bare{ctx}, id) }
	}, []string{"Fences/lower epoch is refused, and nothing happens", "Fences/whatever was called under the higher epoch", "Fences/an original remembers"}},

	{"ignores fences when stopping", func(l *liar, b *memory.Backend, _ *Harness) {
		l.stop = func(ctx context.Context, id dr.MachineID) error { return b.Stop(bare{ctx}, id) }
	}, []string{"Fences/a running machine runs on", "Fences/lower epoch is refused, and nothing happens"}},

	{"ignores fences when removing", func(l *liar, b *memory.Backend, _ *Harness) {
		l.remove = func(ctx context.Context, id dr.MachineID) error { return b.Remove(bare{ctx}, id) }
	}, []string{"Fences/lower epoch is refused, and nothing happens", "Fences/a running machine runs on"}},

	{"ignores fences when preparing", func(l *liar, b *memory.Backend, _ *Harness) {
		l.prepare = func(ctx context.Context, p backend.Placement) (backend.Replica, error) {
			return b.Prepare(bare{ctx}, p)
		}
	}, []string{"Fences/prepare that makes it remembers", "Fences/an original remembers"}},

	{"ignores fences when drafting", func(l *liar, b *memory.Backend, _ *Harness) {
		l.draft = func(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
			return b.Draft(bare{ctx}, id, p)
		}
	}, []string{"Fences/a draft that was passed over is not committed", "Fences/lower epoch is refused, and nothing happens"}},

	{"does what is to be done before it asks", func(l *liar, b *memory.Backend, _ *Harness) {
		l.start = func(ctx context.Context, id dr.MachineID) error {
			_ = b.Start(bare{ctx}, id)
			return b.Start(ctx, id)
		}
	}, []string{"Fences/lower epoch is refused, and nothing happens"}},

	{"stop has nothing to do, and remembers nothing", func(l *liar, b *memory.Backend, _ *Harness) {
		l.stop = func(ctx context.Context, id dr.MachineID) error {
			if m, err := b.Machine(ctx, id); err == nil && m.Power == dr.Off && ctx.Err() == nil {
				return nil
			}
			return b.Stop(ctx, id)
		}
	}, []string{"Fences/lower epoch is refused, and nothing happens", "Fences/a draft that was passed over is not committed"}},

	{"takes the newest caller's epoch, whatever it is", func(l *liar, b *memory.Backend, _ *Harness) {
		l.stop = func(ctx context.Context, id dr.MachineID) error {
			if len(dr.Fences(ctx)) > 1 {
				return b.Stop(bare{ctx}, id)
			}
			return b.Stop(ctx, id)
		}
	}, []string{"Fences/resources are independent"}},

	{"refuses whoever has no fences", func(l *liar, b *memory.Backend, _ *Harness) {
		fenced := map[dr.MachineID]bool{}
		l.stop = func(ctx context.Context, id dr.MachineID) error {
			fenced[id] = fenced[id] || len(dr.Fences(ctx)) > 0
			return b.Stop(ctx, id)
		}
		l.start = func(ctx context.Context, id dr.MachineID) error {
			if fenced[id] && len(dr.Fences(ctx)) == 0 {
				return dr.ErrFenced
			}
			return b.Start(ctx, id)
		}
	}, []string{"Fences/calls without fences are admitted, and lower nothing"}},
}

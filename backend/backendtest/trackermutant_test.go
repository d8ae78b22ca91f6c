package backendtest

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// trackerMutants lie about what changed.
var trackerMutants = []mutant{
	{"loses a change", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.changesAs(func(_ dr.Point, xs []dr.Extent) []dr.Extent {
			if len(xs) > 0 {
				return xs[:len(xs)-1]
			}
			return xs
		})
	}, []string{"Changes/are all that was written and little else", "Changes/since a committed draft", "Changes/of one block written again and again"}},

	{"cuts a change short by a sector", func(l *liar, _ *memory.Backend, h *Harness) {
		l.changesAs(func(_ dr.Point, xs []dr.Extent) []dr.Extent {
			for i := range xs {
				if xs[i].Len > 512 {
					xs[i].Len -= 512
				}
			}
			return xs
		})
	}, []string{"Changes/of a disk that grew include its new part"}},

	{"reports a change one epoch late", func(l *liar, b *memory.Backend, _ *Harness) {
		// What the first capture sees is what the one before it should have.
		l.capture = func(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
			captures, _ := b.Captures(id)
			img, err := b.Capture(ctx, id, name, want)
			if err != nil || slices.Contains(captures, name) {
				return img, err
			}
			i := &lyingImage{Image: img}
			i.changes = func(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
				if slices.Contains(captures, since.ID) && len(captures) > 0 && since.ID == captures[len(captures)-1] {
					return func(func(dr.Extent, error) bool) {} // it will come with the next one
				}
				return i.honest(ctx, disk, since)
			}
			return i, nil
		}
	}, []string{"Changes/are never late", "Changes/over stops and starts"}},

	{"reports every change twice, in the next epoch too", func(l *liar, b *memory.Backend, _ *Harness) {
		var mu sync.Mutex
		last := map[dr.DiskID][]dr.Extent{}
		l.images(func(i *lyingImage) {
			i.changes = func(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
				return func(yield func(dr.Extent, error) bool) {
					var xs []dr.Extent
					for x, err := range i.honest(ctx, disk, since) {
						if err != nil {
							yield(x, err)
							return
						}
						xs = append(xs, x)
					}
					key := disk + dr.DiskID(i.Point().Machine.ID)
					mu.Lock()
					say := xs
					if len(xs) == 0 {
						say = last[key]
					}
					last[key] = xs
					mu.Unlock()
					for _, x := range say {
						x.Zero = false
						if !yield(x, nil) {
							return
						}
					}
				}
			}
		})
	}, []string{"Changes/are all that was written and little else"}},

	{"tells changes out of order", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.changesAs(func(_ dr.Point, xs []dr.Extent) []dr.Extent {
			slices.Reverse(xs)
			return xs
		})
	}, []string{"Changes/are all that was written and little else"}},

	{"tells changes that overlap", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.changesAs(func(_ dr.Point, xs []dr.Extent) []dr.Extent {
			return append(xs, xs...)
		})
	}, []string{"Changes/are all that was written and little else"}},

	{"tells changes beyond the end", func(l *liar, _ *memory.Backend, h *Harness) {
		h.Granularity = 0
		l.changesAs(func(_ dr.Point, xs []dr.Extent) []dr.Extent {
			for i := range xs {
				xs[i].Len = (xs[i].Len + 65535) / 65536 * 65536
			}
			return xs
		})
	}, []string{"Changes/are all that was written and little else"}},

	{"calls changed data zero", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.changesAs(func(_ dr.Point, xs []dr.Extent) []dr.Extent {
			for i := range xs {
				xs[i].Zero = true
			}
			return xs
		})
	}, []string{"Changes/are all that was written and little else"}},

	{"guesses where changes are lost", func(l *liar, _ *memory.Backend, _ *Harness) {
		l.images(func(i *lyingImage) {
			i.changes = func(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
				return func(yield func(dr.Extent, error) bool) {
					for x, err := range i.honest(ctx, disk, since) {
						if err != nil || !yield(x, err) {
							return // nothing changed, surely
						}
					}
				}
			}
		})
	}, []string{"Changes/since an unknown point are lost, first and only", "Changes/that the tracker lost are lost, first and only"}},
}

package remote

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// draft is one that is open at the agent, for as long as the session lasts.
type draft struct {
	c       *Client
	w       *wire
	handle  uint64
	machine dr.MachineID
	point   dr.PointID
	sizes   map[dr.DiskID]int64 // as far as they are known
	chain   any
	shut    atomic.Bool
}

func newDraft(c *Client, w *wire, m dr.MachineID, p dr.PointID, o opened) *draft {
	d := &draft{c: c, w: w, handle: o.Handle, machine: m, point: p, sizes: map[dr.DiskID]int64{}}
	for _, x := range o.Disks {
		d.sizes[x.ID] = x.Size
	}
	add := func(name string, make func(ofDraft) any) {
		if slices.Contains(o.Abilities, name) {
			d.chain = make(ofDraft{link{d.chain}, d})
		}
	}
	add(canZero, func(o ofDraft) any { return zeroer{o} })
	add(canDurable, func(o ofDraft) any { return resumer{o} })
	add(canSums, func(o ofDraft) any { return draftSummer{o} })
	add(canPacked, func(o ofDraft) any { return packer{o} })
	return d
}

type ofDraft struct {
	link
	d *draft
}

type (
	zeroer      struct{ ofDraft }
	resumer     struct{ ofDraft }
	draftSummer struct{ ofDraft }
	packer      struct{ ofDraft }
)

// Unwrap shows the draft's abilities to dr.As.
func (d *draft) Unwrap() any { return d.chain }

func (d *draft) do(op agentwire.Op, disk dr.DiskID, off int64, f func() error) error {
	err := error(fs.ErrClosed)
	if !d.shut.Load() {
		err = f()
	}
	return place(op, d.machine, d.point, disk, off, err)
}

// WriteAt implements dr.Draft.
func (d *draft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	// What is too long for one call must not be written in part.
	if size, ok := d.sizes[disk]; ok && len(p) > agentwire.MaxBulk && (off < 0 || off > size || int64(len(p)) > size-off) {
		return 0, place(agentwire.OpWrite, d.machine, d.point, disk, off, fmt.Errorf("%w: %d bytes, and the disk has %d", dr.ErrOutOfRange, len(p), size))
	}
	return pieces(p, off, func(p []byte, off int64) (int, error) {
		err := d.do(agentwire.OpWrite, disk, off, func() error { return d.w.writeAt(ctx, d.handle, disk, p, off) })
		if err != nil {
			return 0, err
		}
		return len(p), nil
	})
}

// Commit implements dr.Draft. If the connection is lost meanwhile, Prepare tells
// in Holds whether it was done.
func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	return d.do(agentwire.OpCommit, "", -1, func() error {
		_, err := ask[any](ctx, d.w, agentwire.OpCommit, d.handle, argument{Point: &p})
		return err
	})
}

// Close implements dr.Draft. Where the connection is lost the agent has closed
// it.
func (d *draft) Close() error {
	if d.shut.Swap(true) {
		return nil
	}
	return place(agentwire.OpClose, d.machine, d.point, "", -1, closeHandle(d.w, d.handle))
}

// Zero implements dr.Zeroer.
func (z zeroer) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	d := z.d
	if n < 0 {
		return place(agentwire.OpZero, d.machine, d.point, disk, off, dr.ErrInvalid)
	}
	return d.do(agentwire.OpZero, disk, off, func() error {
		_, err := d.w.span(ctx, agentwire.OpZero, d.handle, agentwire.Span{Off: off, N: n, Disk: disk})
		return err
	})
}

// Durable implements dr.Resumer.
func (r resumer) Durable(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	d := r.d
	return func(yield func(dr.Extent, error) bool) {
		left := false
		err := d.do(agentwire.OpDurable, disk, -1, func() error {
			return d.w.extents(ctx, agentwire.OpDurable, d.handle, argument{Disk: disk}, func(e dr.Extent) bool {
				left = !yield(e, nil)
				return !left
			})
		})
		if err != nil && !left {
			yield(dr.Extent{}, err)
		}
	}
}

// Sums implements dr.Summer.
func (s draftSummer) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	d := s.d
	return d.do(agentwire.OpSums, disk, off, func() error { return d.w.sums(ctx, d.handle, disk, off, sums) })
}

// Packed implements dr.Packer.
func (p packer) Packed(ctx context.Context, disk dr.DiskID, off int64, sizes []int32) error {
	d := p.d
	return d.do(agentwire.OpPacked, disk, off, func() error { return d.w.packed(ctx, d.handle, disk, off, sizes) })
}

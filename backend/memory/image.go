package memory

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"maps"
	"sync/atomic"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// handle is what an orchestrator's process holds open. It dies with it.
type handle struct {
	b      *Backend
	life   uint64
	closed atomic.Bool
}

func (h *handle) alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.closed.Load() || h.life != h.b.life.Load() {
		return fs.ErrClosed
	}
	return nil
}

// image is an open capture. Its bytes need no lock: they never change.
type image struct {
	handle
	*capture
	abilities any
}

func (b *Backend) open(c *capture) *image {
	img := &image{handle: handle{b: b, life: b.life.Load()}, capture: c}
	img.abilities = img.chain()
	return img
}

// Unwrap shows the image's abilities to dr.As.
func (i *image) Unwrap() any { return i.abilities }

func (i *image) Point() dr.Point {
	p := i.point
	p.Machine = cloneMachine(p.Machine)
	p.Cursors = maps.Clone(p.Cursors)
	return p
}

func (i *image) fail(op string, disk dr.DiskID, off int64, err error) error {
	return &dr.Error{Op: op, Machine: i.machine.id, Point: i.point.ID, Disk: disk, Off: off, Err: err}
}

// use begins every use of a disk.
func (i *image) use(ctx context.Context, op Op, disk dr.DiskID, off int64) (frozenDisk, error) {
	if err := i.b.enter(ctx, op); err != nil {
		return frozenDisk{}, i.fail(string(op), disk, off, err)
	}
	if err := i.alive(ctx); err != nil {
		return frozenDisk{}, i.fail(string(op), disk, off, err)
	}
	d, ok := i.disks[disk]
	if !ok {
		return frozenDisk{}, i.fail(string(op), disk, off, dr.ErrNotFound)
	}
	return d, nil
}

func (i *image) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	d, err := i.use(ctx, OpReadAt, disk, off)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, i.fail("read", disk, off, dr.ErrInvalid)
	}
	n := int(min(int64(len(p)), max(0, d.size-off)))
	d.content.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (i *image) Close() error {
	i.closed.Store(true)
	return nil
}

// changes implements dr.ChangeTracker.
func (i *image) changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := i.use(ctx, OpChanges, disk, -1)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		m := i.machine
		m.mu.Lock()
		epoch, size, ok := m.tracker.since(since, disk)
		ok = ok && m.tracker.id == i.tracker
		m.mu.Unlock()
		// The stamps ended with this image's epoch: what came later is not in
		// them, so a point newer than the image can't be answered for.
		if !ok || epoch > i.epoch {
			yield(dr.Extent{}, i.fail("changes since "+string(since.ID), disk, -1, dr.ErrChangesLost))
			return
		}
		d.yield(ctx, d.stamps.after(epoch, size, d.size), yield)
	}
}

// extents implements dr.Mapper.
func (i *image) extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := i.use(ctx, OpExtents, disk, -1)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		d.yield(ctx, ranges{{0, d.size}}, yield)
	}
}

// yield tells the ranges, divided into what is there and what reads as zeros.
func (d frozenDisk) yield(ctx context.Context, rs ranges, yield func(dr.Extent, error) bool) {
	present := d.content.sorted()
	for _, r := range rs {
		for at := r.off; at < r.end; {
			if err := ctx.Err(); err != nil {
				yield(dr.Extent{}, err)
				return
			}
			for len(present) > 0 && (present[0]+1)*pageSize <= at {
				present = present[1:]
			}
			e := dr.Extent{Off: at, Zero: true}
			end := r.end
			switch {
			case len(present) == 0:
			case present[0]*pageSize > at:
				end = min(end, present[0]*pageSize)
			default:
				e.Zero = false
				next := present[0] + 1
				for k := 1; k < len(present) && present[k] == next && next*pageSize < r.end; k++ {
					next++
				}
				end = min(end, next*pageSize)
			}
			e.Len = end - at
			if !yield(e, nil) {
				return
			}
			at = end
		}
	}
}

// sums implements dr.Summer.
func (i *image) sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	d, err := i.use(ctx, OpSums, disk, off)
	if err != nil {
		return err
	}
	if err := checkSums(d.size, off, len(sums)); err != nil {
		return i.fail("sums", disk, off, err)
	}
	for k := range sums {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := off + int64(k)*pageSize
		sums[k] = sum(d.content[at/pageSize], d.size-at)
	}
	return nil
}

// checkSums refuses ranges that are not whole blocks of the disk.
func checkSums(size, off int64, n int) error {
	blocks := (size + pageSize - 1) / pageSize
	switch {
	case off < 0 || off%pageSize != 0:
		return dr.ErrInvalid
	case int64(n) > blocks-off/pageSize:
		return dr.ErrOutOfRange
	}
	return nil
}

// sum returns the sum of the first n bytes of the page at most.
func sum(pg *page, n int64) dr.Sum {
	if pg == nil {
		return dr.Sum{}
	}
	return blocksum.Sum(pg.bytes[:min(n, pageSize)])
}

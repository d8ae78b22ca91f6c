package memstore

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"sync/atomic"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// stored is a committed point. Its content never changes, so readers need no
// lock and survive its deletion.
type stored struct {
	point dr.Point
	disks map[dr.DiskID]disk
}

type image struct {
	*stored
	store  *Store
	closed atomic.Bool
}

var (
	_ dr.Image         = (*image)(nil)
	_ dr.ChangeTracker = (*image)(nil)
	_ dr.Summer        = (*image)(nil)
	_ dr.Mapper        = (*image)(nil)
)

func (i *image) Point() dr.Point { return i.point.Clone() }

func (i *image) Close() error {
	i.closed.Store(true)
	return nil
}

func (i *image) ReadAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	d, err := i.disk(ctx, "read", id, off)
	if err != nil {
		return 0, err
	}
	n := min(int64(len(p)), max(0, d.size-off))
	d.read(p[:n], off)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (i *image) Sums(ctx context.Context, id dr.DiskID, off int64, sums []dr.Sum) error {
	d, err := i.disk(ctx, "sum", id, off)
	if err != nil {
		return err
	}
	return fill(d, off, sums, func(err error) error { return failure("sum", i.point, id, off, err) })
}

func (i *image) Extents(ctx context.Context, id dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := i.disk(ctx, "map", id, 0)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		yieldAll(ctx, d.extents(0), yield)
	}
}

func (i *image) Changes(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := i.disk(ctx, "find changes", id, 0)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		old, ok := i.stored, since.ID == i.point.ID && since.Machine.ID == i.point.Machine.ID
		if !ok && since.Machine.ID == i.point.Machine.ID {
			old, ok = i.store.find(since.Machine.ID, since.ID)
		}
		ok = ok && (since.Time.IsZero() || since.Time.Equal(old.point.Time)) // else the name was given again
		if !ok {
			yield(dr.Extent{}, failure("find changes", i.point, id, -1,
				fmt.Errorf("%w: point %s of machine %s is not in the store", dr.ErrChangesLost, since.ID, since.Machine.ID)))
			return
		}
		yieldAll(ctx, d.changes(old.disks[id]), yield)
	}
}

func (i *image) disk(ctx context.Context, op string, id dr.DiskID, off int64) (disk, error) {
	d, ok := i.disks[id]
	err := ctx.Err()
	switch {
	case err != nil:
	case i.closed.Load():
		err = fmt.Errorf("image: %w", os.ErrClosed)
	case !ok:
		err = fmt.Errorf("%w: the point has no such disk", dr.ErrNotFound)
	case off < 0:
		err = fmt.Errorf("%w: negative offset", dr.ErrInvalid)
	default:
		return d, nil
	}
	return disk{}, failure(op, i.point, id, off, err)
}

func fill(d disk, off int64, sums []dr.Sum, fail func(error) error) error {
	blocks := (d.size + pageSize - 1) / pageSize
	switch {
	case off%pageSize != 0:
		return fail(fmt.Errorf("%w: sums begin at multiples of %d", dr.ErrInvalid, pageSize))
	case int64(len(sums)) > blocks-off/pageSize:
		return fail(fmt.Errorf("%w: %d sums asked for, the disk has %d blocks", dr.ErrOutOfRange, len(sums), blocks))
	}
	for n := range sums {
		sums[n] = d.sum(off + int64(n)*pageSize)
	}
	return nil
}

func yieldAll(ctx context.Context, extents []dr.Extent, yield func(dr.Extent, error) bool) {
	for _, e := range extents {
		if err := ctx.Err(); err != nil {
			yield(dr.Extent{}, err)
			return
		}
		if !yield(e, nil) {
			return
		}
	}
}

func failure(op string, p dr.Point, id dr.DiskID, off int64, err error) error {
	return &dr.Error{Op: op, Side: dr.StoreSide, Machine: p.Machine.ID, Point: p.ID, Disk: id, Off: off, Err: err}
}

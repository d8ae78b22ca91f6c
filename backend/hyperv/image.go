package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// image is a recovery checkpoint, readable.
type image struct {
	v     *HyperV
	point dr.Point
	sizes map[dr.DiskID]int64
	uuids map[dr.DiskID]string
	open  *openDisks
}

var (
	_ dr.ChangeTracker = (*image)(nil)
	_ dr.Mapper        = (*image)(nil)
	_ dr.Summer        = (*image)(nil)
)

// image makes an image of a checkpoint.
func (v *HyperV) image(ctx context.Context, m *machine, c captured, checkpoint host.Object) (*image, error) {
	disks, _, err := m.node.disksOf(ctx, checkpoint.Path, m.record)
	if err != nil {
		return nil, err
	}
	frozen := &machine{node: m.node, id: m.id, disks: disks}
	if err := frozen.whole(); err != nil {
		return nil, err
	}
	at, err := dmtf(checkpoint.Props.String("CreationTime"))
	if err != nil {
		return nil, err
	}
	p := dr.Point{ID: c.Point, Time: at, Consistency: max(c.Level, dr.CrashConsistent), Cursors: map[dr.DiskID]dr.Cursor{}}
	if achieved, ok := checkpoint.Props.Int("ConsistencyLevel"); ok && achieved == levelCrash {
		p.Consistency = dr.CrashConsistent
	}
	if p.Machine, err = m.describe(ctx, checkpoint, disks); err != nil {
		return nil, err
	}
	p.Machine.Power = dr.On
	if c.Off {
		p.Machine.Power = dr.Off
	}
	i := &image{v: v, sizes: map[dr.DiskID]int64{}, uuids: map[dr.DiskID]string{}}
	i.open = newOpenDisks(v, func(ctx context.Context, disk dr.DiskID) (*node, string, error) {
		return i.locate(ctx, c.Checkpoint, disk)
	})
	for _, d := range disks {
		if d.info.Tracking && d.info.Latest != "" {
			p.Cursors[d.id] = cursorOf(c.N, d.uuid, d.info.Latest)
		}
		i.sizes[d.id], i.uuids[d.id] = d.info.Size, d.uuid
		i.open.add(d.id, m.node, d.at, d.info.Size)
	}
	i.point = p
	return i, nil
}

// locate finds the file of a disk anew: the machine may have moved to another
// node, and merges below a checkpoint give its files other names.
func (i *image) locate(ctx context.Context, checkpoint string, disk dr.DiskID) (*node, string, error) {
	m, err := i.v.find(ctx, i.point.Machine.ID)
	if err != nil {
		return nil, "", err
	}
	for _, o := range m.others {
		if o.Props.String("InstanceID") != checkpoint {
			continue
		}
		disks, _, err := m.node.disksOf(ctx, o.Path, m.record)
		if err != nil {
			return nil, "", err
		}
		if d, ok := diskIn(disks, disk); ok && d.missing == nil {
			return m.node, d.at, nil
		}
	}
	return nil, "", &explained{fmt.Errorf("%w: somebody has removed the checkpoint", dr.ErrNotFound), "capture the machine anew"}
}

func (i *image) Point() dr.Point { return i.point }

func (i *image) fail(op string, disk dr.DiskID, off int64, err error) error {
	return withPoint(fail(op, i.point.Machine.ID, disk, off, err), i.point.ID)
}

func (i *image) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	n, err := i.open.readAt(ctx, disk, p, off)
	if err != nil && err != io.EOF {
		err = i.fail("read", disk, off, err)
	}
	return n, err
}

// Close closes the files. The checkpoint stays until Release.
func (i *image) Close() error { return i.fail("close disks", "", -1, i.open.close()) }

// Extents tells what was never written.
func (i *image) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		size, ok := i.sizes[disk]
		if !ok {
			yield(dr.Extent{}, i.fail("map", disk, -1, errNoDisk))
			return
		}
		at := int64(0)
		err := i.open.lend(ctx, disk, func(d host.Disk) error {
			for r, err := range d.Allocated(ctx) {
				if err != nil {
					return err
				}
				from, to := max(r.Off, at), min(r.Off+r.Len, size)
				if from >= to {
					continue
				}
				if from > at && !yield(dr.Extent{Off: at, Len: from - at, Zero: true}, nil) || !yield(dr.Extent{Off: from, Len: to - from}, nil) {
					return errEnough
				}
				at = to
			}
			return nil
		})
		switch {
		case errors.Is(err, errEnough):
		case errors.Is(err, host.ErrUnsupported) && at == 0:
			yield(dr.Extent{Len: size}, nil)
		case err != nil:
			yield(dr.Extent{}, i.fail("map", disk, at, err))
		case at < size:
			yield(dr.Extent{Off: at, Len: size - at, Zero: true}, nil)
		}
	}
}

var (
	errEnough = errors.New("the caller has enough")
	errNoDisk = fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
)

// Sums reads what it sums.
func (i *image) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	return i.fail("sum", disk, off, i.open.sums(ctx, disk, off, sums))
}

// A cursor is the number of the moment, the virtual disk's identifier, and that of
// its tracking.
func cursorOf(n int, uuid, id string) dr.Cursor {
	return dr.Cursor(strconv.Itoa(n) + "/" + uuid + "/" + id)
}

// parseCursor reads one; of what is none the number is 0, which nobody believes.
func parseCursor(c dr.Cursor) (n int, uuid, id string) {
	number, rest, _ := strings.Cut(string(c), "/")
	uuid, id, _ = strings.Cut(rest, "/")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 {
		return 0, "", ""
	}
	return n, uuid, id
}

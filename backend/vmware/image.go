package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// image is a snapshot, readable.
type image struct {
	v        *VSphere
	vm       types.ManagedObjectReference
	snapshot snapshot
	point    dr.Point
	disks    map[dr.DiskID]vdisk // as the snapshot has them
	record   record              // as it was when the image was made
	open     *openDisks
}

var (
	_ dr.ChangeTracker = (*image)(nil)
	_ dr.Mapper        = (*image)(nil)
	_ dr.Summer        = (*image)(nil)
)

// image makes an image of a snapshot. The epochs that it shows are believed
// from now on, if it is the machine's only snapshot.
func (v *VSphere) image(ctx context.Context, m *machine, s snapshot) (*image, error) {
	config, err := v.snapshotConfig(ctx, s.ref)
	if err != nil {
		return nil, err
	}
	disks := disksOf(config.Hardware.Device, m.record.Disks)
	r := m.record
	r.trusted(disks, len(m.snapshots()) == 1, m.began)
	if err := v.save(ctx, m, r); err != nil {
		return nil, err
	}
	then := v.facts(ctx, m)
	then.name, then.config, then.disks, then.power, then.guest = config.Name, config, disks, dr.On, nil
	if s.mark.Off {
		then.power = dr.Off
	}
	p := dr.Point{ID: s.mark.Point, Machine: then.describe(), Time: s.created.UTC(), Consistency: dr.CrashConsistent, Cursors: r.cursors(disks)}
	if s.quiesced && s.mark.Quiesced != 0 {
		p.Consistency = s.mark.Quiesced
	}
	p.Consistency = max(p.Consistency, s.mark.Held)
	p.Machine.NICs = addressed(p.Machine.NICs, s.mark.NICs)
	i := &image{v: v, vm: m.ref, snapshot: s, point: p, disks: map[dr.DiskID]vdisk{}, record: r}
	i.open = newOpenDisks(v, false)
	for _, d := range disks {
		i.disks[d.id] = d
		at, err := v.placeOf(ctx, d.datastore)
		if err != nil {
			return nil, errors.Join(err, i.Close())
		}
		i.open.refs[d.id] = diskRef{machine: m.id, disk: d.id, vm: m.ref, host: hostOf(m), snapshot: &s.ref, running: !m.off(),
			key: d.key, file: d.file, delta: d.delta, uuid: d.uuid, size: d.size, place: at}
	}
	return i, nil
}

// addressed gives cards the addresses that their guest had.
func addressed(cards, then []dr.NIC) []dr.NIC {
	for i := range cards {
		for _, n := range then {
			if n.ID == cards[i].ID {
				cards[i].Addresses, cards[i].DHCP = n.Addresses, n.DHCP
			}
		}
	}
	return cards
}

func hostOf(m *machine) types.ManagedObjectReference {
	if m.props.Runtime.Host == nil {
		return types.ManagedObjectReference{}
	}
	return *m.props.Runtime.Host
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

// Close frees the connections. The snapshot stays until Release.
func (i *image) Close() error { return i.open.close() }

func (i *image) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return i.changes(ctx, disk, since)
}

// Extents tells what was never written: from the transport where that can
// tell, else from a tracker that this library started.
func (i *image) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, ok := i.disks[disk]
		if !ok {
			yield(dr.Extent{}, i.fail("map", disk, -1, fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)))
			return
		}
		at, canTell := int64(0), true
		for at < d.size && canTell {
			some, able, err := i.mapped(ctx, d, at)
			for _, e := range some {
				if !yield(e, nil) {
					return
				}
				at = e.End()
			}
			if err != nil {
				yield(dr.Extent{}, i.fail("map", disk, at, err))
				return
			}
			canTell = able
		}
		if !canTell {
			i.written(ctx, d, yield)
		}
	}
}

// maxMapped bounds the extents that are asked of a transport at a time: while
// they are used the disk is nobody's, and can make room for others.
const maxMapped = 1024

// mapped asks the transport for the extents from an offset on: some of them.
func (i *image) mapped(ctx context.Context, d vdisk, at int64) (some []dr.Extent, able bool, err error) {
	type mapper interface {
		Extents(ctx context.Context, off, n int64) iter.Seq2[nbd.Extent, error]
	}
	err = i.open.lend(ctx, d.id, func(ctx context.Context, dev device) error {
		m, ok := dr.As[mapper](dev)
		if able = ok || at > 0; !ok {
			if at > 0 { // it was opened anew, by another transport
				some = append(some, dr.Extent{Off: at, Len: d.size - at})
			}
			return nil
		}
		for e, err := range m.Extents(ctx, at, d.size-at) {
			if err != nil {
				return err
			}
			some = append(some, dr.Extent{Off: e.Off, Len: e.Len, Zero: e.Zero})
			if len(some) == maxMapped {
				return nil
			}
		}
		if len(some) == 0 {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
	return some, able, err
}

// written yields what was ever written as data and the rest as zeros; all of
// it as data where nobody knows.
func (i *image) written(ctx context.Context, d vdisk, yield func(dr.Extent, error) bool) {
	at := int64(0)
	if t, ok := i.record.believes(d); ok && t.Whole {
		for e, err := range i.v.areas(ctx, i.vm, &i.snapshot.ref, d, everything) {
			if err != nil {
				if at > 0 || ctx.Err() != nil {
					yield(dr.Extent{}, i.fail("map", d.id, at, err))
					return
				}
				break // it can't tell: all of it counts as data
			}
			if e.Off > at && !yield(dr.Extent{Off: at, Len: e.Off - at, Zero: true}, nil) || !yield(e, nil) {
				return
			}
			at = e.End()
		}
		if at > 0 && at < d.size {
			yield(dr.Extent{Off: at, Len: d.size - at, Zero: true}, nil)
			return
		}
	}
	if at < d.size {
		yield(dr.Extent{Off: at, Len: d.size - at}, nil)
	}
}

// Sums reads what it sums.
func (i *image) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	return i.fail("sum", disk, off, i.open.sums(ctx, disk, off, sums))
}

// sums reads blocks and sums them.
func (o *openDisks) sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	d, ok := o.refs[disk]
	if !ok {
		return fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	}
	buf := o.v.buffers.Get()
	defer o.v.buffers.Put(buf)
	return blocksum.Read(d.size, off, sums, buf, func(p []byte, off int64) (int, error) { return o.readAt(ctx, disk, p, off) })
}

package vmware

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/spans"
)

// draft is a stopped machine's disks, written in place.
type draft struct {
	v     *VSphere
	id    dr.MachineID
	point dr.Point
	open  *openDisks
	token string
	// found is what the machine was when the draft was opened; again says that
	// an earlier draft had begun to write: nobody knows what.
	found claims
	last  string // the token of the draft that tore it then
	again bool
	// before are the disks' changeIds when the draft was opened.
	before map[dr.DiskID]string

	ref     types.ManagedObjectReference
	fences  map[string]uint64 // under which it was opened
	tearing sync.Mutex
	torn    bool      // the mark is durable
	looked  time.Time // when the record was asked for that last had this draft

	mu    sync.Mutex
	wrote map[dr.DiskID]*spans.Set
	state draftState
}

type draftState int

const (
	draftOpen draftState = iota
	draftCommitted
	draftClosed
)

var (
	_ dr.Zeroer = (*draft)(nil)
	_ dr.Summer = (*draft)(nil)
)

// Draft implements backend.Target. The machine is marked torn before the first
// byte is written; a draft that writes nothing leaves it as it was. Snapshots
// of others refuse it: reverting to one would bring back half of what is
// written.
func (v *VSphere) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	d := &draft{v: v, id: id, point: p, token: rand.Text(), fences: dr.Fences(ctx), wrote: map[dr.DiskID]*spans.Set{}, before: map[dr.DiskID]string{}}
	err := v.changing(ctx, id, func(m *machine) error {
		if err := writableNow(m); err != nil {
			return err
		}
		if err := p.ID.Validate(); err != nil {
			return err
		}
		claimed := claimsOf(m.record)
		found, err := v.settle(ctx, m)
		if err != nil {
			return err
		}
		if found != claimed {
			return errRan
		}
		d.ref, d.found, d.last, d.again = m.ref, found, m.record.Draft, m.record.Torn
		d.open = newOpenDisks(v, true)
		for _, x := range m.disks {
			at, err := v.placeOf(ctx, x.datastore)
			if err != nil {
				return err
			}
			d.open.refs[x.id] = diskRef{machine: id, disk: x.id, vm: m.ref, host: hostOf(m), key: x.key, file: x.file, delta: x.delta, uuid: x.uuid, size: x.size, place: at}
			d.wrote[x.id], d.before[x.id] = spans.New(x.size), x.changeID
		}
		return nil
	})
	if err != nil {
		if d.open != nil {
			err = errors.Join(err, d.open.close())
		}
		return nil, withPoint(fail("open disks for writing", id, "", -1, err), p.ID)
	}
	return d, nil
}

// writableNow tells whether a machine's disks may be written.
func writableNow(m *machine) error {
	if err := m.reachable(); err != nil {
		return err
	}
	if !m.off() {
		return &explained{dr.ErrRunning, "switch the machine off"}
	}
	if names := m.foreign(); len(names) > 0 {
		return &explained{fmt.Errorf("%w: the machine has snapshots of somebody else's: %q", dr.ErrInvalid, names), "remove the snapshots"}
	}
	return m.twins()
}

// errRan says that what Prepare found is no longer so. Whoever relied on it must
// look again.
var errRan = &explained{fmt.Errorf("%w: the machine's disks were written since it was prepared: somebody has started it, or reverted it", dr.ErrConflict), "prepare it again"}

// errOtherDraft says that a draft isn't the machine's last one.
var errOtherDraft = &explained{fmt.Errorf("%w: another draft of the machine was begun since", dr.ErrConflict), "see that no two processes work on one machine, and copy the point again"}

func (d *draft) fail(op string, disk dr.DiskID, off int64, err error) error {
	return withPoint(fail(op, d.id, disk, off, err), d.point.ID)
}

// usable refuses a draft that has ended.
func (d *draft) usable() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != draftOpen {
		return fmt.Errorf("%w: the draft is committed or closed", dr.ErrInvalid)
	}
	return nil
}

// begin checks a request, and makes sure that the mark is there.
func (d *draft) begin(ctx context.Context, disk dr.DiskID, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.usable(); err != nil {
		return err
	}
	ref, ok := d.open.refs[disk]
	switch {
	case !ok:
		return fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	case off < 0 || n < 0 || off > ref.size || n > ref.size-off:
		return fmt.Errorf("%w: %d bytes, and the disk has %d", dr.ErrOutOfRange, n, ref.size)
	case n == 0:
		return nil
	}
	return d.tear(ctx)
}

// tear marks the machine torn, durably, unless it is. It must still be off.
func (d *draft) tear(ctx context.Context) error {
	d.tearing.Lock()
	defer d.tearing.Unlock()
	if d.torn {
		return nil
	}
	other := false
	now := time.Now()
	err := d.v.changing(dr.WithFences(ctx, d.fences), d.id, func(m *machine) error {
		if err := writableNow(m); err != nil {
			return err
		}
		if m.record.Torn && m.record.Draft == d.token {
			return nil // the answer was lost
		}
		if now, err := d.v.settle(ctx, m); err != nil || now != d.found && !m.record.Torn {
			return cmp.Or(err, error(errRan))
		}
		other = m.record.Torn // by another, which may be writing still
		d.again = d.again || other
		r := m.record
		r.Torn, r.For, r.Draft, r.Holds, r.New = true, d.point.ID, d.token, "", false
		return d.v.save(ctx, m, r)
	})
	if err == nil && other && d.fences != nil {
		err = d.settled(ctx)
	}
	d.torn, d.looked = err == nil, now
	return err
}

func (d *draft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	err := d.begin(ctx, disk, off, int64(len(p)))
	if err == nil && len(p) > 0 {
		err = d.write(ctx, disk, off, int64(len(p)), func(ctx context.Context, w writable) error {
			_, err := w.WriteAt(ctx, p, off)
			return err
		})
	}
	if err != nil {
		return 0, d.fail("write", disk, off, err)
	}
	return len(p), nil
}

// Zero makes a range zero without sending zeros, where the transport can.
func (d *draft) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	err := d.begin(ctx, disk, off, n)
	if err == nil && n > 0 {
		err = d.write(ctx, disk, off, n, func(ctx context.Context, w writable) error { return d.zero(ctx, w, off, n) })
	}
	return d.fail("zero", disk, off, err)
}

// maxZero bounds one request to zero, so that a disk of many TiB is no request
// that outlasts every patience.
const maxZero = 1 << 30

func (d *draft) zero(ctx context.Context, w writable, off, n int64) error {
	for n > 0 {
		part := min(n, maxZero)
		err := w.Zero(ctx, off, part)
		if errors.Is(err, errors.ErrUnsupported) {
			return d.zeroBytes(ctx, w, off, n)
		}
		if err != nil {
			return err
		}
		if off, n = off+part, n-part; n > 0 {
			if err := d.still(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// zeroBytes writes zeros where the transport has nothing better.
func (d *draft) zeroBytes(ctx context.Context, w writable, off, n int64) error {
	buf := d.v.buffers.Get()
	defer d.v.buffers.Put(buf)
	clear(buf)
	for n > 0 {
		part := min(n, int64(len(buf)))
		if _, err := w.WriteAt(ctx, buf[:part], off); err != nil {
			return err
		}
		if off, n = off+part, n-part; n > 0 {
			if err := d.still(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// write lends the disk to f, which is to change [off, off+n).
func (d *draft) write(ctx context.Context, disk dr.DiskID, off, n int64, f func(context.Context, writable) error) error {
	return d.open.lend(ctx, disk, func(ctx context.Context, dev device) error {
		w, ok := dr.As[writable](dev)
		if !ok {
			return fmt.Errorf("%w: the transport that opened the disk can't write", dr.ErrUnsupported)
		}
		if err := d.still(ctx); err != nil {
			return err
		}
		d.mu.Lock()
		d.wrote[disk].Add(off, n)
		d.mu.Unlock()
		d.open.wrote(disk)
		return f(ctx, w)
	})
}

// Sums reads what it sums.
func (d *draft) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	if err := d.usable(); err != nil { // or it would lock the disks of a machine that may start
		return d.fail("sum", disk, off, err)
	}
	return d.fail("sum", disk, off, d.open.sums(ctx, disk, off, sums))
}

// Close ends the draft. Without a commit what was begun stays torn.
func (d *draft) Close() error {
	d.mu.Lock()
	if d.state == draftOpen {
		d.state = draftClosed
	}
	d.mu.Unlock()
	return d.fail("close disks", "", -1, d.open.close())
}

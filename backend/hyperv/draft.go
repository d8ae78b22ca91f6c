package hyperv

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/spans"
)

// draft is a stopped machine's disks, written in place.
type draft struct {
	v     *HyperV
	id    dr.MachineID
	point dr.Point
	open  *openDisks
	token string
	// found is what the machine was when the draft was opened; again says that
	// an earlier draft had begun to write: nobody knows what.
	found claims
	last  string // the token of the draft that tore it then
	again bool
	// before are moments of the disks' tracking that lie before the first
	// write, by disk.
	before map[dr.DiskID]string

	fences  map[string]uint64 // under which it was opened
	tearing sync.Mutex
	guard   *guard // of the mark
	torn    bool   // the mark is durable

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

// Draft implements backend.Target. Before the first byte is written the machine
// is marked torn and its disks' files get other names, so that nobody can start
// it; a draft that writes nothing leaves it as it was. Checkpoints of others
// refuse it: applying one would bring back half of what is written.
func (v *HyperV) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	d := &draft{v: v, id: id, point: p, token: rand.Text(), fences: dr.Fences(ctx), wrote: map[dr.DiskID]*spans.Set{}, before: map[dr.DiskID]string{}}
	err := v.heeding(ctx, id, func(m *machine) error {
		if err := p.ID.Validate(); err != nil {
			return err
		}
		m, err := v.writable(ctx, m)
		if err != nil {
			return err
		}
		claimed := claims{m.record.Holds, m.record.New}
		found, err := v.settle(ctx, m)
		if err != nil {
			return err
		}
		if found != claimed {
			return errRan
		}
		d.found, d.last, d.again = found, m.record.Draft, m.torn()
		d.open = newOpenDisks(v, nil)
		for _, x := range m.disks {
			d.open.add(x.id, m.node, x.at, x.info.Size)
			d.wrote[x.id] = spans.New(x.info.Size)
			if n := len(m.record.Epochs); n > 0 {
				d.before[x.id] = m.record.Epochs[n-1].IDs[x.uuid]
			}
			if d.before[x.id] == "" && x.info.Tracking {
				d.before[x.id] = x.info.Latest
			}
		}
		return nil
	})
	if err != nil {
		return nil, withPoint(fail("open disks for writing", id, "", -1, err), p.ID)
	}
	return d, nil
}

// writable waits for merges and tells whether a machine's disks may be written.
func (v *HyperV) writable(ctx context.Context, m *machine) (*machine, error) {
	if err := m.writableNow(); err != nil {
		return nil, err
	}
	return v.merged(ctx, m)
}

func (m *machine) writableNow() error {
	if !m.off() {
		what := "switch the machine off"
		if m.power() == "" {
			what = "it is saved, paused or on its way: resume it and shut it down"
		}
		return &explained{dr.ErrRunning, what}
	}
	if names := m.foreign(m.record); len(names) > 0 {
		return &explained{fmt.Errorf("%w: the machine has checkpoints of somebody else's: %q", dr.ErrInvalid, names), "remove the checkpoints"}
	}
	return m.whole()
}

// errRan says that what Prepare found is no longer so. Whoever relied on it must
// look again.
var errRan = &explained{fmt.Errorf("%w: the machine's disks were written since it was prepared: somebody has started it, or applied a checkpoint", dr.ErrConflict), "prepare it again"}

func (d *draft) fail(op string, disk dr.DiskID, off int64, err error) error {
	return withPoint(fail(op, d.id, disk, off, err), d.point.ID)
}

// begin checks a request, and makes sure that the mark is there.
func (d *draft) begin(ctx context.Context, disk dr.DiskID, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	state := d.state
	d.mu.Unlock()
	if state != draftOpen {
		return fmt.Errorf("%w: the draft is committed or closed", dr.ErrInvalid)
	}
	x, ok := d.open.disks[disk]
	switch {
	case !ok:
		return errNoDisk
	case off < 0 || n < 0 || off > x.size || n > x.size-off:
		return fmt.Errorf("%w: %d bytes, and the disk has %d", dr.ErrOutOfRange, n, x.size)
	case n == 0:
		return nil
	}
	return d.tear(ctx)
}

// tear marks the machine torn, durably, unless it is: first in the record, then
// by its disks' names. It must still be off.
func (d *draft) tear(ctx context.Context) error {
	d.tearing.Lock()
	defer d.tearing.Unlock()
	if d.torn {
		return nil
	}
	// What was opened to compare sums is open under the old name.
	if err := d.open.shut(); err != nil {
		return err
	}
	err := d.v.heeding(dr.WithFences(ctx, d.fences), d.id, func(m *machine) error {
		if err := m.writableNow(); err != nil {
			return err
		}
		if !m.record.Torn || m.record.Draft != d.token { // else the answer was lost
			if now, err := d.v.settle(ctx, m); err != nil || now != d.found && !m.torn() {
				return cmp.Or(err, error(errRan))
			}
			d.again = d.again || m.torn() // by another, which may be writing still
			was, r := m.record, m.record
			r.Torn, r.For, r.Draft, r.Holds, r.New = true, d.point.ID, d.token, "", false
			if err := d.v.save(ctx, m, r); err != nil {
				return err
			}
			if err := m.hide(ctx); err != nil {
				if !d.again {
					err = errors.Join(err, d.v.untear(ctx, m, was))
				}
				return err
			}
		} else if err := m.hide(ctx); err != nil {
			return err
		}
		d.guard = m.guard
		for _, x := range m.disks {
			if o, ok := d.open.disks[x.id]; ok {
				o.mu.Lock()
				o.node, o.path, o.write = m.node, x.at, true
				o.mu.Unlock()
			}
		}
		return nil
	})
	d.torn = err == nil
	return err
}

func (d *draft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	err := d.begin(ctx, disk, off, int64(len(p)))
	if err == nil && len(p) > 0 {
		err = d.write(ctx, disk, off, p)
	}
	if err != nil {
		return 0, d.fail("write", disk, off, err)
	}
	return len(p), nil
}

func (d *draft) write(ctx context.Context, disk dr.DiskID, off int64, p []byte) error {
	d.tearing.Lock()
	g := d.guard
	d.tearing.Unlock()
	return d.open.lend(ctx, disk, func(f host.Disk) error {
		// Whoever has passed us can't write meanwhile, as the host lets one at a
		// time, and waits for us to notice.
		if err := g.still(ctx); err != nil {
			return err
		}
		d.mu.Lock()
		d.wrote[disk].Add(off, int64(len(p)))
		d.mu.Unlock()
		_, err := f.WriteAt(p, off)
		return err
	})
}

// Zero writes zeros, but where the disk reads as zeros anyhow: a dynamic disk
// would grow by them.
func (d *draft) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	err := d.begin(ctx, disk, off, n)
	if err != nil || n == 0 {
		return d.fail("zero", disk, off, err)
	}
	holds, err := d.allocated(ctx, disk, host.Range{Off: off, Len: n})
	if err != nil {
		return d.fail("zero", disk, off, err)
	}
	zeros, is := d.v.buffers.Get(), d.v.buffers.Get()
	defer d.v.buffers.Put(zeros)
	defer d.v.buffers.Put(is)
	clear(zeros)
	for _, r := range holds {
		for at := r.Off; at < r.Off+r.Len; at += int64(len(zeros)) {
			part := min(int64(len(zeros)), r.Off+r.Len-at)
			if _, err := d.open.readAt(ctx, disk, is[:part], at); err != nil {
				return d.fail("zero", disk, at, err)
			}
			if blocksum.Zero(is[:part]) {
				continue
			}
			if err := d.write(ctx, disk, at, zeros[:part]); err != nil {
				return d.fail("zero", disk, at, err)
			}
		}
	}
	return nil
}

// allocated are the parts of a range that may hold data; all of it where the host
// can't tell.
func (d *draft) allocated(ctx context.Context, disk dr.DiskID, all host.Range) (holds []host.Range, err error) {
	end := all.Off + all.Len
	err = d.open.lend(ctx, disk, func(f host.Disk) error {
		for r, err := range f.Allocated(ctx) {
			if err != nil {
				return err
			}
			if r.Off >= end {
				break
			}
			if from, to := max(r.Off, all.Off), min(r.Off+r.Len, end); from < to {
				holds = append(holds, host.Range{Off: from, Len: to - from})
			}
		}
		return nil
	})
	if errors.Is(err, host.ErrUnsupported) {
		return []host.Range{all}, nil
	}
	return holds, err
}

// Sums reads what it sums.
func (d *draft) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	return d.fail("sum", disk, off, d.open.sums(ctx, disk, off, sums))
}

// Close implements dr.Draft. A machine that was torn stays so.
func (d *draft) Close() error {
	d.mu.Lock()
	if d.state == draftOpen {
		d.state = draftClosed
	}
	d.mu.Unlock()
	return d.fail("close disks", "", -1, d.open.close())
}

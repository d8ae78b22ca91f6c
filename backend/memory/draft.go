package memory

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// draft writes to a machine's disks in place; the torn mark keeps them from
// being started, captured or taken for a point.
type draft struct {
	handle
	m         *machine
	torn      *torn // m.torn, unless another draft has taken over
	fences    map[string]uint64
	done      bool // committed
	abilities any
}

// Draft implements backend.Target. The machine is torn from here on. A draft
// that is open already is fenced: its owner may be dead, or a step that was
// given up, and must not write among the new one's bytes.
//
// The draft resumes one that was interrupted if p is of the same moment:
// equal ID, time and cursors.
func (b *Backend) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	if err := b.enter(ctx, OpDraft); err != nil {
		return nil, err
	}
	if err := p.ID.Validate(); err != nil {
		return nil, &dr.Error{Op: "draft", Machine: id, Point: p.ID, Err: err}
	}
	m, err := b.find("draft", id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.gone("draft"), m.admit(ctx, "draft")); err != nil {
		return nil, err
	}
	if m.on {
		return nil, &dr.Error{Op: "draft", Machine: id, Point: p.ID, Err: dr.ErrRunning, Remedy: "stop the machine"}
	}
	t := &torn{point: p, durable: map[dr.DiskID]ranges{}}
	if old := m.torn; old != nil && sameMoment(old.point, p) {
		for id, rs := range old.durable {
			t.durable[id] = slices.Clone(rs)
		}
	}
	t.point.Cursors = maps.Clone(p.Cursors)
	m.torn, m.holds, m.virgin = t, "", false
	d := &draft{handle: handle{b: b, life: b.life.Load()}, m: m, torn: t, fences: dr.Fences(ctx)}
	d.abilities = d.chain()
	return d, nil
}

func sameMoment(a, b dr.Point) bool {
	return a.ID == b.ID && a.Time.Equal(b.Time) && maps.Equal(a.Cursors, b.Cursors)
}

// Unwrap shows the draft's abilities to dr.As.
func (d *draft) Unwrap() any { return d.abilities }

func (d *draft) fail(op string, disk dr.DiskID, off int64, err error) error {
	return &dr.Error{Op: op, Machine: d.m.id, Point: d.torn.point.ID, Disk: disk, Off: off, Err: err}
}

// usable tells why the draft can't be used any more. It needs m.mu.
func (d *draft) usable() error {
	switch {
	case d.m.removed:
		return dr.ErrNotFound
	case d.done:
		return fs.ErrClosed
	case d.m.torn != d.torn:
		return dr.ErrFenced
	}
	return d.m.fences.Passed(d.fences)
}

// use begins every use of [off, off+n) of a disk; the machine stays locked
// until the returned function is called.
func (d *draft) use(ctx context.Context, op Op, id dr.DiskID, off, n int64) (*disk, func(), error) {
	if err := d.b.enter(ctx, op); err != nil {
		return nil, nil, d.fail(string(op), id, off, err)
	}
	d.m.mu.Lock()
	err := d.alive(ctx)
	if err == nil {
		err = d.usable()
	}
	var on *disk
	if err == nil {
		on = d.m.disk(id)
		switch {
		case on == nil:
			err = dr.ErrNotFound
		case off < 0 || n < 0:
			err = dr.ErrInvalid
		case off > on.Size || n > on.Size-off:
			err = fmt.Errorf("%w: %d bytes, and the disk has %d", dr.ErrOutOfRange, n, on.Size)
		}
	}
	if err != nil {
		d.m.mu.Unlock()
		return nil, nil, d.fail(string(op), id, off, err)
	}
	return on, d.m.mu.Unlock, nil
}

func (d *draft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	on, unlock, err := d.use(ctx, OpWriteAt, disk, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer unlock()
	on.write(p, off, d.m.tracker.epoch)
	d.torn.durable[disk] = d.torn.durable[disk].add(off, off+int64(len(p)))
	return len(p), nil
}

// zero implements dr.Zeroer.
func (d *draft) zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	on, unlock, err := d.use(ctx, OpZero, disk, off, n)
	if err != nil {
		return err
	}
	defer unlock()
	on.zero(off, off+n, d.m.tracker.epoch)
	d.torn.durable[disk] = d.torn.durable[disk].add(off, off+n)
	return nil
}

// sums implements dr.Summer. A page is hashed without the lock: the caller
// promises not to write where it sums.
func (d *draft) sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	for k := range sums {
		on, unlock, err := d.use(ctx, OpSums, disk, off, 0)
		if err != nil {
			return err
		}
		at, size := off+int64(k)*pageSize, on.Size
		err = checkSums(size, off, len(sums))
		pg := on.content[at/pageSize]
		unlock()
		if err != nil {
			return d.fail("sums", disk, off, err)
		}
		sums[k] = sum(pg, size-at)
	}
	return nil
}

// durable implements dr.Resumer.
func (d *draft) durable(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		_, unlock, err := d.use(ctx, OpDurable, disk, 0, 0)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		rs := slices.Clone(d.torn.durable[disk])
		unlock()
		for _, r := range rs {
			if !yield(dr.Extent{Off: r.off, Len: r.end - r.off}, nil) {
				return
			}
		}
	}
}

func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	if err := d.b.enter(ctx, OpCommit); err != nil {
		return d.fail("commit", "", -1, err)
	}
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.done {
		return nil
	}
	err := d.alive(ctx)
	if err == nil {
		err = d.usable()
	}
	if err != nil {
		return d.fail("commit", "", -1, err)
	}
	id := d.torn.point.ID
	m.tracker.committed(id, m.tracker.end(m.disks))
	m.torn, m.holds = nil, id
	m.rest = max(p.Consistency, dr.CrashConsistent)
	d.done = true
	m.tell(OpCommit, id)
	return nil
}

func (d *draft) Close() error {
	d.closed.Store(true)
	return nil
}

package physical

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// draft writes the disks of a stopped machine in place.
// It is a dr.Zeroer and a dr.Summer.
type draft struct {
	m     *machine
	point dr.Point
	disks disks

	// unsure: a commit failed after it may have become durable that the disks
	// are whole. Nothing more may be written to them by this draft.
	unsure atomic.Bool
	// want has the disks that it copies, in their sizes.
	want dr.Machine
	// fences are what it was opened under.
	fences map[string]uint64
	// sectors are the logical sector sizes of block devices, in bytes.
	sectors map[dr.DiskID]int64

	mu        sync.Mutex
	poisoned  error // a sync failed: nobody knows what the disks hold
	committed bool
	closed    bool
}

var (
	_ dr.Draft  = (*draft)(nil)
	_ dr.Zeroer = (*draft)(nil)
	_ dr.Summer = (*draft)(nil)
)

// Draft implements [backend.Target]. Disks that are in use on this host, and a
// machine that has a draft open already, are dr.ErrBusy. If p describes disks,
// a replica's image files are cut or grown to their sizes, and those of other
// disks are deleted; an original's must have them (dr.ErrInvalid), or be given up
// and have more. An original's block device that carries what isn't known to be
// its own, and isn't given up, is a *ForeignError.
func (h *Host) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	m, err := h.machine("draft", id)
	if err != nil {
		return nil, err
	}
	if err := h.onSelf("draft", id); err != nil {
		return nil, err
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	d, err := m.begin(ctx, p)
	if err != nil {
		return nil, &dr.Error{Op: "draft", Side: dr.TargetSide, Machine: id, Point: p.ID, Err: err}
	}
	return d, nil
}

func (m *machine) begin(ctx context.Context, p dr.Point) (_ *draft, err error) {
	if err := p.ID.Validate(); err != nil {
		return nil, err
	}
	if m.record() == nil {
		return nil, dr.ErrNotFound
	}
	if err := m.admit(ctx); err != nil {
		return nil, err
	}
	rec := m.record()
	if err := m.stopped(rec); err != nil {
		return nil, err
	}
	if m.drafting() {
		return nil, fmt.Errorf("%w: another draft of it is open", dr.ErrBusy)
	}
	now, err := m.describe(rec)
	if err != nil {
		return nil, err
	}
	want := p.Machine
	if len(want.Disks) == 0 {
		want = now
	}
	ours := rec.Made && !rec.Original // not somebody's machine by now
	if !ours {
		if err := m.fits(rec, now, want); err != nil {
			return nil, err
		}
	}
	if err := m.free(rec); err != nil {
		return nil, err
	}
	if ours && (!covers(now, want) || !covers(want, now) || rec.making() || len(rec.Dropped) > 0) {
		if err := m.reshape(p.ID, want); err != nil {
			return nil, err
		}
		rec = m.record()
	}
	opened, err := m.openDisks(rec, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	// Looked at when nobody else can write to them any more.
	found, err := m.foreign(rec)
	if err != nil {
		return nil, err
	}
	if found.other && len(rec.Held) > 0 {
		// Whoever asked what they hold, by Prepare, was told it of others.
		return nil, fmt.Errorf("%w: a disk is another one, or another content, than when it was found to hold point %s (prepare the machine again)", dr.ErrConflict, rec.holds())
	}
	d := &draft{m: m, point: p, disks: opened, want: want, fences: dr.Fences(ctx), sectors: map[dr.DiskID]int64{}}
	for id, o := range opened {
		if d.sectors[id], err = m.sector(o.path); err != nil {
			return nil, err
		}
	}
	m.outdate()
	if err := m.change(func(r *record) { r.tear(p.ID); r.take(opened, want, found) }); err != nil {
		return nil, err
	}
	if err := d.clearRest(ctx, want); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.draft = d
	m.mu.Unlock()
	return d, nil
}

// tear marks the disks half written. The epochs stay: the draft tells the
// tracker what it writes.
func (r *record) tear(p dr.PointID) {
	r.Torn, r.New, r.Clean = p, false, false
	r.forget()
}

// reshape gives a replica the disks that the point describes. The caller holds
// op; the machine is torn when it returns.
func (m *machine) reshape(p dr.PointID, want dr.Machine) error {
	if err := checkDisks(want); err != nil {
		return err
	}
	m.outdate()
	next := m.record().clone()
	next.tear(p)
	next.Epochs = nil // no tracker sees what is cut off
	disks, files := next.Machine.Disks, next.Disks
	next.Machine.Disks, next.Disks = nil, nil
	for i, f := range files {
		w, ok := want.Disk(f.ID)
		if !ok {
			next.Dropped = append(next.Dropped, f.Path)
			continue
		}
		disks[i].Size = w.Size
		next.Machine.Disks, next.Disks = append(next.Machine.Disks, disks[i]), append(next.Disks, f)
	}
	for _, w := range want.Disks {
		if _, ok := next.Machine.Disk(w.ID); ok {
			continue
		}
		path, err := imageName(w.ID)
		if err != nil {
			return err
		}
		next.Dropped = slices.DeleteFunc(next.Dropped, func(name string) bool { return name == path })
		next.Machine.Disks = append(next.Machine.Disks, w)
		next.Disks = append(next.Disks, diskFile{ID: w.ID, Path: path, Making: true})
	}
	if err := m.save(next); err != nil {
		return err
	}
	for i, f := range next.Disks {
		flag := os.O_RDWR
		if f.Making {
			flag |= os.O_CREATE | os.O_TRUNC
		}
		if err := m.resize(filepath.Join(m.folder, f.Path), flag, next.Machine.Disks[i].Size); err != nil {
			return fmt.Errorf("disk %s: %w", f.ID, err)
		}
	}
	for _, name := range next.Dropped {
		if err := m.delete(name); err != nil {
			return err
		}
	}
	if err := m.host.fs.SyncDir(m.folder); err != nil {
		return err
	}
	return m.change(func(r *record) {
		r.Dropped = nil
		for i := range r.Disks {
			r.Disks[i].Making = false
		}
	})
}

func (d *draft) fail(op string, disk dr.DiskID, off int64, err error) error {
	return &dr.Error{Op: op, Side: dr.TargetSide, Machine: d.m.id, Point: d.point.ID, Disk: disk, Off: off, Err: err}
}

// WriteAt implements [dr.Draft]. Aligned requests (fsys.Alignment) from aligned
// buffers go past the page cache.
func (d *draft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	f, err := d.writable(ctx, disk, off, int64(len(p)))
	if err != nil {
		return 0, d.fail("write", disk, off, err)
	}
	if err := d.countsAlike(disk, f.path, p, off); err != nil {
		return 0, d.fail("write", disk, off, err)
	}
	defer d.mark(disk, off, int64(len(p)))()
	n, err := f.WriteAt(p, off)
	if err != nil {
		return n, d.fail("write", disk, off+int64(n), err)
	}
	return n, nil
}

// Zero implements [dr.Zeroer] by making holes where that can be done.
func (d *draft) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	f, err := d.writable(ctx, disk, off, n)
	if err == nil {
		defer d.mark(disk, off, n)()
		err = f.Punch(off, n)
	}
	if err != nil {
		return d.fail("zero", disk, off, err)
	}
	return nil
}

func (d *draft) writable(ctx context.Context, disk dr.DiskID, off, n int64) (opened, error) {
	if d.unsure.Load() {
		return opened{}, fmt.Errorf("%w: a commit failed, and the torn mark may be off (commit again, or close the draft and copy again)", dr.ErrConflict)
	}
	if err := d.passed(); err != nil {
		return opened{}, err
	}
	return d.disks.find(ctx, disk, off, n)
}

// mark tells the tracker of a write, before it and, by what it returns, after.
func (d *draft) mark(disk dr.DiskID, off, n int64) func() {
	t := d.m.host.cfg.Tracker
	if t == nil {
		return func() {}
	}
	t.Mark(d.m.id, disk, off, n)
	return func() { t.Mark(d.m.id, disk, off, n) }
}

// Sums implements [dr.Summer].
func (d *draft) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	if err := d.disks.sums(ctx, disk, off, sums); err != nil {
		return d.fail("sum", disk, off, err)
	}
	return nil
}

// Commit implements [dr.Draft]. After a disk could not be synced, no commit of
// this draft succeeds any more: what the kernel dropped can't be known, so the
// point must be copied again, by a new draft.
func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.committed {
		return nil
	}
	err := d.commit(ctx, p)
	if err != nil {
		return d.fail("commit", "", -1, err)
	}
	d.committed = true
	return nil
}

func (d *draft) commit(ctx context.Context, p dr.Point) error {
	if d.closed {
		return os.ErrClosed
	}
	if d.poisoned != nil {
		return fmt.Errorf("a disk could not be synced before, so its content is unknown (close the draft and copy again): %w", d.poisoned)
	}
	release, err := d.m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := d.passed(); err != nil {
		return err
	}
	if err := d.disks.sync(); err != nil {
		d.poisoned = err
		return err
	}
	next := d.m.record().clone()
	next.Torn = ""
	next.hold(held{d.point.ID, p.Time, p.Consistency}, d.disks.sizes())
	copied := maps.Clone(d.disks)
	maps.DeleteFunc(copied, func(id dr.DiskID, _ opened) bool { _, ok := d.want.Disk(id); return !ok })
	d.m.see(next, copied) // others that are given up are nobody's still
	next.Refit = next.taken()
	next.cleared(d.want, true)
	d.m.track.Lock()
	defer d.m.track.Unlock()
	if t := d.m.host.cfg.Tracker; t != nil {
		mark, err := t.Cut(ctx, d.m.id)
		if err != nil {
			return fmt.Errorf("tracker: %w", err)
		}
		next.name(d.point.ID, mark)
	}
	if err := d.m.save(next); err != nil {
		d.unsure.Store(true)
		return err
	}
	d.m.tidy(ctx)
	return nil
}

// Close implements [dr.Draft].
func (d *draft) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	err := d.disks.close()
	if rec := d.m.record(); d.committed && rec != nil && !rec.Made {
		d.m.rescan(rec)
	}
	d.m.mu.Lock()
	if d.m.draft == d {
		d.m.draft = nil
	}
	d.m.mu.Unlock()
	if err != nil && !d.committed {
		return d.fail("close", "", -1, err)
	}
	return nil
}

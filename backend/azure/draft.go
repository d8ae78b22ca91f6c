package azure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Draft implements backend.Target. Disks that a machine runs on can't be
// written; so what is drafted are page blobs, of which disks are made when the
// machine starts next. A machine's own disks stay as they are until then: a
// draft that is given up has harmed nothing, though the machine counts as torn.
//
// A disk is copied to its blob, by the storage service where that can, when
// the first byte of it is written; an adopted image replaces it whole.
func (a *Azure) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	m, err := a.find(ctx, id)
	if err != nil {
		return nil, fail("draft", id, "", -1, err)
	}
	if err := p.ID.Validate(); err != nil {
		return nil, fail("draft", id, "", -1, err)
	}
	if m.power != dr.Off {
		return nil, fail("draft", id, "", -1, remedied(dr.ErrRunning, "stop the machine"))
	}
	if ctx, err = a.under(ctx, m); err != nil {
		return nil, fail("draft", id, "", -1, err)
	}
	owner := uuid.NewString()
	untidy, torn := false, false
	r, err := a.update(ctx, id, func() (record, error) { return m.current(), nil }, func(r *record) error {
		m.refresh(r)
		untidy, r.Untidy, torn = r.Untidy, true, r.Torn
		r.New, r.Torn, r.Holds, r.Draft = false, true, "", owner
		r.Gen++
		return nil
	})
	if err != nil {
		return nil, fail("draft", id, "", -1, err)
	}
	m.rec, m.has = r, true
	if torn { // whoever writes yet, writes to no disk of this draft, also if it leaves that alone
		for _, x := range r.Disks {
			if err := a.evict(ctx, x.Blob); err != nil {
				return nil, fail("draft", id, x.ID, -1, err)
			}
		}
	}
	if untidy { // an earlier draft may have died
		if err := a.tidy(ctx, id); err != nil {
			if !tolerable(err) {
				return nil, fail("draft", id, "", -1, err)
			}
			a.opts.Log.Warn("what an earlier draft has left can't be deleted", "machine", id, "err", explain(err))
		}
	}
	g, _ := ctx.Value(guardKey{}).(*guard)
	if g != nil {
		g.draft = owner
	}
	return &draft{a: a, m: m, guard: g, point: p, owner: owner, gen: r.Gen, fences: dr.Fences(ctx), disks: map[dr.DiskID]*draftDisk{}}, nil
}

// draft is a machine's disks being written.
type draft struct {
	a     *Azure
	m     *machine
	point dr.Point
	owner string // names the draft, and is the lease of its blobs
	gen   int
	// fences are what it was opened under.
	fences map[string]uint64
	guard  *guard

	mu     sync.Mutex
	disks  map[dr.DiskID]*draftDisk // of which a blob was asked for
	done   bool
	closed bool
}

// draftDisk is a disk's blob once it is there.
type draftDisk struct {
	mu   sync.Mutex
	s    *staged
	name string
}

// errOtherDraft says that a draft isn't the machine's last one.
var errOtherDraft = remedied(fmt.Errorf("%w: another draft of the machine was begun", dr.ErrFenced), "see that no two processes work on one machine")

var errClosed = errors.New("the draft is closed")

// disk returns the blob of a disk, and makes it the first time.
func (d *draft) disk(ctx context.Context, id dr.DiskID) (*staged, error) {
	rec := d.m.rec.disk(id)
	if rec == nil {
		return nil, fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	}
	d.mu.Lock()
	if d.closed || d.done {
		d.mu.Unlock()
		return nil, errClosed
	}
	x := d.disks[id]
	if x == nil {
		x = &draftDisk{}
		d.disks[id] = x
	}
	d.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.s == nil {
		s, name, err := d.begin(ctx, *rec)
		if err != nil {
			return nil, err
		}
		x.s, x.name = s, name
	}
	return x.s, nil
}

// begin makes a disk's blob, or a disk to be uploaded to if that was asked for
// and it holds nothing yet.
func (d *draft) begin(ctx context.Context, rec diskRecord) (*staged, string, error) {
	if d.guard != nil {
		ctx = context.WithValue(dr.WithFences(ctx, d.fences), guardKey{}, d.guard)
	}
	if err := recheck(ctx); err != nil {
		return nil, "", err
	}
	o, err := d.a.optionsOf(&d.m.rec)
	if err != nil {
		return nil, "", err
	}
	if o.Upload == "direct" && rec.Blob == "" && rec.Disk == "" {
		return d.a.upload(ctx, d.m, &d.m.rec, rec, d.gen)
	}
	return d.a.toBlob(ctx, d.m, rec, d.gen, d.owner)
}

// uploads says that the disk is written directly.
func (x *draftDisk) uploads() bool { return x.s != nil && x.s.renew != nil }

func (d *draft) fail(op string, disk dr.DiskID, off int64, err error) error {
	err = fail(op, d.m.id, disk, off, err)
	var e *dr.Error
	if errors.As(err, &e) && e.Point == "" {
		e.Point = d.point.ID
	}
	return err
}

func (d *draft) reach(id dr.DiskID, off, n int64) error {
	rec := d.m.rec.disk(id)
	if rec == nil {
		return fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	}
	if off < 0 || n < 0 || off > rec.Size || n > rec.Size-off {
		return dr.ErrOutOfRange
	}
	return nil
}

// WriteAt implements dr.Draft. What it has written is durable at once.
func (d *draft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	err := d.change(ctx, disk, off, int64(len(p)), func(s *staged) error { return s.write(ctx, p, off) })
	if err != nil {
		return 0, d.fail("write", disk, off, err)
	}
	return len(p), nil
}

// Zero implements dr.Zeroer.
func (d *draft) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	return d.fail("zero", disk, off, d.change(ctx, disk, off, n, func(s *staged) error { return s.zero(ctx, off, n) }))
}

func (d *draft) change(ctx context.Context, disk dr.DiskID, off, n int64, f func(*staged) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.reach(disk, off, n); err != nil || n == 0 {
		return err
	}
	s, err := d.disk(ctx, disk)
	if err != nil {
		return err
	}
	return f(s)
}

// Commit implements dr.Draft.
func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	if err := ctx.Err(); err != nil {
		return d.fail("commit", "", -1, err)
	}
	ctx = dr.WithFences(ctx, d.fences)
	if d.guard != nil {
		ctx = context.WithValue(ctx, guardKey{}, d.guard)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return nil
	}
	if d.closed {
		return d.fail("commit", "", -1, errClosed)
	}
	uploaded := map[dr.DiskID]*armcompute.Disk{}
	for id, x := range d.disks {
		if x.uploads() {
			disk, err := d.a.finish(ctx, x.name)
			if err != nil {
				return d.fail("commit", id, -1, err)
			}
			uploaded[id] = disk
		}
	}
	var gone []string
	_, err := d.a.update(ctx, d.m.id, nil, func(r *record) error {
		if r.Draft != d.owner {
			return errOtherDraft
		}
		if !r.Torn && r.Holds == d.point.ID {
			return errUnchanged // the answer to an earlier attempt was lost
		}
		gone = nil
		for id, x := range d.disks {
			rec := r.disk(id)
			switch {
			case rec == nil || x.s == nil:
			case x.uploads():
				rec.take(uploaded[id])
			default:
				if rec.Blob != "" && rec.Blob != x.name {
					gone = append(gone, rec.Blob)
				}
				rec.Blob, rec.Had = x.name, 0
			}
		}
		r.forgetMoments()
		d.m.own(r)
		r.Torn, r.Holds, r.Begun = false, d.point.ID, string(d.point.ID)
		return nil
	})
	if err != nil {
		return d.fail("commit", "", -1, err)
	}
	d.done = true
	for _, name := range gone { // what an adopted image has replaced
		if err := d.a.drop(ctx, name); err != nil {
			d.a.opts.Log.Warn("a blob is left behind until the machine starts", "blob", name, "err", explain(err))
		}
	}
	return d.fail("commit", "", -1, d.release(ctx))
}

// release gives the leases back.
func (d *draft) release(ctx context.Context) error {
	var errs []error
	for _, rec := range d.m.rec.Disks {
		if x := d.disks[rec.ID]; x != nil && x.s != nil {
			errs = append(errs, x.s.release(ctx))
		}
	}
	return errors.Join(errs...)
}

// Close implements dr.Draft. Without a Commit what was written stays where it
// is, for the next draft of the machine to write over, and is nothing else's.
func (d *draft) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.done {
		return nil
	}
	ctx, cancel := grace(context.Background())
	defer cancel()
	// A blob that only this draft knows of is lost to the next. A commit that
	// failed may have had its effect: then all of it is the machine's.
	var errs []error
	torn := false
	if len(d.disks) > 0 {
		_, err := d.a.update(ctx, d.m.id, nil, func(r *record) error {
			if torn = r.Draft == d.owner && r.Torn; !torn {
				return errUnchanged
			}
			for id, x := range d.disks {
				if rec := r.disk(id); rec != nil && x.s != nil && !x.uploads() {
					rec.Blob, rec.Had = x.name, 0
				}
			}
			return nil
		})
		torn = torn && err == nil // else it is found by what the record says of it
		errs = append(errs, err)
	}
	for _, x := range d.disks {
		if torn && x.uploads() {
			errs = append(errs, d.a.abandon(ctx, x.name))
		}
	}
	return d.fail("close", "", -1, errors.Join(append(errs, d.release(ctx))...))
}

// forgetMoments gives up what changes could be told from: disks that a draft
// has written are made anew, and have no history with the old.
func (r *record) forgetMoments() {
	for i := range r.Moments {
		m := &r.Moments[i]
		if m.Done && !slices.Contains(r.Older, m.Point) {
			r.Older = append(r.Older, m.Point)
		}
		if m.Base {
			m.Released = true
		}
	}
	if r.Begun != "" && !slices.Contains(r.Older, dr.PointID(r.Begun)) {
		r.Older = append(r.Older, dr.PointID(r.Begun))
	}
	r.Older = r.Older[max(0, len(r.Older)-maxOlder):]
}

// maxOlder bounds the points that are remembered by name only.
const maxOlder = 64

// take makes a managed disk what the disk's content is in.
func (d *diskRecord) take(disk *armcompute.Disk) {
	id := deref(disk.ID)
	d.Replaced = slices.DeleteFunc(d.Replaced, func(old string) bool { return sameID(old, id) })
	if d.Disk != "" && !sameID(d.Disk, id) {
		d.Replaced = append(d.Replaced, d.Disk)
	}
	d.Blob, d.Disk, d.Had = "", id, 0
	d.Unique, d.Actual, d.Owned = deref(disk.Properties.UniqueID), deref(disk.Properties.DiskSizeBytes), deref(disk.Properties.LastOwnershipUpdateTime)
}

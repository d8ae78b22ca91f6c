package azure

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Capture implements backend.Source. A machine that is off, or that has one
// disk, is frozen by an incremental snapshot of each disk. Snapshots of several
// disks of a machine that runs are of several moments; so they are taken twice,
// and where nothing was written between the two they are of one. Where something
// was, the bytes are those of a restore point made between, which Azure makes of
// all disks at once, if the last is an hour old (three, for application
// consistency); else it is dr.ErrNotConsistent. The snapshots around it tell
// changes at any time. A restore point is what gives application consistency.
func (a *Azure) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	m, err := a.find(ctx, id)
	if err != nil {
		return nil, fail("capture", id, "", -1, err)
	}
	if err := name.Validate(); err != nil {
		return nil, fail("capture", id, "", -1, err)
	}
	img, err := a.capture(ctx, m, name, want)
	return img, fail("capture", id, "", -1, err)
}

func (a *Azure) capture(ctx context.Context, m *machine, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	r := m.current()
	switch {
	case r.Torn:
		return nil, remedied(dr.ErrTorn, "fill its disks from a recovery point first")
	case m.unmanaged():
		return nil, remedied(fmt.Errorf("%w: the machine has disks that are page blobs of a storage account", dr.ErrUnsupported), "convert them to managed disks")
	}
	if mo := r.moment(name); mo != nil && mo.Done {
		return a.image(m, *mo)
	}
	if m.power != dr.On && m.power != dr.Off {
		return nil, fmt.Errorf("%w: the machine is starting or stopping", dr.ErrBusy)
	}
	if m.power == dr.Off {
		var err error
		if r, err = a.asDisks(ctx, m, r); err != nil {
			return nil, err
		}
	}
	mo, r, err := a.intend(ctx, m, name)
	if err != nil {
		return nil, err
	}
	if err := a.fulfil(ctx, m, r, &mo, want); err != nil {
		clean, cancel := grace(ctx)
		defer cancel()
		return nil, errors.Join(err, a.forget(clean, m, r, mo))
	}
	return a.image(m, mo)
}

// fulfil freezes the machine's disks and records the capture that was begun as
// done, if it still is this attempt's to do.
func (a *Azure) fulfil(ctx context.Context, m *machine, r record, mo *moment, want dr.Consistency) error {
	if err := a.freeze(ctx, m, &r, mo, want); err != nil {
		return err
	}
	off := m.power == dr.Off
	if off {
		var err error
		if off, err = a.stayedOff(ctx, m, r); err != nil {
			return err
		}
		if !off && len(r.Disks) > 1 {
			return fmt.Errorf("%w: the machine was started while its disks were frozen", dr.ErrNotConsistent)
		}
	}
	d, err := a.describe(ctx, m)
	if err != nil {
		return err
	}
	done := *mo
	done.Done, done.Machine = true, &d
	_, err = a.update(ctx, m.id, nil, func(now *record) error {
		x := now.moment(mo.Point)
		if x == nil || x.Attempt != mo.Attempt {
			return fmt.Errorf("%w: the capture was begun again, or let go of, meanwhile", dr.ErrConflict)
		}
		*x = done
		if off && now.Draft == r.Draft && !now.Torn {
			m.refresh(now)
			m.own(now)
			now.Holds = mo.Point
		}
		return nil
	})
	if err == nil {
		*mo = done
	}
	return err
}

// stayedOff tells whether a machine that was off has been so all the time since
// it was looked at.
func (a *Azure) stayedOff(ctx context.Context, m *machine, r record) (bool, error) {
	m.own(&r)
	if err := a.look(ctx, m); err != nil {
		return false, err
	}
	return m.power != dr.On && m.untouched(&r), nil
}

// asDisks makes a stopped machine's disks such as can be captured. The moment
// before they are is kept as the base of what a draft has put there.
func (a *Azure) asDisks(ctx context.Context, m *machine, r record) (record, error) {
	for _, d := range r.Disks {
		if d.Had > 0 { // Prepare was cut off when it made the disk larger
			var err error
			if r, err = a.enlarge(ctx, m, r, d.ID); err != nil {
				return r, fail("enlarge", m.id, d.ID, -1, err)
			}
		}
	}
	if slices.ContainsFunc(r.Disks, func(d diskRecord) bool { return d.Blob != "" || d.Disk == "" }) {
		var err error
		if r, err = a.toDisks(ctx, m, r); err != nil {
			return r, err
		}
	}
	return a.base(ctx, m, r)
}

// base keeps the moment at which a committed draft was all that the disks held,
// if it isn't kept yet.
func (a *Azure) base(ctx context.Context, m *machine, r record) (record, error) {
	if r.Begun == "" || r.base(dr.PointID(r.Begun)) != nil {
		return r, nil
	}
	if !m.untouched(&r) {
		// Somebody has run it without us: what was written since nobody can
		// tell but that it may be anything.
		return a.update(ctx, m.id, nil, func(now *record) error {
			if now.Draft != r.Draft {
				return fmt.Errorf("%w: the machine's disks were written meanwhile", dr.ErrConflict)
			}
			now.recall(dr.PointID(now.Begun))
			now.Begun, now.Holds = "", ""
			return nil
		})
	}
	mo := moment{Point: dr.PointID(r.Begun), Attempt: r.Draft, Base: true, Done: true, Time: time.Now().UTC(), Disks: make([]momentDisk, len(r.Disks))}
	err := a.round(ctx, m, &r, mo.Point, "base-"+r.Draft, func(i int, name string) {
		d := r.Disks[i]
		mo.Disks[i] = momentDisk{ID: d.ID, Unique: d.Unique, Size: d.Size, Before: name, After: name}
	})
	if err != nil {
		return r, err
	}
	r, err = a.update(ctx, m.id, nil, func(now *record) error {
		if now.Draft != r.Draft {
			return fmt.Errorf("%w: the machine's disks were written meanwhile", dr.ErrConflict)
		}
		if now.base(mo.Point) != nil {
			return errUnchanged
		}
		now.Moments = append(now.Moments, mo)
		return nil
	})
	m.rec = r
	return r, err
}

// intend records that a capture is begun, under a name that no other attempt
// has: what one that was cut off has frozen is of another moment.
func (a *Azure) intend(ctx context.Context, m *machine, name dr.PointID) (moment, record, error) {
	mo := moment{Point: name, Attempt: rand.Text()[:12]}
	r, err := a.update(ctx, m.id, func() (record, error) { return m.current(), nil }, func(r *record) error {
		if r.Torn {
			return dr.ErrTorn
		}
		m.refresh(r)
		if x := r.moment(name); x != nil {
			if x.Attempt == mo.Attempt {
				return errUnchanged // it was written, though the answer was lost
			}
			if x.Done {
				return fmt.Errorf("%w: another process has captured it meanwhile", dr.ErrConflict)
			}
			x.Gone = true
		}
		r.Moments = append(r.Moments, mo)
		return nil
	})
	if err != nil {
		return mo, r, err
	}
	m.rec, m.has = r, true
	return mo, r, a.purge(ctx, m.id)
}

// round takes a snapshot of every disk. That one fails cuts no other off: what
// is made after its attempt was cleaned up nobody would look for.
func (a *Azure) round(ctx context.Context, m *machine, r *record, point dr.PointID, what string, made func(i int, name string)) error {
	return a.all(ctx, len(r.Disks), func(_ context.Context, i int) error {
		name := a.snapshotName(m, r.Disks[i].ID, what)
		if err := a.snap(ctx, m, r.Disks[i], name, point); err != nil {
			return fail("take a snapshot", m.id, r.Disks[i].ID, -1, err)
		}
		made(i, name)
		return nil
	}, nil)
}

// freeze fills the moment in.
func (a *Azure) freeze(ctx context.Context, m *machine, r *record, mo *moment, want dr.Consistency) error {
	mo.Disks = make([]momentDisk, len(r.Disks))
	for i, d := range r.Disks {
		mo.Disks[i].ID = d.ID // what is cleaned up is found by it
	}
	mo.Consistency = dr.CrashConsistent
	err := a.round(ctx, m, r, mo.Point, "a-"+mo.Attempt, func(i int, name string) {
		d := r.Disks[i]
		mo.Disks[i] = momentDisk{ID: d.ID, Unique: a.unique(m, d), Size: d.Size, Before: name, After: name}
	})
	if err != nil {
		return err
	}
	mo.Time = time.Now().UTC()
	switch {
	case m.power == dr.Off:
		// A guest that has shut down has written all that it had; whether it
		// did, or was powered off, nobody can tell: it is crash-consistent.
		return nil
	case want >= dr.FileSystemConsistent:
		err := a.restorePoint(ctx, m, mo, want)
		if err == nil {
			return a.after(ctx, m, r, mo)
		}
		if !errors.Is(err, dr.ErrNotConsistent) {
			return err
		}
		a.opts.Log.Info("no consistent restore point", "machine", m.id, "why", err)
	}
	if len(r.Disks) < 2 {
		return nil
	}
	if err := a.after(ctx, m, r, mo); err != nil {
		return err
	}
	quiet, err := a.quiet(ctx, mo)
	if err != nil || quiet {
		return err
	}
	for i := range mo.Disks {
		// Snapshots around the restore point, not before an earlier one too.
		mo.Disks[i].Before = mo.Disks[i].After
	}
	mo.Time = time.Now().UTC()
	if err := a.restorePoint(ctx, m, mo, dr.CrashConsistent); err != nil {
		return err
	}
	return a.afterAs(ctx, m, r, mo, "c-")
}

func (a *Azure) unique(m *machine, d diskRecord) string {
	if x, ok := m.live(d.Disk); ok {
		return deref(x.disk.Properties.UniqueID)
	}
	return d.Unique
}

func (a *Azure) after(ctx context.Context, m *machine, r *record, mo *moment) error {
	return a.afterAs(ctx, m, r, mo, "b-")
}

func (a *Azure) afterAs(ctx context.Context, m *machine, r *record, mo *moment, round string) error {
	return a.round(ctx, m, r, mo.Point, round+mo.Attempt, func(i int, name string) { mo.Disks[i].After = name })
}

// quiet tells whether nothing was written between the two rounds of snapshots:
// then all of them are of one moment.
func (a *Azure) quiet(ctx context.Context, mo *moment) (bool, error) {
	for _, d := range mo.Disks {
		for _, err := range a.diff(ctx, d.Before, d.After, d.Size) {
			if errors.Is(err, dr.ErrChangesLost) {
				return false, nil
			}
			return false, err
		}
	}
	return true, nil
}

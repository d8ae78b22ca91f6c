package vmware

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Commit implements dr.Draft. Everything is made durable and the disks are
// closed; a snapshot, gone again at once, tells the changeIds from which the
// machine's own changes will be counted; then one change of the record ends the
// mark, says what the disks hold, and names the epoch. Until that has happened
// the machine is torn.
//
// What the draft wrote has to be among the changes since older points, too.
// Whether the platform's tracker saw it is asked, not assumed: if not, or if an
// earlier draft was cut off, older points are compared whole.
func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	d.mu.Lock()
	state := d.state
	d.mu.Unlock()
	switch {
	case state == draftCommitted:
		return nil
	case state == draftClosed:
		return d.fail("commit", "", -1, fmt.Errorf("%w: the draft is closed", dr.ErrInvalid))
	case ctx.Err() != nil:
		return d.fail("commit", "", -1, ctx.Err())
	}
	if err := d.open.flush(ctx); err != nil {
		return d.fail("make disks durable", "", -1, err)
	}
	if err := d.open.shut(); err != nil {
		return d.fail("close disks", "", -1, err)
	}
	if err := d.v.changing(dr.WithFences(ctx, d.fences), d.id, func(m *machine) error { return d.publish(ctx, m) }); err != nil {
		return d.fail("commit", "", -1, err)
	}
	d.mu.Lock()
	d.state = draftCommitted
	d.mu.Unlock()
	return nil
}

// publish makes the machine hold the point.
func (d *draft) publish(ctx context.Context, m *machine) error {
	if err := writableNow(m); err != nil {
		return err
	}
	d.tearing.Lock()
	torn := d.torn
	d.tearing.Unlock()
	switch mine := m.record.Draft == d.token; {
	case mine && !m.record.Torn && m.record.Holds == d.point.ID:
		return nil // the answer was lost
	case torn && !(mine && m.record.Torn), !torn && m.record.Draft != d.last:
		return errOtherDraft
	}
	r := m.record
	cursors, err := d.moment(ctx, m, &r)
	if err != nil {
		return err
	}
	r.Torn, r.For, r.Holds, r.New, r.Draft = false, "", d.point.ID, false, d.token
	r.began(d.point.ID, cursors)
	return d.v.save(ctx, m, r)
}

// moment learns the changeIds of the disks as they are now, by a snapshot that
// it removes again. The record is told what is to be believed of older ones.
func (d *draft) moment(ctx context.Context, m *machine, r *record) (map[dr.DiskID]dr.Cursor, error) {
	v := d.v
	if err := v.dropEpochs(ctx, m); err != nil {
		return nil, err
	}
	if err := v.consolidate(ctx, m); err != nil {
		return nil, err
	}
	if err := v.track(ctx, m); err != nil {
		return nil, err
	}
	if err := v.createSnapshot(ctx, m, mark{Point: d.point.ID, Epoch: true}, false); err != nil {
		return nil, err
	}
	next, err := v.again(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := writableNow(next); err != nil {
		return nil, err
	}
	s, ok := next.epochSnapshot(d.point.ID)
	if !ok {
		return nil, fmt.Errorf("%w: the snapshot that was made is not in the machine's tree", dr.ErrNotFound)
	}
	cursors, err := d.read(ctx, next, s, r)
	if err != nil {
		return nil, err
	}
	return cursors, v.dropEpochs(ctx, next)
}

// read reads the changeIds off the snapshot that was just made, and finds out
// whether older ones still count.
func (d *draft) read(ctx context.Context, m *machine, s snapshot, r *record) (map[dr.DiskID]dr.Cursor, error) {
	config, err := d.v.snapshotConfig(ctx, s.ref)
	if err != nil {
		return nil, err
	}
	disks := disksOf(config.Hardware.Device, m.record.Disks)
	r.trusted(disks, len(m.snapshots()) == 1, m.began)
	for _, x := range disks {
		t, ok := r.believes(x)
		if !ok {
			continue
		}
		saw, err := d.saw(ctx, m, s, x)
		if err != nil {
			return nil, err
		}
		if !saw {
			d.v.options.Log.WarnContext(ctx, "change tracking is not known to have seen what was written: older points will be compared whole", "machine", m.id, "disk", x.id, "point", d.point.ID)
			r.distrust(x, t)
		}
	}
	return r.cursors(disks), nil
}

// saw tells whether the tracker reports every block that was written, as
// changed since the changeId that the disk had when the draft was opened. What
// a draft wrote that was cut off nobody knows.
func (d *draft) saw(ctx context.Context, m *machine, s snapshot, x vdisk) (bool, error) {
	wrote := d.wrote[x.id]
	switch cursor := d.before[x.id]; {
	case d.again || wrote == nil:
		return false, nil
	case wrote.Empty():
		return true, nil
	case epochOf(cursor) != epochOf(x.changeID):
		return false, nil
	default:
		left := wrote.Clone()
		for e, err := range d.v.areas(ctx, m.ref, &s.ref, x, cursor) {
			if err != nil {
				return false, notLost(err)
			}
			left.Remove(e.Off, e.Len)
		}
		return left.Empty(), nil
	}
}

// epochSnapshot finds the snapshot that was made to learn a draft's changeIds.
func (m *machine) epochSnapshot(p dr.PointID) (snapshot, bool) {
	for _, s := range m.snapshots() {
		if s.ours && s.mark.Epoch && s.mark.Point == p {
			return s, true
		}
	}
	return snapshot{}, false
}

// dropEpochs removes the snapshots that were made to learn changeIds, also
// those that a crash left.
func (v *VSphere) dropEpochs(ctx context.Context, m *machine) error {
	for _, s := range m.snapshots() {
		if s.ours && s.mark.Epoch {
			if err := v.removeSnapshot(ctx, m, s.ref); err != nil {
				return err
			}
		}
	}
	return nil
}

package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Commit implements dr.Draft. Everything is made durable and the files get their
// names again; a reference point keeps the moment from which the machine's own
// changes will be counted; then one change of the record ends the mark, says
// what the disks hold, and names the epoch.
//
// A crash in between leaves the machine torn by its record, while its disks are
// the point's, whole: who starts it by hand then starts that.
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
	if err := d.v.heeding(dr.WithFences(ctx, d.fences), d.id, func(m *machine) error { return d.publish(ctx, m) }); err != nil {
		// What is written from now on must be under the other names again.
		d.tearing.Lock()
		d.torn = false
		d.tearing.Unlock()
		return d.fail("commit", "", -1, err)
	}
	d.mu.Lock()
	d.state = draftCommitted
	d.mu.Unlock()
	return nil
}

// publish makes the machine hold the point.
func (d *draft) publish(ctx context.Context, m *machine) error {
	if err := m.writableNow(); err != nil {
		return err
	}
	d.tearing.Lock()
	torn := d.torn
	d.tearing.Unlock()
	switch mine := m.record.Draft == d.token; {
	case mine && !m.record.Torn && m.record.Holds == d.point.ID:
		return nil // the answer was lost
	case torn && !(mine && m.record.Torn), !torn && m.record.Draft != d.last && !mine:
		return &explained{fmt.Errorf("%w: another draft of the machine was begun since", dr.ErrConflict), "see that no two processes work on one machine, and copy the point again"}
	}
	if err := m.show(ctx); err != nil {
		return err
	}
	if err := d.v.settleAsked(ctx, m); err != nil {
		return err
	}
	r := m.record
	e, err := d.moment(ctx, m, &r)
	if err != nil {
		return err
	}
	r.Torn, r.For, r.Holds, r.New, r.Draft, r.Stamp = false, "", d.point.ID, false, d.token, m.stamp()
	r.Moments++
	if e.N = r.Moments; e.Reference != "" {
		r.began(e)
	}
	if err := d.v.save(ctx, m, r); err != nil {
		return err
	}
	for _, c := range r.Captures {
		if !c.Dropped {
			continue
		}
		if err := d.v.letGo(ctx, m, c.Point); err != nil {
			d.v.options.Log.WarnContext(ctx, "a checkpoint that was released is left for now", "machine", m.id, "point", c.Point, "error", err)
		}
	}
	if err := d.v.trim(ctx, m, maxEpochs); err != nil {
		d.v.options.Log.WarnContext(ctx, "older reference points are left for now", "machine", m.id, "error", err)
	}
	return nil
}

// moment makes the reference point of the disks as they are now. The record is
// told what is to be believed of older ones.
func (d *draft) moment(ctx context.Context, m *machine, r *record) (epoch, error) {
	references, err := m.references(ctx)
	if err != nil {
		return epoch{}, err
	}
	r.Asked = &captured{Point: d.point.ID, Releasing: true, References: instances(references)}
	if err := d.v.save(ctx, m, *r); err != nil {
		return epoch{}, err
	}
	r.Asked = nil
	e, err := m.reference(ctx, d.point.ID)
	if err != nil && unable(err) {
		d.v.options.Log.WarnContext(ctx, "no reference point could be made: changes are compared", "machine", m.id, "point", d.point.ID, "error", err)
		if err := m.dropReferences(ctx, r.Epochs); err != nil {
			return epoch{}, err
		}
		r.distrust()
		return epoch{}, nil
	}
	if err != nil {
		return epoch{}, err
	}
	// What the draft wrote has to be among the changes since older points, too.
	// Whether the host's tracker saw it is asked, not assumed.
	for _, x := range m.disks {
		saw, err := d.saw(ctx, m, x)
		if err != nil {
			return epoch{}, err
		}
		if !saw {
			d.v.options.Log.WarnContext(ctx, "change tracking is not known to have seen what was written: older points will be compared whole", "machine", m.id, "disk", x.id, "point", d.point.ID)
			if err := m.dropReferences(ctx, r.Epochs); err != nil {
				return epoch{}, err
			}
			r.distrust()
			break
		}
	}
	return e, nil
}

// distrust gives up all moments from before: also those of checkpoints that are
// still to be let go of.
func (r *record) distrust() {
	r.Epochs, r.Distrusted = nil, r.Moments
	r.Captures = slices.Clone(r.Captures)
	for i := range r.Captures {
		r.Captures[i].Stale = true
	}
}

// saw tells whether the tracker reports every block that was written, as
// changed since before the draft. What a draft wrote that was cut off nobody
// knows.
func (d *draft) saw(ctx context.Context, m *machine, x vdisk) (saw bool, err error) {
	wrote := d.wrote[x.id]
	switch {
	case d.again || wrote == nil:
		return false, nil
	case wrote.Empty():
		return true, nil
	case d.before[x.id] == "":
		return false, nil
	}
	f, err := m.node.disks.Open(ctx, x.at, false)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	left := wrote.Clone()
	for r, err := range f.Changes(ctx, d.before[x.id]) {
		if errors.Is(err, host.ErrTrackingLost) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if r.Len > 0 {
			left.Remove(r.Off, r.Len)
		}
	}
	return left.Empty(), nil
}

// dropReferences destroys epochs' reference points.
func (m *machine) dropReferences(ctx context.Context, epochs []epoch) error {
	if len(epochs) == 0 {
		return nil
	}
	all, err := m.references(ctx)
	if err != nil {
		return err
	}
	for _, e := range epochs {
		for _, o := range all {
			if o.Props.String("InstanceID") != e.Reference {
				continue
			}
			_, err := m.node.call(ctx, m.node.references, "DestroyReferencePoint", host.Props{"AffectedReferencePoint": o.Path}, output{})
			if err != nil && !errors.Is(err, host.ErrNotFound) {
				return err
			}
		}
	}
	return nil
}

// merged waits until what Hyper-V merges after a checkpoint is done: until then
// disks' files have other names soon. A chain that a person made stays.
func (v *HyperV) merged(ctx context.Context, m *machine) (*machine, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, v.options.JobLimit, &explained{
		fmt.Errorf("%w: the host has not merged the machine's checkpoints within Options.JobLimit", dr.ErrBusy), "see in Hyper-V Manager what holds the merge up"})
	defer cancel()
	looks := 0
	for wait := v.pace(); ; wait.sleep(ctx) {
		if len(m.others) > 0 || !m.merging() {
			return m, m.writableNow()
		}
		if looks++; looks == patience {
			// Older reference points hold merges up: what they keep is given up.
			if err := v.trim(ctx, m, 1); err != nil {
				return nil, err
			}
		}
		if looks == 2*patience {
			// Those of another backup we can't give up. The machine is used in
			// the files that it has now.
			all, err := m.references(ctx)
			if err != nil || len(all) > len(m.record.Epochs) {
				return m, errors.Join(err, m.writableNow())
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		next, err := v.again(ctx, m)
		if err != nil {
			return nil, err
		}
		m = next
	}
}

// patience is how often a merge is looked at before something is given up for it.
const patience = 5

// merging tells whether disks are in files that a checkpoint began.
func (m *machine) merging() bool {
	for _, d := range m.disks {
		if ext := strings.ToLower(d.path); strings.HasSuffix(ext, ".avhdx") || strings.HasSuffix(ext, ".avhd") {
			return true
		}
	}
	return false
}

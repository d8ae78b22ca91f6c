package hyperv

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Release implements backend.Source: the checkpoint becomes a reference point,
// which keeps its moment for change tracking and nothing of its bytes. Where
// that can't be (configurations older than 6.2, disks in the old format) it is
// removed, and later captures compare whole disks.
func (v *HyperV) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	_, err := v.release(ctx, id, func(p dr.PointID) bool { return p != name })
	return withPoint(fail("release", id, "", -1, err), name)
}

// Sweep implements backend.Sweeper.
func (v *HyperV) Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	swept, err := v.release(ctx, id, keep)
	return swept, fail("sweep", id, "", -1, err)
}

// release lets go of our checkpoints that keep doesn't want.
func (v *HyperV) release(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) (gone []dr.PointID, err error) {
	err = v.changing(ctx, id, func(m *machine) error {
		if err := v.settleAsked(ctx, m); err != nil {
			return err
		}
		for _, c := range slices.Clone(m.record.Captures) {
			if keep(c.Point) || c.Dropped && m.torn() {
				continue
			}
			if m.torn() {
				r := m.record
				c.Dropped = true
				r.set(c)
				if err := v.save(ctx, m, r); err != nil {
					return err
				}
				gone = append(gone, c.Point)
				continue
			}
			if err := v.letGo(ctx, m, c.Point); err != nil {
				return err
			}
			gone = append(gone, c.Point)
		}
		return v.trim(ctx, m, maxEpochs)
	})
	if errors.Is(err, dr.ErrNotFound) { // the machine; what the host lacks besides says host.ErrNotFound
		return gone, nil
	}
	return gone, err
}

// letGo turns a point's checkpoint into a reference point, or removes it. It is
// written down first that this is being done: of a process that died amid it
// the reference point is found again, as one that wasn't there before.
func (v *HyperV) letGo(ctx context.Context, m *machine, name dr.PointID) error {
	if c, _ := m.record.capture(name); c.Releasing { // the job of who was cut off may go on
		if err := m.idle(ctx); err != nil {
			return err
		}
		next, err := v.again(ctx, m)
		if err != nil {
			return err
		}
		*m = *next
	}
	c, checkpoint, err := v.captured(ctx, m, name)
	if err != nil {
		return err
	}
	references, err := m.references(ctx)
	if err != nil {
		return err
	}
	if checkpoint.Path == "" {
		r := m.record
		c, _ = r.capture(name)
		r.drop(name)
		if o, ok := m.left(c, references); ok {
			e := epochOf(name, o)
			if e.N = c.N; c.Stale {
				if err := m.dropReferences(ctx, []epoch{e}); err != nil {
					return err
				}
			} else {
				r.began(e)
			}
		}
		return v.save(ctx, m, r)
	}
	if c.Stale {
		if err := m.destroyCheckpoint(ctx, checkpoint); err != nil {
			return err
		}
		r := m.record
		r.drop(name)
		return v.save(ctx, m, r)
	}
	r := m.record
	c.Releasing, c.References = true, instances(references)
	r.set(c)
	if err := v.save(ctx, m, r); err != nil {
		return err
	}
	e, err := m.convert(ctx, name, checkpoint)
	if err != nil && unable(err) {
		v.options.Log.WarnContext(ctx, "no reference point could be made: the next capture compares whole disks", "machine", m.id, "point", name, "error", err)
		err = m.destroyCheckpoint(ctx, checkpoint)
	}
	if err != nil {
		return err
	}
	r = m.record
	r.drop(name)
	if e.N = c.N; e.Reference != "" {
		r.began(e)
	}
	return v.save(ctx, m, r)
}

func (m *machine) destroyCheckpoint(ctx context.Context, checkpoint host.Object) error {
	_, err := m.node.call(ctx, m.node.snapshots, "DestroySnapshot", host.Props{"AffectedSnapshot": checkpoint.Path}, output{})
	return err
}

// references are the machine's reference points, whoever made them.
func (m *machine) references(ctx context.Context) ([]host.Object, error) {
	return m.node.conn.Query(ctx, "SELECT * FROM "+classReference+" WHERE VirtualSystemIdentifier='"+strings.ToUpper(string(m.id))+"'")
}

// instances are objects' InstanceIDs.
func instances(all []host.Object) (ids []string) {
	for _, o := range all {
		ids = append(ids, o.Props.String("InstanceID"))
	}
	return ids
}

// settleAsked destroys the reference point that a commit asked for which was cut
// off before it wrote it down: nobody else would, and it holds up merges.
func (v *HyperV) settleAsked(ctx context.Context, m *machine) error {
	if m.record.Asked == nil {
		return nil
	}
	if err := m.idle(ctx); err != nil {
		return err
	}
	references, err := m.references(ctx)
	if err != nil {
		return err
	}
	if o, ok := m.left(*m.record.Asked, references); ok {
		if err := m.dropReferences(ctx, []epoch{{Reference: o.Props.String("InstanceID")}}); err != nil {
			return err
		}
	}
	r := m.record
	r.Asked = nil
	return v.save(ctx, m, r)
}

// left finds the reference point that a process made of a capture before it
// died. Of several nobody knows which it is; what is lost is a comparison.
func (m *machine) left(c captured, references []host.Object) (host.Object, bool) {
	if !c.Releasing {
		return host.Object{}, false
	}
	var fresh []host.Object
	for _, o := range references {
		id := o.Props.String("InstanceID")
		if !slices.Contains(c.References, id) && !slices.ContainsFunc(m.record.Epochs, func(e epoch) bool { return e.Reference == id }) {
			fresh = append(fresh, o)
		}
	}
	if len(fresh) != 1 {
		return host.Object{}, false
	}
	return fresh[0], true
}

// Values of Msvm_VirtualSystemReferencePoint.
const (
	propertyRCT = 2 // ReferencePointType
	methodRCT   = 1 // CreateReferencePoint's parameter of that name: other numbers
)

// convert makes a reference point of a checkpoint, which is gone then.
func (m *machine) convert(ctx context.Context, name dr.PointID, checkpoint host.Object) (epoch, error) {
	settings, err := m.node.referenceSettings(ctx)
	if err != nil {
		return epoch{}, err
	}
	o, err := m.node.call(ctx, m.node.snapshots, "ConvertToReferencePoint", host.Props{
		"AffectedSnapshot": checkpoint.Path, "ReferencePointSettings": settings,
	}, output{"ResultingReferencePoint", classReference})
	if err != nil {
		return epoch{}, err
	}
	return epochOf(name, o), nil
}

func (n *node) referenceSettings(ctx context.Context) (string, error) {
	return n.conn.Text(ctx, "Msvm_VirtualSystemReferencePointSettingData", host.Props{"ConsistencyLevel": uint16(levelCrash)})
}

// reference makes a reference point of a machine as it is.
func (m *machine) reference(ctx context.Context, name dr.PointID) (epoch, error) {
	settings, err := m.node.referenceSettings(ctx)
	if err != nil {
		return epoch{}, err
	}
	o, err := m.node.call(ctx, m.node.references, "CreateReferencePoint", host.Props{
		"AffectedSystem": m.system.Path, "ReferencePointSettings": settings, "ReferencePointType": uint16(methodRCT),
	}, output{"ResultingReferencePoint", classReference})
	if err != nil {
		return epoch{}, err
	}
	return epochOf(name, o), nil
}

// epochOf reads a reference point. Its two lists belong together pair by pair;
// if they are not of one length nothing of them is believed.
func epochOf(name dr.PointID, o host.Object) epoch {
	e := epoch{Point: name, Reference: o.Props.String("InstanceID"), IDs: map[string]string{}}
	disks, ids := o.Props.Strings("VirtualDiskIdentifiers"), o.Props.Strings("ResilientChangeTrackingIdentifiers")
	if kind, ok := o.Props.Int("ReferencePointType"); len(disks) != len(ids) || ok && kind != propertyRCT {
		return e
	}
	for i, disk := range disks {
		e.IDs[strings.ToLower(strings.Trim(disk, "{}"))] = ids[i]
	}
	return e
}

// maxEpochs is how many moments are kept that changes may still be asked since.
const maxEpochs = 3

// Forget implements backend.Forgetter: older reference points hold up merges, so
// that the chain of a machine's disks grows.
func (v *HyperV) Forget(ctx context.Context, id dr.MachineID, before dr.PointID) error {
	err := v.changing(ctx, id, func(m *machine) error {
		for i, e := range slices.Backward(m.record.Epochs) {
			if e.Point == before {
				return v.trim(ctx, m, len(m.record.Epochs)-i)
			}
		}
		return nil
	})
	if errors.Is(err, dr.ErrNotFound) { // the machine; what the host lacks besides says host.ErrNotFound
		err = nil
	}
	return withPoint(fail("forget older points", id, "", -1, err), before)
}

// trim destroys all but the newest epochs' reference points.
func (v *HyperV) trim(ctx context.Context, m *machine, keep int) error {
	r := m.record
	old := r.Epochs[:max(0, len(r.Epochs)-keep)]
	if len(old) == 0 {
		return nil
	}
	if err := m.dropReferences(ctx, old); err != nil {
		return err
	}
	r.Epochs = slices.Clone(r.Epochs[len(old):])
	return v.save(ctx, m, r)
}

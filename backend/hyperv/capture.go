package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Capture implements backend.Source: it finds or makes a recovery checkpoint,
// which no tool shows to people. Disks that a checkpoint leaves out (passed
// through, shared, behind Fibre Channel) refuse it by name. Asking for more than
// crash consistency asks the guest for a production checkpoint; where that fails
// the point is crash-consistent, and says so.
func (v *HyperV) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	var img *image
	err := name.Validate()
	if err == nil {
		err = v.changing(ctx, id, func(m *machine) error {
			i, err := v.capture(ctx, m, name, want)
			img = i
			return err
		})
	}
	if err != nil {
		return nil, withPoint(fail("capture", id, "", -1, err), name)
	}
	return img, nil
}

func (v *HyperV) capture(ctx context.Context, m *machine, name dr.PointID, want dr.Consistency) (*image, error) {
	c, checkpoint, err := v.captured(ctx, m, name)
	if err != nil {
		return nil, err
	}
	if checkpoint.Path == "" {
		if c.Releasing { // and cut off: its reference point must not be lost sight of
			if err := v.letGo(ctx, m, name); err != nil {
				return nil, err
			}
		}
		if m, c, checkpoint, err = v.freeze(ctx, m, name, want); err != nil {
			return nil, err
		}
	}
	return v.image(ctx, m, c, checkpoint)
}

// captured finds the checkpoint of a point; one without a path is none, and what
// the record has of it is returned all the same. A process that died between
// asking for it and writing down which it is has left one that wasn't there
// before: if there are several nobody can say whose they are.
func (v *HyperV) captured(ctx context.Context, m *machine, name dr.PointID) (captured, host.Object, error) {
	c, ok := m.record.capture(name)
	if !ok {
		return captured{}, host.Object{}, nil
	}
	if c.Checkpoint != "" {
		for _, o := range m.others {
			if o.Props.String("InstanceID") == c.Checkpoint {
				return c, o, nil
			}
		}
		return c, host.Object{}, nil // somebody has removed it
	}
	var fresh []host.Object
	for _, o := range m.recoveries() {
		if id := o.Props.String("InstanceID"); !slices.Contains(c.Known, id) && !m.record.owns(id) {
			fresh = append(fresh, o)
		}
	}
	switch len(fresh) {
	case 0:
		return c, host.Object{}, m.idle(ctx)
	case 1:
		v.options.Log.WarnContext(ctx, "a checkpoint is taken for one of ours that a process which died has made", "machine", m.id, "point", name, "checkpoint", fresh[0].Props.String("InstanceID"))
		c.Checkpoint, c.Known = fresh[0].Props.String("InstanceID"), nil
		r := m.record
		r.set(c)
		return c, fresh[0], v.save(ctx, m, r)
	}
	return captured{}, host.Object{}, &explained{fmt.Errorf("%w: %d recovery checkpoints were made while a process of ours died, and one of them is ours", dr.ErrAmbiguous, len(fresh)), "when no other backup of the machine is under way, remove its recovery checkpoints: Get-VMSnapshot -SnapshotType Recovery | Remove-VMSnapshot"}
}

// owns tells whether a checkpoint belongs to one of our captures.
func (r *record) owns(checkpoint string) bool {
	return slices.ContainsFunc(r.Captures, func(c captured) bool { return c.Checkpoint == checkpoint })
}

// recoveries are the machine's recovery checkpoints, whoever made them.
func (m *machine) recoveries() []host.Object {
	return slices.DeleteFunc(slices.Clone(m.others), func(o host.Object) bool { return o.Props.String("VirtualSystemType") != recovery })
}

// freeze makes the checkpoint of a point, and returns the machine as it is then.
func (v *HyperV) freeze(ctx context.Context, m *machine, name dr.PointID, want dr.Consistency) (*machine, captured, host.Object, error) {
	no := func(err error) (*machine, captured, host.Object, error) { return nil, captured{}, host.Object{}, err }
	if err := m.freezable(); err != nil {
		return no(err)
	}
	c := captured{Point: name, Off: m.off(), N: m.record.Moments + 1}
	for _, o := range m.recoveries() {
		c.Known = append(c.Known, o.Props.String("InstanceID"))
	}
	c.Level = dr.CrashConsistent
	if want > dr.CrashConsistent && m.power() == dr.On {
		guest, err := m.guest(ctx)
		if err != nil {
			return no(err)
		}
		c.Level = min(want, guest.level())
	}
	r := m.record
	r.Moments = c.N
	r.set(c)
	if err := v.save(ctx, m, r); err != nil {
		return no(err)
	}
	made, err := m.checkpoint(ctx, c.Level)
	if err != nil && c.Level > dr.CrashConsistent && unable(err) {
		v.options.Log.WarnContext(ctx, "the guest could not be made consistent, the point is crash-consistent", "machine", m.id, "point", name, "error", err)
		c.Level = dr.CrashConsistent
		r.set(c)
		if err := v.save(ctx, m, r); err != nil {
			return no(err)
		}
		made, err = m.checkpoint(ctx, c.Level)
	}
	if err != nil {
		if refused(err) { // nothing was made
			r.drop(name)
			err = errors.Join(err, v.save(ctx, m, r))
		}
		return no(err)
	}
	c.Checkpoint, c.Known = made.Props.String("InstanceID"), nil
	next, err := v.again(ctx, m)
	if err != nil {
		return no(err)
	}
	r = next.record
	r.set(c)
	// It was off at the checkpoint and is off: its disks are that moment's.
	if c.Off && next.off() && next.stamp() == m.stamp() && len(next.foreign(r)) == 0 {
		r.Holds, r.Stamp = name, next.stamp()
	}
	return next, c, made, v.save(ctx, next, r)
}

// level is what a production checkpoint of this guest is consistent with: on
// Windows applications flush by VSS; elsewhere file systems are frozen.
func (g guest) level() dr.Consistency {
	if g.os() == "windows" {
		return dr.ApplicationConsistent
	}
	return dr.FileSystemConsistent
}

// refused tells whether the host said that it did not do it, rather than that
// nobody knows.
func refused(err error) bool {
	var h *host.Error
	return errors.As(err, &h) && (h.Kind == host.Method || errors.Is(err, host.ErrDenied))
}

// unable tells whether asking again would be refused again: a host that is only
// busy, or an account that lacks a right, is no reason to make do with less.
func unable(err error) bool {
	return refused(err) && !errors.Is(err, host.ErrBusy) && !errors.Is(err, host.ErrDenied)
}

// Values of Msvm_VirtualSystemSnapshotSettingData.
const (
	levelApplication = 1
	levelCrash       = 2
	// backupCopy leaves the logs of applications as they are: another backup
	// may count on them.
	backupCopy = 2
	// typeRecovery is CreateSnapshot's SnapshotType of a recovery checkpoint.
	typeRecovery = 32768
)

// checkpoint makes a recovery checkpoint.
func (m *machine) checkpoint(ctx context.Context, level dr.Consistency) (host.Object, error) {
	how := uint16(levelCrash)
	if level > dr.CrashConsistent {
		how = levelApplication
	}
	settings, err := m.node.conn.Text(ctx, "Msvm_VirtualSystemSnapshotSettingData", host.Props{
		"ConsistencyLevel": how, "GuestBackupType": uint16(backupCopy), "IgnoreNonSnapshottableDisks": false})
	if err != nil {
		return host.Object{}, err
	}
	return m.node.call(ctx, m.node.snapshots, "CreateSnapshot", host.Props{
		"AffectedSystem": m.system.Path, "SnapshotSettings": settings, "SnapshotType": uint16(typeRecovery),
	}, output{"ResultingSnapshot", classSettings})
}

// freezable refuses a machine of which a checkpoint would leave something out.
func (m *machine) freezable() error {
	if m.torn() {
		return &explained{dr.ErrTorn, "fill its disks from a recovery point first"}
	}
	if err := m.whole(); err != nil {
		return err
	}
	for _, d := range m.devices {
		return &dr.Error{Op: "capture", Machine: m.id, Disk: d.disk, Off: -1, Err: fmt.Errorf("%w: %s", dr.ErrUnsupported, d.text), Remedy: d.remedy}
	}
	return nil
}

// foreign are checkpoints that a record doesn't call ours: people's, and other
// backups'.
func (m *machine) foreign(r record) []string {
	var names []string
	for _, o := range m.others {
		if t := o.Props.String("VirtualSystemType"); t != planned && !r.owns(o.Props.String("InstanceID")) {
			names = append(names, oneLine(o.Props.String("ElementName")))
		}
	}
	return names
}

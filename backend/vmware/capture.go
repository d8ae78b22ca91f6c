package vmware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Machine implements backend.Source.
func (v *VSphere) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	m, err := v.find(ctx, id)
	if err != nil {
		return dr.Machine{}, fail("look up machine", id, "", -1, err)
	}
	return v.facts(ctx, m).describe(), nil
}

// Capture implements backend.Source: it finds or makes the snapshot of the
// point. Disks that a snapshot leaves out (independent ones, raw devices in
// physical mode) refuse it by name. Asking for more than crash consistency
// quiesces the guest through its tools; where that fails, or there are none,
// the point is crash-consistent, and says so.
//
// Where the machine has no snapshots, change tracking is enabled first. Where it
// has, it is left as it is, since tracking that begins above a snapshot can
// silently report too little; the point then has no cursors, and later captures
// compare whole disks until a capture meets the machine without snapshots.
func (v *VSphere) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	no := func(err error) (dr.Image, error) {
		return nil, withPoint(fail("capture", id, "", -1, err), name)
	}
	if err := name.Validate(); err != nil {
		return no(err)
	}
	unlock, err := v.locks.Lock(ctx, id)
	if err != nil {
		return no(err)
	}
	defer unlock()
	m, err := v.find(ctx, id)
	if err != nil {
		return no(err)
	}
	s, found := m.snapshotOf(name)
	if !found {
		if m.record.Torn {
			return no(&explained{dr.ErrTorn, "fill its disks from a recovery point first"})
		}
		if m, err = v.freeze(ctx, m, name, want); err != nil {
			return no(err)
		}
		var ok bool
		if s, ok = m.snapshotOf(name); !ok {
			return no(fmt.Errorf("%w: the snapshot that was made is not in the machine's tree", dr.ErrNotFound))
		}
	}
	img, err := v.image(ctx, m, s)
	if err != nil {
		return no(err)
	}
	if err := v.noteHolds(ctx, m, img, found); err != nil {
		img.Close()
		return no(err)
	}
	return img, nil
}

// freeze makes the snapshot of a point, and returns the machine as it is then.
func (v *VSphere) freeze(ctx context.Context, m *machine, name dr.PointID, want dr.Consistency) (*machine, error) {
	for _, d := range m.disks {
		if why := unfreezable(d); why != "" {
			return nil, &dr.Error{Op: "capture", Machine: m.id, Disk: d.id, Off: -1,
				Err: fmt.Errorf("%w: %s (%s) is %s, which snapshots leave out", dr.ErrUnsupported, d.label, d.file, why), Remedy: remedyUnfreezable}
		}
	}
	if err := m.twins(); err != nil {
		return nil, err
	}
	if err := v.consolidate(ctx, m); err != nil {
		return nil, err
	}
	if err := v.track(ctx, m); err != nil {
		return nil, err
	}
	k := mark{Point: name, Off: m.off(), NICs: m.describe().NICs}
	k.Held = min(want, v.held.still(m.id))
	quiesce := want > dr.CrashConsistent && k.Held == 0 && m.quiesces()
	if quiesce {
		k.Quiesced = min(want, m.quiescedLevel())
	}
	err := v.createSnapshot(ctx, m, k, quiesce)
	if err == nil && k.Held != 0 && v.held.still(m.id) == 0 {
		// It may have thawed before the snapshot, which says too much then.
		return nil, &explained{fmt.Errorf("%w: the guest thawed while the snapshot was made", errors.Join(dr.ErrNotConsistent, v.removeMarked(ctx, m, name))), "raise Options.FreezeLimit, or look at what keeps vSphere busy"}
	}
	if quiesce && quiesceFailed(err) {
		// The guest may be left frozen; a snapshot that isn't quiesced is
		// what thaws it, and is what can be had.
		v.options.Log.WarnContext(ctx, "quiescing failed, the point is crash-consistent", "machine", m.id, "point", name, "error", err)
		err = v.createSnapshot(ctx, m, k, false)
	}
	if err != nil {
		return nil, err
	}
	next, err := v.look(ctx, m.ref)
	if err == nil {
		next.began = m.began
	}
	return next, err
}

// removeMarked removes the snapshot of a point that has just been made.
func (v *VSphere) removeMarked(ctx context.Context, m *machine, name dr.PointID) error {
	m, err := v.lookAny(ctx, m.ref)
	if err != nil {
		return err
	}
	if s, ok := m.snapshotOf(name); ok {
		return v.removeSnapshot(ctx, m, s.ref)
	}
	return nil
}

const remedyUnfreezable = "make the disk dependent (not independent) or a virtual-mode mapping, or protect it with an agent inside the guest"

// unfreezable says in which way a snapshot leaves a disk out, or "".
func unfreezable(d vdisk) string {
	switch {
	case strings.HasPrefix(d.mode, "independent"):
		return "an independent disk"
	case d.raw:
		return "a raw device in physical compatibility mode"
	case d.shared:
		return "shared with other machines"
	}
	return ""
}

// quiesces tells whether the guest can be asked to hold its writes.
func (m *machine) quiesces() bool {
	g := m.props.Guest
	return !m.off() && g != nil && g.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
}

// quiescedLevel is what a quiesced snapshot of this guest is consistent with:
// on Windows its tools ask applications to flush, by VSS; elsewhere they freeze
// file systems.
func (m *machine) quiescedLevel() dr.Consistency {
	if m.describe().OS == "windows" {
		return dr.ApplicationConsistent
	}
	return dr.FileSystemConsistent
}

// quiesceFailed tells whether a snapshot failed because of the quiescing, so
// that one without it can be had.
func quiesceFailed(err error) bool {
	switch faultOf(err).(type) {
	case types.ApplicationQuiesceFault, *types.ApplicationQuiesceFault, types.FilesystemQuiesceFault, *types.FilesystemQuiesceFault,
		types.SnapshotFault, *types.SnapshotFault, types.ToolsUnavailable, *types.ToolsUnavailable,
		types.OperationDisallowedOnHost, *types.OperationDisallowedOnHost, types.GenericVmConfigFault, *types.GenericVmConfigFault:
		return true
	}
	return false
}

// Release implements backend.Source: it removes every snapshot of that name,
// and merges its disks.
func (v *VSphere) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	_, err := v.release(ctx, id, func(p dr.PointID) bool { return p != name })
	return withPoint(fail("release", id, "", -1, err), name)
}

// Sweep implements backend.Sweeper.
func (v *VSphere) Sweep(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	swept, err := v.release(ctx, id, keep)
	return swept, fail("sweep", id, "", -1, err)
}

// release removes our snapshots that keep doesn't want.
func (v *VSphere) release(ctx context.Context, id dr.MachineID, keep func(dr.PointID) bool) ([]dr.PointID, error) {
	unlock, err := v.locks.Lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m, err := v.findAny(ctx, id) // snapshots say themselves whose they are
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var gone []dr.PointID
	for _, s := range m.snapshots() {
		if !s.ours || !s.mark.Epoch && keep(s.mark.Point) {
			continue
		}
		if err := v.removeSnapshot(ctx, m, s.ref); err != nil {
			return gone, err
		}
		if !s.mark.Epoch && !slices.Contains(gone, s.mark.Point) {
			gone = append(gone, s.mark.Point)
		}
	}
	// A removal that merged nothing succeeds, and says so here only.
	if m, err = v.lookAny(ctx, m.ref); err != nil {
		return gone, err
	}
	return gone, v.consolidate(ctx, m)
}

func withPoint(err error, p dr.PointID) error {
	if e, ok := err.(*dr.Error); ok && e.Point == "" {
		e.Point = p
	}
	return err
}

package vmware

import (
	"context"
	"maps"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// trust is an epoch of a disk's change tracking that was met while the machine
// had no other snapshot. What begins above a snapshot is not believed: vSphere
// may leave out, without an error, what was written before ("CBT enabled while
// snapshots exist").
type trust struct {
	Epoch string `json:"epoch"`
	// Size is the disk's when the epoch was met: tracking across an extension
	// past a multiple of 128 GiB is known to lose writes.
	Size int64 `json:"size"`
	// Whole says that this library began the epoch: then the changeId "*",
	// everything that was ever written, can be believed too.
	Whole bool `json:"whole,omitempty"`
	// From is the first sequence of the epoch whose changeIds are believed.
	From int64 `json:"from,omitempty"`
}

// extension is where extending a tracked disk was broken.
const extension = 128 << 30

func (t trust) outgrown(size int64) bool { return t.Size/extension != size/extension }

// epochOf is the part of a changeId that names its epoch: "UUID/sequence".
func epochOf(changeID string) string {
	epoch, _, ok := strings.Cut(changeID, "/")
	if !ok {
		return ""
	}
	return epoch
}

// sequenceOf is a changeId's place in its epoch, or -1.
func sequenceOf(changeID string) int64 {
	_, n, _ := strings.Cut(changeID, "/")
	seq, err := strconv.ParseInt(n, 10, 64)
	if err != nil || seq < 0 {
		return -1
	}
	return seq
}

// track makes sure that changes are tracked from the next snapshot on. With
// snapshots it changes nothing. It remembers what it began, so that the
// next capture knows whom to believe.
func (v *VSphere) track(ctx context.Context, m *machine) error {
	if len(m.snapshots()) > 0 {
		return nil
	}
	on := m.config.ChangeTrackingEnabled != nil && *m.config.ChangeTrackingEnabled
	for _, d := range m.disks {
		if t, ok := m.record.Trusted[strings.ToLower(d.uuid)]; ok && on && t.outgrown(d.size) {
			v.options.Log.WarnContext(ctx, "change tracking is begun anew, as a disk grew past a multiple of 128 GiB", "machine", m.id, "disk", d.id, "size", d.size)
			if err := v.untrack(ctx, m); err != nil {
				return err
			}
			on = false
			break
		}
	}
	if on {
		return nil
	}
	err := v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)})
	switch faultOf(err).(type) {
	case types.NotSupported, *types.NotSupported:
		v.options.Log.WarnContext(ctx, "the machine can't track changes: whole disks will be compared", "machine", m.id, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	m.config.ChangeTrackingEnabled = types.NewBool(true)
	m.began = true
	return nil
}

// untrack ends the epochs: no changeId of before is taken any more.
func (v *VSphere) untrack(ctx context.Context, m *machine) error {
	err := v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(false)})
	if err == nil {
		m.config.ChangeTrackingEnabled = types.NewBool(false)
	}
	return err
}

// trusted adds to the record the epochs of disks that were seen in a snapshot,
// if that is the machine's only one; began says that track began them.
func (r *record) trusted(disks []vdisk, alone, began bool) {
	if !alone {
		return
	}
	next := map[string]trust{}
	for _, d := range disks {
		epoch := epochOf(d.changeID)
		if epoch == "" || d.uuid == "" {
			continue
		}
		uuid := strings.ToLower(d.uuid)
		t := r.Trusted[uuid]
		if t.Epoch != epoch {
			t = trust{Epoch: epoch, Size: d.size, Whole: began}
		}
		next[uuid] = t
	}
	if !maps.Equal(next, r.Trusted) {
		r.Trusted = next
	}
}

// distrust believes no changeId of a disk that is older than the one it has,
// nor what was ever written.
func (r *record) distrust(d vdisk, t trust) {
	t.From, t.Whole = sequenceOf(d.changeID), false
	r.Trusted = maps.Clone(r.Trusted)
	r.Trusted[strings.ToLower(d.uuid)] = t
	r.Epochs = nil
}

// believes tells whether what tracking says of a disk can be believed.
func (r *record) believes(d vdisk) (trust, bool) {
	t, ok := r.Trusted[strings.ToLower(d.uuid)]
	return t, ok && t.Epoch != "" && t.Epoch == epochOf(d.changeID) && !t.outgrown(d.size)
}

// cursors are the changeIds of disks that can be believed.
func (r *record) cursors(disks []vdisk) map[dr.DiskID]dr.Cursor {
	c := map[dr.DiskID]dr.Cursor{}
	for _, d := range disks {
		if _, ok := r.believes(d); ok {
			c[d.id] = dr.Cursor(d.changeID)
		}
	}
	return c
}

package vmware

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// snapshotPrefix begins the names of our snapshots, for people; the mark in
// the description is what programs go by.
const snapshotPrefix = "lifeboat "

// mark is the description of a snapshot that this library made.
type mark struct {
	Lifeboat int        `json:"lifeboat"`
	Point    dr.PointID `json:"point"`
	// Quiesced is what a snapshot that was quiesced is consistent with.
	Quiesced dr.Consistency `json:"quiesced,omitempty"`
	// Held is what a snapshot that was made as it is, of a guest that Quiesce
	// had frozen, is consistent with.
	Held dr.Consistency `json:"held,omitempty"`
	// Epoch says that the snapshot was made to learn changeIds, and is no
	// capture: it goes as soon as they are known.
	Epoch bool `json:"epoch,omitempty"`
	// Off says that the machine was off. The tree's own state doesn't: without
	// memory it is always "poweredOff".
	Off bool `json:"off,omitempty"`
	// NICs are the guest's addresses then: they are in no configuration.
	NICs []dr.NIC `json:"nics,omitempty"`
}

// maxMark bounds the description: addresses are left out rather than the point.
const maxMark = 2048

func (k mark) encode() string {
	k.Lifeboat = 1
	b, err := json.Marshal(k)
	if err == nil && len(b) > maxMark {
		k.NICs = nil
		b, err = json.Marshal(k)
	}
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(b)
}

// parseMark reads a description; ok is false for snapshots of others.
func parseMark(s string) (mark, bool) {
	var k mark
	if len(s) > 1<<20 || json.Unmarshal([]byte(s), &k) != nil || k.Lifeboat != 1 || k.Point.Validate() != nil {
		return mark{}, false
	}
	return k, true
}

// snapshot is one of a machine's.
type snapshot struct {
	ref      types.ManagedObjectReference
	name     string
	created  time.Time
	quiesced bool
	mark     mark
	ours     bool
}

// snapshots lists all of a machine's snapshots, oldest first.
func (m *machine) snapshots() []snapshot {
	if m.props.Snapshot == nil {
		return nil
	}
	var all []snapshot
	var walk func([]types.VirtualMachineSnapshotTree)
	walk = func(trees []types.VirtualMachineSnapshotTree) {
		for _, t := range trees {
			s := snapshot{ref: t.Snapshot, name: t.Name, created: t.CreateTime, quiesced: t.Quiesced}
			s.mark, s.ours = parseMark(t.Description)
			all = append(all, s)
			walk(t.ChildSnapshotList)
		}
	}
	walk(m.props.Snapshot.RootSnapshotList)
	slices.SortStableFunc(all, func(a, b snapshot) int { return a.created.Compare(b.created) })
	return all
}

// snapshotOf finds the snapshot of a point: the first, if a race made two.
func (m *machine) snapshotOf(p dr.PointID) (snapshot, bool) {
	for _, s := range m.snapshots() {
		if s.ours && !s.mark.Epoch && s.mark.Point == p {
			return s, true
		}
	}
	return snapshot{}, false
}

// foreign lists the snapshots that this library didn't make.
func (m *machine) foreign() []string {
	var names []string
	for _, s := range m.snapshots() {
		if !s.ours {
			names = append(names, s.name)
		}
	}
	return names
}

// snapshotConfig is a machine's configuration as a snapshot froze it.
func (v *VSphere) snapshotConfig(ctx context.Context, ref types.ManagedObjectReference) (types.VirtualMachineConfigInfo, error) {
	var s mo.VirtualMachineSnapshot
	if err := property.DefaultCollector(v.client).RetrieveOne(ctx, ref, []string{"config"}, &s); err != nil {
		return types.VirtualMachineConfigInfo{}, explain(err)
	}
	return s.Config, nil
}

// createSnapshot makes a snapshot without memory.
func (v *VSphere) createSnapshot(ctx context.Context, m *machine, k mark, quiesce bool) error {
	name := snapshotPrefix + string(k.Point)
	_, err := v.effect(ctx, m, func(ctx context.Context) (*object.Task, error) {
		return object.NewVirtualMachine(v.client, m.ref).CreateSnapshot(ctx, name[:min(len(name), 80)], k.encode(), false, quiesce)
	})
	return err
}

// removeSnapshot removes one snapshot of m, not its children, and merges its disks.
// One that is gone is no error.
func (v *VSphere) removeSnapshot(ctx context.Context, m *machine, ref types.ManagedObjectReference) error {
	_, err := v.effect(ctx, m, func(ctx context.Context) (*object.Task, error) {
		res, err := methods.RemoveSnapshot_Task(ctx, v.client, &types.RemoveSnapshot_Task{This: ref, Consolidate: types.NewBool(true)})
		if err != nil {
			return nil, err
		}
		return object.NewTask(v.client, res.Returnval), nil
	})
	if isNotFound(err) {
		return nil
	}
	return err
}

// consolidate merges what removals left behind. No snapshot may be made before:
// each would add to a chain that nobody sees in the tree.
func (v *VSphere) consolidate(ctx context.Context, m *machine) error {
	if !m.props.Runtime.ConsolidationNeeded {
		return nil
	}
	_, err := v.effect(ctx, m, func(ctx context.Context) (*object.Task, error) {
		res, err := methods.ConsolidateVMDisks_Task(ctx, v.client, &types.ConsolidateVMDisks_Task{This: m.ref})
		if err != nil {
			return nil, err
		}
		return object.NewTask(v.client, res.Returnval), nil
	})
	if err != nil {
		return fail("consolidate disks", m.id, "", -1, err)
	}
	return nil
}

package vmware

import (
	"context"
	"fmt"
	"maps"
	"unicode/utf8"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Prepare implements backend.Target. p.Options is a [PlaceOptions].
//
// An original must be off, have no snapshots of others, and have every disk of
// p.Machine at its size; disks that it has besides are left alone. Another
// machine is found by its key, or made from the saved configuration: disks that
// it lacks are added, smaller ones grown, and then it holds nothing any more.
// A replica that runs is ErrRunning; nothing is switched off here.
//
// What a machine holds is not believed but asked of its change tracking: a
// machine that somebody started, reverted or wrote to meanwhile holds nothing.
func (v *VSphere) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	r, err := v.prepare(ctx, p)
	return r, fail("prepare", p.Original, "", -1, err)
}

func (v *VSphere) prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if err := ctx.Err(); err != nil {
		return backend.Replica{}, err
	}
	if err := nameable(p); err != nil {
		return backend.Replica{}, err
	}
	o, err := parseOptions(p)
	if err != nil {
		return backend.Replica{}, err
	}
	if err := checkCards(p, o); err != nil {
		return backend.Replica{}, err
	}
	if p.Original != "" {
		return v.prepareOriginal(ctx, p, o)
	}
	if p.Key == "" {
		return backend.Replica{}, fmt.Errorf("%w: placement without a key", dr.ErrInvalid)
	}
	// Two callers with one key get one machine.
	unlock, err := v.locks.Lock(ctx, dr.MachineID("key/"+p.Key))
	if err != nil {
		return backend.Replica{}, err
	}
	defer unlock()
	found, err := v.findByKey(ctx, p.Key)
	if err != nil {
		return backend.Replica{}, err
	}
	switch len(found) {
	case 0:
		return v.makeReplica(ctx, p, o)
	case 1:
		var r backend.Replica
		err := v.changing(ctx, found[0].id, func(m *machine) error {
			r, err = v.reuse(ctx, m, p, o)
			return err
		})
		return r, err
	}
	var names []string
	for _, m := range found {
		names = append(names, fmt.Sprintf("%s (%s)", m.props.Name, m.id))
	}
	return backend.Replica{}, &explained{fmt.Errorf("%w: key %q is carried by machines %q", dr.ErrAmbiguous, p.Key, names), "remove those that are not the replica, or their advanced configuration value " + recordKey}
}

// nameable refuses names that a record can't keep as they are.
func nameable(p backend.Placement) error {
	if !utf8.ValidString(p.Key) {
		return fmt.Errorf("%w: key %q is not UTF-8", dr.ErrInvalid, p.Key)
	}
	seen := map[dr.DiskID]bool{}
	for _, d := range p.Machine.Disks {
		if d.ID == "" || !utf8.ValidString(string(d.ID)) || seen[d.ID] {
			return fmt.Errorf("%w: disk ID %q is empty, not UTF-8, or there twice", dr.ErrInvalid, d.ID)
		}
		seen[d.ID] = true
	}
	return nil
}

func (v *VSphere) prepareOriginal(ctx context.Context, p backend.Placement, o PlaceOptions) (r backend.Replica, err error) {
	err = v.changing(ctx, p.Original, func(m *machine) error {
		if err := writableNow(m); err != nil {
			return err
		}
		for _, want := range p.Machine.Disks {
			have, ok := m.disk(want.ID)
			switch {
			case !ok:
				return &dr.Error{Op: "prepare", Machine: m.id, Disk: want.ID, Off: -1, Err: fmt.Errorf("%w: the machine has no such disk", dr.ErrInvalid),
					Remedy: "attach the disk again, or prepare an alternate location"}
			case have.size != want.Size:
				return &dr.Error{Op: "prepare", Machine: m.id, Disk: want.ID, Off: -1, Err: fmt.Errorf("%w: the disk should have %d bytes, and %s has %d", dr.ErrInvalid, want.Size, have.label, have.size),
					Remedy: "an original's disks are never resized: resize it, or prepare an alternate location"}
			}
		}
		kept := m.record
		kept.Made = false // from now on it is somebody's machine
		kept.New = kept.New && !m.record.Made
		if err := v.tell(m, p, o, &kept); err != nil {
			return err
		}
		if m.record.Made || kept.Guest != m.record.Guest {
			if err := v.save(ctx, m, kept); err != nil {
				return err
			}
		}
		r, err = v.replica(ctx, m)
		return err
	})
	return r, err
}

// replica tells what Prepare found.
func (v *VSphere) replica(ctx context.Context, m *machine) (backend.Replica, error) {
	is, err := v.settle(ctx, m)
	return backend.Replica{ID: m.id, Holds: is.holds, New: is.fresh, Torn: m.record.Torn}, err
}

// makeReplica makes a machine. Its instance UUID follows from the key, so an
// answer that was lost makes no second one.
func (v *VSphere) makeReplica(ctx context.Context, p backend.Placement, o PlaceOptions) (backend.Replica, error) {
	c, err := v.creation(ctx, p, o)
	if err != nil {
		return backend.Replica{}, err
	}
	var host *object.HostSystem
	if c.target.host.Value != "" {
		host = object.NewHostSystem(v.client, c.target.host)
	}
	made, err := v.run(ctx, func() (*object.Task, error) {
		return object.NewFolder(v.client, c.target.folder).CreateVM(ctx, c.spec, object.NewResourcePool(v.client, c.target.pool), host)
	})
	if err != nil {
		return backend.Replica{}, err
	}
	ref, ok := made.(types.ManagedObjectReference)
	if !ok {
		return backend.Replica{}, fmt.Errorf("vSphere made a machine and answered with %T", made)
	}
	m, err := v.look(ctx, ref)
	if err != nil {
		return backend.Replica{}, err
	}
	if m.id != c.id {
		// Another machine has the instance UUID, and vSphere gave this one its
		// own. The record must name it, or nobody finds the machine again.
		m.record = record{}
		if err := v.save(ctx, m, c.record); err != nil {
			return backend.Replica{}, err
		}
	}
	if err := v.admit(ctx, m); err != nil {
		return backend.Replica{}, err
	}
	if err := v.furnish(ctx, m, c); err != nil {
		return backend.Replica{}, err
	}
	return v.replica(ctx, m)
}

// furnish gives a machine what only its devices' keys and UUIDs tell, once it
// is made: it may be repeated.
func (v *VSphere) furnish(ctx context.Context, m *machine, c creation) error {
	names, err := c.names(m.config.Hardware.Device)
	if err != nil {
		return err
	}
	if !maps.Equal(names, m.record.Disks) {
		r := m.record
		r.Disks = names
		if err := v.save(ctx, m, r); err != nil {
			return err
		}
		m.disks = disksOf(m.config.Hardware.Device, names)
	}
	order, err := c.bootOrder(m.config.Hardware.Device)
	if err != nil || order == nil {
		return err
	}
	return v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{BootOptions: &types.VirtualMachineBootOptions{BootOrder: order}})
}

// reuse brings a replica to what is wanted now.
func (v *VSphere) reuse(ctx context.Context, m *machine, p backend.Placement, o PlaceOptions) (backend.Replica, error) {
	if err := writableNow(m); err != nil {
		return backend.Replica{}, err
	}
	if m.record.New && len(m.disks) == len(p.Machine.Disks) {
		// The process that made it may not have come to furnish it.
		c, err := v.creation(ctx, p, o)
		if err != nil {
			return backend.Replica{}, err
		}
		if err := v.furnish(ctx, m, c); err != nil {
			return backend.Replica{}, err
		}
	}
	told := m.record
	if err := v.tell(m, p, o, &told); err != nil {
		return backend.Replica{}, err
	}
	if told.Guest != m.record.Guest {
		if err := v.save(ctx, m, told); err != nil {
			return backend.Replica{}, err
		}
	}
	moved, err := v.reconnect(ctx, m, p, o)
	if err != nil {
		return backend.Replica{}, err
	}
	if len(moved) > 0 {
		if err := v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{DeviceChange: moved}); err != nil {
			return backend.Replica{}, err
		}
		if m, err = v.again(ctx, m); err != nil {
			return backend.Replica{}, err
		}
	}
	grown, err := growDisks(m, p.Machine.Disks)
	if err != nil {
		return backend.Replica{}, err
	}
	added, names, err := addDisks(m, p, o)
	if err != nil {
		return backend.Replica{}, err
	}
	if changes := append(grown, added...); len(changes) > 0 {
		// Disks don't grow above links that a removal left.
		if err := v.consolidate(ctx, m); err != nil {
			return backend.Replica{}, err
		}
		// First the record: disks that have changed must not pass for a point.
		r := m.record
		r.Holds, r.Disks = "", maps.Clone(r.Disks)
		if r.Disks == nil {
			r.Disks = names
		}
		maps.Copy(r.Disks, names)
		if err := v.save(ctx, m, r); err != nil {
			return backend.Replica{}, err
		}
		if err := v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{DeviceChange: changes}); err != nil {
			return backend.Replica{}, err
		}
		if m, err = v.again(ctx, m); err != nil {
			return backend.Replica{}, err
		}
	}
	return v.replica(ctx, m)
}

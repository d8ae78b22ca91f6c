package vmware

import (
	"context"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Remove implements backend.Target: a machine that Prepare made is destroyed
// with its disks and snapshots; disks that somebody else attached to it are
// detached, and stay. Any other is left, and that is no error.
func (v *VSphere) Remove(ctx context.Context, id dr.MachineID) error {
	err := v.changing(ctx, id, func(m *machine) error {
		if !m.record.Made {
			return nil
		}
		if err := v.powerOff(ctx, m); err != nil {
			return err
		}
		if err := v.detachForeign(ctx, m); err != nil {
			return err
		}
		_, err := v.effect(ctx, m, func(ctx context.Context) (*object.Task, error) {
			return object.NewVirtualMachine(v.client, m.ref).Destroy(ctx)
		})
		return err
	})
	if isNotFound(err) {
		return nil
	}
	return fail("remove", id, "", -1, err)
}

// detachForeign takes disks off a machine that this library didn't make: its end
// must not be theirs. Under snapshots they can't be told apart from what the
// snapshots hold, so these go first.
func (v *VSphere) detachForeign(ctx context.Context, m *machine) error {
	foreign := func() (all []types.BaseVirtualDeviceConfigSpec) {
		for _, d := range m.disks {
			dev := object.VirtualDeviceList(m.config.Hardware.Device).FindByKey(d.key)
			if len(m.record.Disks) > 0 && d.uuid != "" && m.record.Disks[strings.ToLower(d.uuid)] == "" && dev != nil {
				v.options.Log.WarnContext(ctx, "the machine is removed without a disk that is somebody else's", "machine", m.id, "disk", d.id, "file", d.file)
				all = append(all, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: dev})
			}
		}
		return all
	}
	if len(foreign()) == 0 {
		return nil
	}
	for _, s := range m.snapshots() {
		if err := v.removeSnapshot(ctx, m, s.ref); err != nil {
			return err
		}
	}
	var err error
	if m, err = v.again(ctx, m); err != nil {
		return err
	}
	if err := v.consolidate(ctx, m); err != nil {
		return err
	}
	if m, err = v.again(ctx, m); err != nil {
		return err
	}
	return v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{DeviceChange: foreign()})
}

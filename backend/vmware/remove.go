package vmware

import (
	"context"

	"github.com/vmware/govmomi/object"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Remove implements backend.Target: a machine that Prepare made is destroyed
// with its disks and snapshots. Any other is left, and that is no error.
func (v *VSphere) Remove(ctx context.Context, id dr.MachineID) error {
	err := v.changing(ctx, id, func(m *machine) error {
		if !m.record.Made {
			return nil
		}
		if err := v.powerOff(ctx, m); err != nil {
			return err
		}
		_, err := v.run(ctx, func() (*object.Task, error) { return object.NewVirtualMachine(v.client, m.ref).Destroy(ctx) })
		return err
	})
	if isNotFound(err) {
		return nil
	}
	return fail("remove", id, "", -1, err)
}

package vmware

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// A task that goes on when nobody waits for it any more attaches the disk
// later: it is detached then.
func TestHotAddAttachesLate(t *testing.T) {
	r := newHotAddRig(t, mib)
	s := r.snapshot("s")
	ref := r.ref(&s)
	late := make(chan error, 1)
	held := make(chan struct{})
	// The appliance's second change is given up, and a third one waits behind
	// it: so the disk shows only after the third has been asked for.
	f := r.sim.Fault(vmwaretest.Fault{Call: "ReconfigVM_Task", Nth: 2, Hold: held, Drop: true})
	third := r.sim.Fault(vmwaretest.Fault{Call: "ReconfigVM_Task", Nth: 3, Err: &types.TaskInProgress{}})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for f.Hits() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		for third.Hits() == 0 {
			time.Sleep(time.Millisecond)
		}
		m, err := r.v.look(context.Background(), r.vm.Reference())
		if err == nil {
			var changes []types.BaseVirtualDeviceConfigSpec
			if changes, _, err = slotFor(m.config.Hardware.Device, ref, false); err == nil {
				err = r.v.reconfigure(context.Background(), m, types.VirtualMachineConfigSpec{DeviceChange: changes})
			}
		}
		late <- err
	}()
	_, err := r.h.open(ctx, r.v, ref, false)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, <-late)
	close(held)
	r.clean()
}

// A process that ends leaves its disk attached; the next one detaches it, and
// nothing else.
func TestHotAddSweeps(t *testing.T) {
	ctx := context.Background()
	r := newHotAddRig(t, mib, vmwaretest.DiskSpec{Size: mib}, vmwaretest.DiskSpec{Size: mib})
	s := r.snapshot("s")
	dead, alive := r.process(r.h.StateDir), r.process(r.h.StateDir)
	_, err := dead.open(ctx, r.v, r.refOf(&s, 0), false)
	require.NoError(t, err)
	kept, err := alive.open(ctx, r.v, r.refOf(&s, 1), false)
	require.NoError(t, err)
	// Somebody else's disk.
	m := r.appliance()
	_, a, err := slotFor(m.config.Hardware.Device, r.refOf(&s, 2), false)
	require.NoError(t, err)
	changes, _, _ := slotFor(m.config.Hardware.Device, r.refOf(&s, 2), false)
	require.NoError(t, r.v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{DeviceChange: changes}))
	require.Len(t, r.appliance().disks, 4)

	require.NoError(t, r.h.Sweep(ctx, r.v))
	require.Len(t, r.appliance().disks, 4, "both processes run")

	require.NoError(t, dead.held.Close()) // as its end does
	require.NoError(t, r.h.Sweep(ctx, r.v))
	m = r.appliance()
	require.Len(t, m.disks, 3)
	require.Len(t, notes(m), 1)
	require.NotNil(t, deviceOf(m, a), "somebody else's")
	require.NoError(t, kept.Close())
	m = r.appliance()
	require.Len(t, m.disks, 2)
	require.NotNil(t, deviceOf(m, a))
	require.Empty(t, notes(m))
	left, err := os.ReadDir(r.h.StateDir)
	require.NoError(t, err)
	require.Empty(t, left)
}

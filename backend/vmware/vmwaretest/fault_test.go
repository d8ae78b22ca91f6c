package vmwaretest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestFaultsBeforeAndAfterTheEffect(t *testing.T) {
	for name, tc := range map[string]struct {
		fault     vmwaretest.Fault
		snapshots int
	}{
		"before":          {vmwaretest.Fault{When: vmwaretest.BeforeEffect}, 0},
		"after":           {vmwaretest.Fault{When: vmwaretest.AfterEffect}, 1},
		"instead of task": {vmwaretest.Fault{When: vmwaretest.InsteadOfTask}, 0},
		"after the task":  {vmwaretest.Fault{When: vmwaretest.AfterTask}, 1},
		"dropped before":  {vmwaretest.Fault{Drop: true}, 0},
		"dropped after":   {vmwaretest.Fault{When: vmwaretest.AfterEffect, Drop: true}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
			f := tc.fault
			f.Call, f.Err = "CreateSnapshot_Task", &types.ResourceInUse{}
			armed := r.sim.Fault(f)
			_, err := r.try(r.obj.CreateSnapshot(context.Background(), "s", "", false, false))
			require.Error(t, err)
			if !f.Drop {
				require.True(t, fault.Is(err, &types.ResourceInUse{}), "%v", err)
			}
			require.Equal(t, tc.snapshots, r.vm.Snapshots())
			require.Equal(t, 1, armed.Hits())
			r.snapshot("again")
			require.Equal(t, 2, r.sim.Calls("CreateSnapshot_Task"))
		})
	}
}

// TestEveryCallCanFail is how users loop: the n-th call of anything fails,
// until a run has fewer calls than that.
func TestEveryCallCanFail(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	run := func() error {
		ctx := context.Background()
		info, err := r.try(r.obj.CreateSnapshot(ctx, "s", "", false, false))
		if err != nil {
			return err
		}
		_, err = r.try(object.NewVirtualMachine(r.c.Client, r.obj.Reference()).RemoveSnapshot(ctx, info.Result.(types.ManagedObjectReference).Value, false, nil))
		return err
	}
	failed := 0
	for n := 1; ; n++ {
		armed := r.sim.Fault(vmwaretest.Fault{Nth: n})
		err := run()
		armed.Remove()
		if armed.Hits() == 0 {
			require.NoError(t, err)
			break
		}
		if err != nil {
			failed++
		}
		r.wait(r.obj.RemoveAllSnapshot(context.Background(), nil))
	}
	require.Greater(t, failed, 3)
}

func TestSessionsExpire(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	require.Equal(t, 1, r.sim.ExpireSessions())
	_, err := r.obj.PowerState(ctx)
	require.True(t, fault.Is(err, &types.NotAuthenticated{}), "%v", err)
	require.NoError(t, r.c.Login(ctx, r.sim.URL.User))
	_, err = r.obj.PowerState(ctx)
	require.NoError(t, err)

	wrong := *r.sim.URL
	wrong.User = nil
	c, err := govmomi.NewClient(ctx, &wrong, true)
	require.NoError(t, err)
	_, err = find.NewFinder(c.Client).VirtualMachineList(ctx, "/...")
	require.True(t, fault.Is(err, &types.NotAuthenticated{}), "%v", err)
}

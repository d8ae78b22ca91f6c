package vmwaretest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestChainsAreMerged(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	base := r.live(d).FileName
	one := r.snapshot("one")
	require.Equal(t, base, r.frozen(one, d).FileName)
	require.Equal(t, strings.TrimSuffix(base, ".vmdk")+"-000001.vmdk", r.live(d).FileName)
	require.Equal(t, base, r.live(d).Parent.FileName)

	two := r.snapshot("two")
	require.Equal(t, base, r.live(d).Parent.Parent.FileName)
	r.removeSnapshot("one")
	require.Equal(t, base, r.frozen(two, d).FileName, "the second snapshot's link was merged into the base")
	require.Equal(t, base, r.live(d).Parent.FileName)
	r.removeSnapshot("two")
	require.Equal(t, base, r.live(d).FileName)
	require.Nil(t, r.live(d).Parent)
}

func TestConsolidationNeeded(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	base := r.live(d).FileName
	r.snapshot("one")
	r.write(d, []byte("kept"), 0)
	r.vm.FailConsolidation(2)
	r.removeSnapshot("one")
	require.Zero(t, r.vm.Snapshots())
	require.True(t, r.props("runtime").Runtime.ConsolidationNeeded)
	require.NotEqual(t, base, r.live(d).FileName)

	_, err := r.try(r.consolidate(ctx))
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)
	r.wait(r.consolidate(ctx))
	require.False(t, r.props("runtime").Runtime.ConsolidationNeeded)
	require.Equal(t, base, r.live(d).FileName)
	p := make([]byte, 4)
	_, err = r.vm.Read(d, p, 0)
	require.NoError(t, err)
	require.Equal(t, "kept", string(p))
}

func (r *rig) consolidate(ctx context.Context) (*object.Task, error) {
	res, err := methods.ConsolidateVMDisks_Task(ctx, r.c.Client, &types.ConsolidateVMDisks_Task{This: r.obj.Reference()})
	if err != nil {
		return nil, err
	}
	return object.NewTask(r.c.Client, res.Returnval), nil
}

func TestQuiesce(t *testing.T) {
	ctx := context.Background()
	take := func(r *rig) (types.ManagedObjectReference, error) {
		info, err := r.try(r.obj.CreateSnapshot(ctx, "q", "", false, true))
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return info.Result.(types.ManagedObjectReference), nil
	}
	quiesced := func(r *rig) bool { return r.props("snapshot").Snapshot.RootSnapshotList[0].Quiesced }

	t.Run("the application flushes", func(t *testing.T) {
		r := newRig(t, vmwaretest.Options{}, tracked())
		d := r.disk()
		thawed := false
		r.vm.SetGuest(vmwaretest.Guest{
			OnFreeze: func() { r.write(d, []byte("flushed"), 0) },
			OnThaw:   func() { thawed = true },
		})
		snap, err := take(r)
		require.NoError(t, err)
		require.Equal(t, "flushed", string(r.read(snap, d, 0, 7)))
		require.True(t, thawed)
		require.True(t, quiesced(r))
	})
	t.Run("it fails", func(t *testing.T) {
		r := newRig(t, vmwaretest.Options{}, tracked())
		r.vm.SetGuest(vmwaretest.Guest{QuiesceErr: &types.ApplicationQuiesceFault{}})
		_, err := take(r)
		require.True(t, fault.Is(err, &types.ApplicationQuiesceFault{}), "%v", err)
		require.False(t, r.vm.Frozen())
		require.Zero(t, r.vm.Snapshots())
	})
	t.Run("it fails and leaves the guest frozen", func(t *testing.T) {
		r := newRig(t, vmwaretest.Options{}, tracked())
		r.vm.SetGuest(vmwaretest.Guest{Tools: vmwaretest.ToolsHung})
		_, err := take(r)
		require.Error(t, err)
		require.ErrorIs(t, r.vm.Write(r.disk(), []byte{1}, 0), vmwaretest.ErrFrozen)
		r.vm.Thaw()
		r.write(r.disk(), []byte{1}, 0)
	})
	t.Run("without tools it is skipped in silence", func(t *testing.T) {
		r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{Guest: vmwaretest.Guest{Tools: vmwaretest.ToolsMissing}})
		_, err := take(r)
		require.NoError(t, err)
		require.False(t, quiesced(r))
	})
}

func TestShutdownGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	require.NoError(t, r.obj.ShutdownGuest(ctx))
	require.NoError(t, r.obj.WaitForPowerState(ctx, types.VirtualMachinePowerStatePoweredOff))
	require.ErrorIs(t, r.vm.Write(r.disk(), []byte{1}, 0), vmwaretest.ErrOff)
	require.True(t, fault.Is(r.obj.ShutdownGuest(ctx), &types.InvalidPowerState{}))

	require.NoError(t, r.vm.PowerOn())
	r.vm.SetGuest(vmwaretest.Guest{Tools: vmwaretest.ToolsHung})
	require.NoError(t, r.obj.ShutdownGuest(ctx))
	require.True(t, r.vm.Running())
	r.vm.SetGuest(vmwaretest.Guest{Tools: vmwaretest.ToolsMissing})
	require.True(t, fault.Is(r.obj.ShutdownGuest(ctx), &types.ToolsUnavailable{}))
	require.Equal(t, types.VirtualMachineToolsStatusToolsNotInstalled, r.props("guest").Guest.ToolsStatus)
}

// TestRandomHistories compares every snapshot's bytes and changes with a model
// that is as simple as can be: a copy of the disk.
func TestRandomHistories(t *testing.T) {
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomHistory(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func randomHistory(t *testing.T, rnd *rand.Rand) {
	const size = 1 << 20
	r := newRig(t, vmwaretest.Options{MaxAreas: 3}, vmwaretest.VMSpec{ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: size}}})
	d := r.disk()
	disk := make([]byte, size)
	type point struct {
		name, id string
		ref      types.ManagedObjectReference
		bytes    []byte
		gone     bool
	}
	var points []*point
	epoch := 0 // index of the first point of the present epoch
	for i := range 40 {
		switch n := rnd.IntN(10); {
		case n < 5:
			p := make([]byte, 1+rnd.IntN(60_000))
			for j := range p {
				p[j] = byte(rnd.IntN(3))
			}
			off := rnd.IntN(size - len(p))
			copy(disk[off:], p)
			r.write(d, p, int64(off))
		case n < 8:
			p := &point{name: fmt.Sprint(i), bytes: append([]byte(nil), disk...)}
			p.ref = r.snapshot(p.name)
			p.id = r.changeID(p.ref, d)
			points = append(points, p)
			for _, base := range points[epoch:] {
				got, _, err := r.query(p.ref, d, base.id)
				require.NoError(t, err)
				rebuilt := append([]byte(nil), base.bytes...)
				for _, e := range got {
					copy(rebuilt[e.Start:e.Start+e.Length], r.read(p.ref, d, e.Start, int(e.Length)))
				}
				require.True(t, string(rebuilt) == string(p.bytes), "changes from %s to %s are not all", base.name, p.name)
			}
		case len(points) == 0:
		case n < 9:
			if p := points[rnd.IntN(len(points))]; !p.gone {
				r.removeSnapshot(p.name)
				p.gone = true
			}
		default:
			if p := points[rnd.IntN(len(points))]; !p.gone {
				r.wait(r.obj.RevertToSnapshot(context.Background(), p.name, true))
				require.NoError(t, r.vm.PowerOn())
				copy(disk, p.bytes)
				epoch = len(points)
			}
		}
		live := make([]byte, size)
		_, err := r.vm.Read(d, live, 0)
		require.NoError(t, err)
		require.True(t, string(live) == string(disk), "step %d: the disk", i)
		for _, p := range points {
			if !p.gone {
				require.True(t, string(r.read(p.ref, d, 0, size)) == string(p.bytes), "step %d: snapshot %s", i, p.name)
			}
		}
	}
}

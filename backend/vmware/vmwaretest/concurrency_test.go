package vmwaretest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// crowd is several clients that do to several machines whatever comes to their
// minds, without asking each other.
type crowd struct {
	t    *testing.T
	sim  *vmwaretest.Simulator
	vms  []*vmwaretest.VM
	done map[string]*atomic.Int64
}

// client is one of them. Nearly everything may fail: the machine may be off,
// and its snapshots gone. It is counted what succeeds.
type client struct {
	*crowd
	c   *govmomi.Client
	rnd *rand.Rand
}

const crowdDisk = 4 << 20

// TestCrowd hammers on machines through the API while their guests write, and
// compares every disk with what its guest has written in the end.
func TestCrowd(t *testing.T) {
	const machines, clients, rounds = 3, 5, 25
	seed := rand.Uint64()
	t.Log("seed", seed)
	c := &crowd{t: t, sim: vmwaretest.New(t, vmwaretest.Options{}), done: map[string]*atomic.Int64{}}
	actions := map[string]func(*client, context.Context, *vmwaretest.VM, *object.VirtualMachine) error{
		"create": (*client).create, "create twice": (*client).createTwice, "remove": (*client).remove, "remove all": (*client).removeAll,
		"reconfigure": (*client).reconfigure, "tracking": (*client).tracking, "power": (*client).power, "changes": (*client).changes,
		"properties": (*client).properties, "export": (*client).export, "relocate": (*client).relocate, "consolidate": (*client).consolidate,
		"inventory": (*client).inventory, "come and go": (*client).comeAndGo,
	}
	var names []string
	for name := range actions {
		names = append(names, name)
		c.done[name] = new(atomic.Int64)
	}
	models := make([][]byte, machines)
	guests, stop := new(sync.WaitGroup), make(chan struct{})
	for i := range machines {
		vm, err := c.sim.AddVM(vmwaretest.VMSpec{Name: fmt.Sprint("vm", i), ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: crowdDisk}}, NICs: []vmwaretest.NICSpec{{}}})
		require.NoError(t, err)
		c.vms = append(c.vms, vm)
		models[i] = make([]byte, crowdDisk)
		guests.Go(func() { guest(vm, models[i], rand.New(rand.NewPCG(seed, uint64(i))), stop) })
	}
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			ctx := context.Background()
			g, err := govmomi.NewClient(ctx, c.sim.URL, true)
			if err != nil {
				t.Error(err)
				return
			}
			cl := &client{c, g, rand.New(rand.NewPCG(seed, uint64(100+i)))}
			for range rounds {
				name := names[cl.rnd.IntN(len(names))]
				vm := c.vms[cl.rnd.IntN(machines)]
				if err := actions[name](cl, ctx, vm, object.NewVirtualMachine(g.Client, vm.Reference())); err == nil {
					c.done[name].Add(1)
				} else {
					t.Log(name, err)
				}
			}
			if err := g.Logout(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	close(stop)
	guests.Wait()
	for i, vm := range c.vms {
		got := make([]byte, crowdDisk)
		_, err := vm.Read(vm.Disks()[0], got, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(models[i], got), "bytes of machine %d were lost", i)
	}
	succeeded := 0
	for name, n := range c.done {
		t.Log(name, n.Load())
		if n.Load() > 0 {
			succeeded++
		}
	}
	require.Greater(t, succeeded, len(actions)/2)
	require.Zero(t, c.sim.Sessions())
	require.Zero(t, c.sim.Leases())
}

// guest writes and remembers it.
func guest(vm *vmwaretest.VM, model []byte, rnd *rand.Rand, stop <-chan struct{}) {
	for n := byte(1); ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		p := bytes.Repeat([]byte{n}, 1+rnd.IntN(100_000))
		off := rnd.IntN(len(model) - len(p))
		if vm.Write(vm.Disks()[0], p, int64(off)) == nil {
			copy(model[off:], p)
		}
	}
}

func end(ctx context.Context, task *object.Task, err error) error {
	if err != nil {
		return err
	}
	_, err = task.WaitForResult(ctx)
	return err
}

func (c *client) create(ctx context.Context, vm *vmwaretest.VM, obj *object.VirtualMachine) error {
	if vm.Snapshots() > 8 {
		return nil
	}
	task, err := obj.CreateSnapshot(ctx, fmt.Sprint("s", c.rnd.IntN(3)), "", false, c.rnd.IntN(2) == 0)
	return end(ctx, task, err)
}

func (c *client) createTwice(ctx context.Context, vm *vmwaretest.VM, obj *object.VirtualMachine) error {
	first, err := obj.CreateSnapshot(ctx, "twice", "", false, false)
	if err != nil {
		return err
	}
	second, err := obj.CreateSnapshot(ctx, "twice", "", false, false)
	if err := end(ctx, second, err); err != nil {
		return err
	}
	info, err := first.WaitForResult(ctx)
	if err != nil {
		return err
	}
	// The same one goes twice as well: one of the two calls finds it gone.
	remove := func() (*object.Task, error) {
		res, err := methods.RemoveSnapshot_Task(ctx, c.c, &types.RemoveSnapshot_Task{This: info.Result.(types.ManagedObjectReference), RemoveChildren: c.rnd.IntN(2) == 0})
		if err != nil {
			return nil, err
		}
		return object.NewTask(c.c.Client, res.Returnval), nil
	}
	one, err1 := remove()
	two, err2 := remove()
	if end(ctx, two, err2) == nil {
		return fmt.Errorf("removed twice")
	}
	return end(ctx, one, err1)
}

func (c *client) snapshots(ctx context.Context, obj *object.VirtualMachine) ([]types.ManagedObjectReference, error) {
	var vm mo.VirtualMachine
	if err := obj.Properties(ctx, obj.Reference(), []string{"snapshot"}, &vm); err != nil || vm.Snapshot == nil {
		return nil, fmt.Errorf("no snapshots: %w", err)
	}
	var refs []types.ManagedObjectReference
	for tree := vm.Snapshot.RootSnapshotList; len(tree) > 0; {
		var next []types.VirtualMachineSnapshotTree
		for _, s := range tree {
			refs = append(refs, s.Snapshot)
			next = append(next, s.ChildSnapshotList...)
		}
		tree = next
	}
	return refs, nil
}

func (c *client) anySnapshot(ctx context.Context, obj *object.VirtualMachine) (types.ManagedObjectReference, error) {
	refs, err := c.snapshots(ctx, obj)
	if err != nil || len(refs) == 0 {
		return types.ManagedObjectReference{}, fmt.Errorf("no snapshot: %w", err)
	}
	return refs[c.rnd.IntN(len(refs))], nil
}

func (c *client) remove(ctx context.Context, _ *vmwaretest.VM, obj *object.VirtualMachine) error {
	snap, err := c.anySnapshot(ctx, obj)
	if err != nil {
		return err
	}
	res, err := methods.RemoveSnapshot_Task(ctx, c.c, &types.RemoveSnapshot_Task{This: snap, RemoveChildren: c.rnd.IntN(3) == 0})
	if err != nil {
		return err
	}
	return object.NewTask(c.c.Client, res.Returnval).Wait(ctx)
}

func (c *client) removeAll(ctx context.Context, _ *vmwaretest.VM, obj *object.VirtualMachine) error {
	task, err := obj.RemoveAllSnapshot(ctx, nil)
	return end(ctx, task, err)
}

func (c *client) consolidate(ctx context.Context, vm *vmwaretest.VM, obj *object.VirtualMachine) error {
	vm.FailConsolidation(c.rnd.IntN(2))
	res, err := methods.ConsolidateVMDisks_Task(ctx, c.c, &types.ConsolidateVMDisks_Task{This: obj.Reference()})
	if err != nil {
		return err
	}
	return object.NewTask(c.c.Client, res.Returnval).Wait(ctx)
}

func (c *client) reconfigure(ctx context.Context, _ *vmwaretest.VM, obj *object.VirtualMachine) error {
	task, err := obj.Reconfigure(ctx, types.VirtualMachineConfigSpec{Annotation: fmt.Sprint(c.rnd.Int()), ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: "guestinfo.x", Value: fmt.Sprint(c.rnd.Int())},
	}})
	return end(ctx, task, err)
}

func (c *client) tracking(ctx context.Context, vm *vmwaretest.VM, obj *object.VirtualMachine) error {
	vm.ResetTracking()
	task, err := obj.Reconfigure(ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(c.rnd.IntN(4) > 0)})
	return end(ctx, task, err)
}

func (c *client) power(ctx context.Context, vm *vmwaretest.VM, obj *object.VirtualMachine) error {
	off := obj.PowerOff
	if c.rnd.IntN(2) == 0 {
		off = func(ctx context.Context) (*object.Task, error) {
			if err := obj.ShutdownGuest(ctx); err != nil {
				return nil, err
			}
			return obj.PowerOn(ctx)
		}
	}
	task, err := off(ctx)
	err = end(ctx, task, err)
	if on := vm.PowerOn(); on != nil {
		return on
	}
	return err
}

func (c *client) changes(ctx context.Context, vm *vmwaretest.VM, obj *object.VirtualMachine) error {
	snap, err := c.anySnapshot(ctx, obj)
	if err != nil {
		return err
	}
	_, err = methods.QueryChangedDiskAreas(ctx, c.c, &types.QueryChangedDiskAreas{This: obj.Reference(), Snapshot: &snap, DeviceKey: vm.Disks()[0], ChangeId: "*"})
	return err
}

func (c *client) properties(ctx context.Context, _ *vmwaretest.VM, obj *object.VirtualMachine) error {
	var vm mo.VirtualMachine
	if err := obj.Properties(ctx, obj.Reference(), nil, &vm); err != nil {
		return err
	}
	snap, err := c.anySnapshot(ctx, obj)
	if err != nil {
		return err
	}
	var sn mo.VirtualMachineSnapshot
	return property.DefaultCollector(c.c.Client).RetrieveOne(ctx, snap, []string{"config"}, &sn)
}

func (c *client) export(ctx context.Context, _ *vmwaretest.VM, obj *object.VirtualMachine) error {
	snap, err := c.anySnapshot(ctx, obj)
	if err != nil {
		return err
	}
	lease, err := obj.ExportSnapshot(ctx, &snap)
	if err != nil {
		return err
	}
	defer lease.Abort(ctx, nil)
	info, err := lease.Wait(ctx, nil)
	if err != nil {
		return err
	}
	for _, item := range info.Items {
		res, err := c.c.Client.Client.Client.Get(item.URL.String())
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d: %w", res.StatusCode, err)
		}
	}
	return nil
}

func (c *client) relocate(ctx context.Context, _ *vmwaretest.VM, obj *object.VirtualMachine) error {
	ds, err := find.NewFinder(c.c.Client).Datastore(ctx, fmt.Sprintf("/DC0/datastore/vmfs-%d", c.rnd.IntN(2)))
	if err != nil {
		return err
	}
	ref := ds.Reference()
	task, err := obj.Relocate(ctx, types.VirtualMachineRelocateSpec{Datastore: &ref}, types.VirtualMachineMovePriorityDefaultPriority)
	return end(ctx, task, err)
}

func (c *client) inventory(ctx context.Context, _ *vmwaretest.VM, _ *object.VirtualMachine) error {
	v, err := view.NewManager(c.c.Client).CreateContainerView(ctx, c.c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		return err
	}
	defer v.Destroy(ctx)
	var vms []mo.VirtualMachine
	if err := v.Retrieve(ctx, []string{"VirtualMachine"}, []string{"name", "config.instanceUuid", "runtime", "guest"}, &vms); err != nil {
		return err
	}
	_, err = object.NewSearchIndex(c.c.Client).FindByUuid(ctx, nil, vms[0].Config.InstanceUuid, true, types.NewBool(true))
	return err
}

func (c *client) comeAndGo(ctx context.Context, _ *vmwaretest.VM, _ *object.VirtualMachine) error {
	vm, err := c.sim.AddVM(vmwaretest.VMSpec{Name: fmt.Sprint("guest", c.rnd.Uint64()), Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	if err != nil {
		return err
	}
	obj := object.NewVirtualMachine(c.c.Client, vm.Reference())
	snapshot, err := obj.CreateSnapshot(ctx, "s", "", false, false)
	if err != nil {
		return err
	}
	task, err := obj.Destroy(ctx)
	if err := end(ctx, task, err); err != nil {
		return err
	}
	return snapshot.Wait(ctx)
}

// TestNoChangeIsMissed takes snapshots while a guest writes as fast as it can:
// the bytes of one and the changes up to the next are the bytes of the next.
func TestNoChangeIsMissed(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: crowdDisk}}})
	d := r.disk()
	stop, guests := make(chan struct{}), new(sync.WaitGroup)
	for i := range 2 {
		guests.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := bytes.Repeat([]byte{byte(rnd.Int())}, 1+rnd.IntN(1000))
				if err := r.vm.Write(d, p, int64(rnd.IntN(crowdDisk-len(p)))); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(50 * time.Microsecond)
			}
		})
	}
	before := make([]byte, crowdDisk)
	id := "*"
	for range 15 {
		snap := r.snapshot("s")
		now := r.read(snap, d, 0, crowdDisk)
		changed, _, err := r.query(snap, d, id)
		require.NoError(t, err)
		for _, a := range changed {
			copy(before[a.Start:a.Start+a.Length], now[a.Start:a.Start+a.Length])
		}
		require.True(t, bytes.Equal(before, now))
		id = r.changeID(snap, d)
		r.removeSnapshot("s")
	}
	close(stop)
	guests.Wait()
}

func TestTaskInProgress(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{TaskInProgress: true}, vmwaretest.VMSpec{})
	inside, out := make(chan struct{}), make(chan struct{})
	r.vm.SetGuest(vmwaretest.Guest{OnFreeze: func() { close(inside); <-out }})
	slow, err := r.obj.CreateSnapshot(ctx, "slow", "", false, true)
	require.NoError(t, err)
	<-inside
	require.True(t, r.vm.Running())
	r.props("config", "snapshot") // can be read meanwhile
	_, err = r.try(r.obj.CreateSnapshot(ctx, "s", "", false, false))
	require.True(t, fault.Is(err, &types.TaskInProgress{}), "%v", err)
	close(out)
	require.NoError(t, slow.Wait(ctx))
	r.vm.SetGuest(vmwaretest.Guest{})
	r.snapshot("s")
	require.Equal(t, 2, r.vm.Snapshots())
}

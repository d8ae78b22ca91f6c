package vmware

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// hotAddRig has an appliance beside the machine.
type hotAddRig struct {
	*transportRig
	h    *HotAdd
	vm   *vmwaretest.VM // the appliance
	id   dr.MachineID
	open atomic.Int32
	sync atomic.Int32
	fail error // of opening
}

func newHotAddRig(t testing.TB, size int64, disks ...vmwaretest.DiskSpec) *hotAddRig {
	t.Helper()
	r := &hotAddRig{transportRig: newTransportRig(t, vmwaretest.Options{}, size, disks...)}
	var err error
	r.vm, err = r.sim.AddVM(vmwaretest.VMSpec{Name: "appliance", Disks: []vmwaretest.DiskSpec{{Size: mib, Controller: "lsilogic"}}})
	require.NoError(t, err)
	m := r.appliance()
	r.id = m.id
	r.h = r.process(t.TempDir())
	return r
}

// process is another process in the appliance.
func (r *hotAddRig) process(dir string) *HotAdd {
	return &HotAdd{Appliance: r.id, StateDir: dir, Open: func(ctx context.Context, uuid string, write bool) (BlockDevice, error) {
		if r.fail != nil {
			return nil, r.fail
		}
		m, err := r.v.look(ctx, r.vm.Reference())
		if err != nil {
			return nil, err
		}
		for _, d := range m.disks {
			if strings.EqualFold(d.uuid, uuid) {
				r.open.Add(1)
				return &simDevice{r: r, key: d.key, write: write}, nil
			}
		}
		return nil, fmt.Errorf("no disk %s", uuid)
	}}
}

func (r *hotAddRig) appliance() *machine {
	r.t.Helper()
	m, err := r.v.look(context.Background(), r.vm.Reference())
	require.NoError(r.t, err)
	return m
}

// clean checks that nothing is attached or recorded.
func (r *hotAddRig) clean() {
	r.t.Helper()
	m := r.appliance()
	require.Len(r.t, m.disks, 1)
	require.Empty(r.t, notes(m))
	require.Zero(r.t, r.open.Load(), "devices that are open")
	left, err := os.ReadDir(r.h.StateDir)
	require.NoError(r.t, err)
	require.Empty(r.t, left)
}

// simDevice is an attached disk, seen from the appliance's guest.
type simDevice struct {
	r     *hotAddRig
	key   int32
	write bool
	gone  atomic.Bool
}

func (d *simDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.gone.Load() {
		return 0, os.ErrClosed
	}
	return d.r.vm.Read(d.key, p, off)
}

func (d *simDevice) WriteAt(p []byte, off int64) (int, error) {
	if !d.write {
		return 0, os.ErrPermission
	}
	if err := d.r.vm.WriteDisk(d.key, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *simDevice) Size() (int64, error) { return d.r.vm.Size(d.key), nil }
func (d *simDevice) Sync() error          { d.r.sync.Add(1); return nil }
func (d *simDevice) Close() error {
	if !d.gone.Swap(true) {
		d.r.open.Add(-1)
	}
	return nil
}

func TestHotAddReads(t *testing.T) {
	r := newHotAddRig(t, 12*mib)
	r.scatter(1)
	s := r.snapshot("s")
	require.NoError(t, r.transportRig.vm.Write(r.transportRig.vm.Disks()[0], []byte("later"), 0))
	d := r.transportRig.open(r.h, r.ref(&s), false)
	m := r.appliance()
	require.Len(t, m.disks, 2)
	require.Equal(t, string(types.VirtualDiskModeIndependent_nonpersistent), m.disks[1].mode)
	require.Len(t, notes(m), 1)
	r.readAll(d, 1<<20, 4)
	r.readRandom(d, 2, 20)
	r.read(d, 1, 9<<20)
	_, ok := d.(writable)
	require.False(t, ok)

	// Another moment of the same disk would have the same name in the guest.
	s2 := r.snapshot("s2")
	_, err := r.h.open(context.Background(), r.v, r.ref(&s2), false)
	require.ErrorIs(t, err, dr.ErrBusy)
	drained(t, d)
	r.read2(&s)
}

// read2 attaches a second time, after which everything is gone.
func (r *hotAddRig) read2(s *types.ManagedObjectReference) {
	r.t.Helper()
	d := r.transportRig.open(r.h, r.ref(s), false)
	r.read(d, 0, 1000)
	require.NoError(r.t, d.Close())
	r.clean()
	// The file is still there.
	p := make([]byte, 10)
	_, err := r.transportRig.vm.ReadSnapshot(*s, r.ref(s).key, p, 0)
	require.NoError(r.t, err)
}

func TestHotAddWrites(t *testing.T) {
	r := newHotAddRig(t, 8*mib)
	r.scatter(1)
	r.off()
	d := r.transportRig.open(r.h, r.ref(nil), true).(writable)
	require.Equal(t, string(types.VirtualDiskModePersistent), r.appliance().disks[1].mode)
	require.Error(t, r.transportRig.vm.PowerOn(), "the appliance has its disk")
	p := bytes.Repeat([]byte("home again"), 400_000)
	_, err := d.WriteAt(context.Background(), p, 777)
	require.NoError(t, err)
	copy(r.want[777:], p)
	require.ErrorIs(t, d.Zero(context.Background(), 0, 512), errors.ErrUnsupported)
	require.NoError(t, d.Flush(context.Background()))
	require.EqualValues(t, 1, r.sync.Load())
	r.readAll(d, 1<<20, 2)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	require.EqualValues(t, 2, r.sync.Load(), "closing makes it durable")
	got := make([]byte, len(r.want))
	_, err = r.transportRig.vm.Read(r.transportRig.vm.Disks()[0], got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(r.want, got))
	require.NoError(t, r.transportRig.vm.PowerOn())
	r.clean()
}

// Many disks at once: each has a place, controllers are added, and a full
// appliance says so.
func TestHotAddFindsPlaces(t *testing.T) {
	const disks = 20
	r := newHotAddRig(t, mib)
	extra := make([]vmwaretest.DiskSpec, disks)
	for i := range extra {
		extra[i].Size = mib
		if i > 12 {
			extra[i].Controller = "sata"
		}
	}
	many, err := r.sim.AddVM(vmwaretest.VMSpec{Name: "many", Disks: extra})
	require.NoError(t, err)
	r.transportRig.vm = many
	s := r.snapshot("s")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []device
	for i := range disks {
		ref := r.refOf(&s, i)
		wg.Go(func() {
			d, err := r.h.open(context.Background(), r.v, ref, false)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, d)
		})
	}
	wg.Wait()
	require.Len(t, open, disks)
	places := map[string]bool{}
	m := r.appliance()
	for _, a := range notes(m) {
		require.NotNil(t, deviceOf(m, a))
		require.NotEqual(t, int32(hotAddReserved), a.Unit)
		places[fmt.Sprint(a.Bus, a.Unit)] = true
	}
	require.Len(t, places, disks)
	for _, d := range open {
		wg.Go(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.clean()
}

func TestHotAddIsFull(t *testing.T) {
	var devices object.VirtualDeviceList
	add := func(c types.BaseVirtualDevice, key, bus int32) {
		c.GetVirtualDevice().Key = key
		c.(types.BaseVirtualSCSIController).GetVirtualSCSIController().BusNumber = bus
		devices = append(devices, c)
	}
	fill := func(controller int32) {
		for u := range int32(hotAddUnits) {
			if u != hotAddReserved {
				d := new(types.VirtualDisk)
				d.ControllerKey, d.UnitNumber = controller, &u
				devices = append(devices, d)
			}
		}
	}
	add(new(types.VirtualLsiLogicController), 1000, 0)
	for bus := int32(1); bus < hotAddBuses; bus++ {
		changes, a, err := slotFor(devices, diskRef{file: "[d] f.vmdk"}, false)
		require.NoError(t, err)
		require.Equal(t, [2]int32{bus, 0}, [2]int32{a.Bus, a.Unit})
		require.Len(t, changes, 2, "a controller, as those there are full or of another kind")
		add(new(types.ParaVirtualSCSIController), 1000+bus, bus)
		fill(1000 + bus)
	}
	_, _, err := slotFor(devices, diskRef{}, false)
	require.ErrorIs(t, err, dr.ErrBusy)
	devices = devices[:len(devices)-1]
	changes, a, err := slotFor(devices, diskRef{}, true)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	require.Equal(t, [2]int32{hotAddBuses - 1, hotAddUnits - 1}, [2]int32{a.Bus, a.Unit})
}

func TestHotAddRefuses(t *testing.T) {
	r := newHotAddRig(t, mib)
	s := r.snapshot("s")
	require.Empty(t, r.h.refuse(r.ref(&s), false))
	require.NotEmpty(t, r.h.refuse(r.ref(&s), true))
	require.NotEmpty(t, r.h.refuse(r.ref(nil), false), "running")
	require.NotEmpty(t, (&HotAdd{}).refuse(r.ref(&s), false))
	own := r.ref(&s)
	own.machine = r.id
	require.NotEmpty(t, r.h.refuse(own, false))
	noUUID := r.ref(&s)
	noUUID.uuid = ""
	require.NotEmpty(t, r.h.refuse(noUUID, false))
	nowhere := &HotAdd{Appliance: "00000000-0000-0000-0000-000000000000", Open: r.h.Open}
	_, err := nowhere.open(context.Background(), r.v, r.ref(&s), false)
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorIs(t, (&HotAdd{}).Sweep(context.Background(), r.v), dr.ErrInvalid)
}

// Whichever call fails, and whether it had happened or not: in the end nothing
// is attached, at the latest after the next use.
func TestHotAddFails(t *testing.T) {
	r := newHotAddRig(t, mib)
	r.scatter(1)
	s := r.snapshot("s")
	ref := r.ref(&s)
	failed, fine := 0, 0
	for _, call := range []string{"ReconfigVM_Task", "FindAllByUuid", "RetrievePropertiesEx", "RetrieveProperties"} {
		for _, when := range []vmwaretest.When{vmwaretest.BeforeEffect, vmwaretest.AfterEffect, vmwaretest.InsteadOfTask, vmwaretest.AfterTask} {
			for nth := 1; ; nth++ {
				f := r.sim.Fault(vmwaretest.Fault{Call: call, When: when, Nth: nth})
				d, err := r.h.open(context.Background(), r.v, ref, false)
				if err == nil {
					r.read(d, 0, 1000)
					err = d.Close()
				}
				if err != nil {
					failed++
				}
				hit := f.Hits() > 0
				f.Remove()
				require.NoError(t, r.h.Sweep(context.Background(), r.v), "%s %d %d", call, when, nth)
				r.clean()
				if !hit {
					require.NoError(t, err)
					fine++
					break
				}
				require.Less(t, nth, 40)
			}
		}
	}
	require.Equal(t, 16, fine)
	require.Greater(t, failed, 20)

	r.fail = errors.New("no such device")
	_, err := r.h.open(context.Background(), r.v, ref, false)
	require.ErrorIs(t, err, r.fail)
	r.clean()
	r.fail = nil
	bad := ref
	bad.size *= 2
	_, err = r.h.open(context.Background(), r.v, bad, false)
	require.ErrorContains(t, err, "another disk")
	r.clean()
}

func TestHotAddIsCancelled(t *testing.T) {
	r := newHotAddRig(t, mib)
	s := r.snapshot("s")
	ref := r.ref(&s)
	for nth := 1; nth <= 2; nth++ {
		held := make(chan struct{})
		f := r.sim.Fault(vmwaretest.Fault{Call: "ReconfigVM_Task", Hold: held, Nth: nth})
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		_, err := r.h.open(ctx, r.v, ref, false)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
		require.Equal(t, 1, f.Hits())
		f.Remove()
		close(held)
		r.clean()
	}
	ctx, cancel := context.WithCancel(context.Background())
	wait := r.h
	r2 := HotAdd{Appliance: wait.Appliance, StateDir: wait.StateDir, Open: func(ctx context.Context, _ string, _ bool) (BlockDevice, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	_, err := r2.open(ctx, r.v, ref, false)
	require.ErrorIs(t, err, context.Canceled)
	r.clean()
}

// Other tasks on the appliance are waited for.
func TestHotAddWaitsItsTurn(t *testing.T) {
	r := newHotAddRig(t, mib)
	s := r.snapshot("s")
	f := r.sim.Fault(vmwaretest.Fault{Call: "ReconfigVM_Task", Err: &types.TaskInProgress{}, When: vmwaretest.InsteadOfTask, Nth: 2, Times: 2})
	d := r.transportRig.open(r.h, r.ref(&s), false)
	require.Equal(t, 2, f.Hits())
	f = r.sim.Fault(vmwaretest.Fault{Call: "ReconfigVM_Task", Err: &types.TaskInProgress{}})
	require.NoError(t, d.Close())
	require.Equal(t, 1, f.Hits())
	r.clean()
}

// What isn't known for sure is left alone.
func TestHotAddDoubts(t *testing.T) {
	ctx := context.Background()
	r := newHotAddRig(t, mib)
	s := r.snapshot("s")
	dead := r.process(t.TempDir())
	_, err := dead.open(ctx, r.v, r.ref(&s), false)
	require.NoError(t, err)
	require.NoError(t, r.h.Sweep(ctx, r.v))
	require.Len(t, r.appliance().disks, 2, "its lock file isn't here: it may run")
	require.Contains(t, r.log.String(), "whether its process runs can't be known")

	change := func(f func(*attached)) {
		m := r.appliance()
		a := notes(m)[0]
		f(&a)
		b, err := json.Marshal(a)
		require.NoError(t, err)
		require.NoError(t, r.v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: hotAddKey + a.ID, Value: string(b)}}}))
	}
	// A record that came with a clone.
	l, err := fsys.OS().Lock(filepath.Join(r.h.StateDir, "lifeboat-hotadd-"+notes(r.appliance())[0].Owner+".lock"), true)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	self := r.id
	change(func(a *attached) { a.Self = "another" })
	require.NoError(t, r.h.Sweep(ctx, r.v))
	require.Len(t, r.appliance().disks, 2)
	require.Empty(t, notes(r.appliance()))
	// One whose place has another disk now.
	m := r.appliance()
	raw, _ := object.OptionValueList(m.config.ExtraConfig).GetString("none")
	require.Empty(t, raw)
	a := attached{ID: "X", Self: self, Owner: "nobody", Boot: "another boot", File: "[vmfs-0] other.vmdk", UUID: "another", Bus: 1, Unit: 0}
	require.NoError(t, note(ctx, r.v, m, a))
	require.NoError(t, r.h.Sweep(ctx, r.v))
	require.Len(t, r.appliance().disks, 2)
	require.Empty(t, notes(r.appliance()), "it is forgotten")
}

func TestHotAddAfterAReboot(t *testing.T) {
	if bootID() == "" && runtime.GOOS != "linux" {
		t.Skip("no boot ID on this system")
	}
	ctx := context.Background()
	r := newHotAddRig(t, mib)
	s := r.snapshot("s")
	dead := r.process(t.TempDir())
	_, err := dead.open(ctx, r.v, r.ref(&s), false)
	require.NoError(t, err)
	m := r.appliance()
	a := notes(m)[0]
	a.Boot = "the boot before"
	require.NoError(t, note(ctx, r.v, m, a))
	require.NoError(t, r.h.Sweep(ctx, r.v))
	r.open.Store(0)
	r.clean()
}

func BenchmarkHotAdd(b *testing.B) {
	var r *hotAddRig
	benchmarkTransport(b, false, func(t *transportRig, s *types.ManagedObjectReference) device {
		if r == nil {
			r = &hotAddRig{transportRig: t}
			var err error
			r.vm, err = t.sim.AddVM(vmwaretest.VMSpec{Name: "appliance", Disks: []vmwaretest.DiskSpec{{Size: mib}}})
			require.NoError(b, err)
			r.id = r.appliance().id
			r.h = r.process(b.TempDir())
		}
		d, err := r.h.open(context.Background(), r.v, r.ref(s), false)
		require.NoError(b, err)
		return d
	})
}

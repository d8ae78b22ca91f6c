package vmware

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// inProcess serves the simulator's disks over NBD, in place of nbdkit.
type inProcess struct {
	sim *vmwaretest.Simulator
	dir string
	n   atomic.Int64

	mu      sync.Mutex
	writers []func()
}

// kill ends what is served to be written, as the end of a process does.
func (s *inProcess) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, end := range s.writers {
		end()
	}
	s.writers = nil
}

// die ends what a process with these options has open for writing, as its end
// does.
func die(o Options) {
	for _, x := range o.Transports {
		if k, ok := x.(servers); ok {
			if disks, ok := k.DiskServer.(*inProcess); ok {
				disks.kill()
			}
		}
	}
}

func (s *inProcess) ServeDisk(ctx context.Context, r DiskRequest) (string, func() error, error) {
	path := filepath.Join(s.dir, fmt.Sprint(s.n.Add(1)))
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", nil, err
	}
	e := vmwaretest.NBDExport{VM: types.ManagedObjectReference{Type: "VirtualMachine", Value: r.VM}, File: r.File}
	if r.Snapshot != "" {
		e.Snapshot = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: r.Snapshot}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	over := make(chan struct{})
	go func() { defer close(over); done <- s.sim.ServeNBD(ctx, l, e) }()
	if r.Snapshot == "" {
		s.mu.Lock()
		s.writers = append(s.writers, func() { cancel(); <-over })
		s.mu.Unlock()
	}
	return "nbd+unix:///?socket=" + path, func() error { cancel(); return <-done }, nil
}

func shortFolder(t testing.TB) string {
	dir, err := os.MkdirTemp("", "v")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// options are those that reach the simulator.
func options(t testing.TB, sim *vmwaretest.Simulator) Options {
	return Options{URL: sim.URL, Insecure: true, Transports: []Transport{Servers(&inProcess{sim: sim, dir: shortFolder(t)})}}
}

func connect(t testing.TB, o Options) *VSphere {
	t.Helper()
	v, err := Open(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = v.Close(context.Background()) })
	return v
}

// vcenter is a simulator in the suite's hands.
type vcenter struct {
	sim *vmwaretest.Simulator
	o   Options

	mu   sync.Mutex
	made map[dr.MachineID]*vmwaretest.VM
	keys map[dr.MachineID]map[dr.DiskID]int32
}

// vm finds the simulator's machine, also one that the backend made. A fault may
// be armed, which strikes once.
func (w *vcenter) vm(id dr.MachineID) (*vmwaretest.VM, map[dr.DiskID]int32, error) {
	vm, keys, err := w.lookVM(id)
	if err != nil {
		vm, keys, err = w.lookVM(id)
	}
	return vm, keys, err
}

func (w *vcenter) lookVM(id dr.MachineID) (*vmwaretest.VM, map[dr.DiskID]int32, error) {
	v, err := Open(context.Background(), w.o)
	if err != nil {
		return nil, nil, err
	}
	defer v.Close(context.Background())
	m, err := v.find(context.Background(), id)
	if err != nil {
		return nil, nil, err
	}
	keys := map[dr.DiskID]int32{}
	for _, d := range m.disks {
		keys[d.id] = d.key
	}
	return w.sim.VM(m.ref), keys, nil
}

func (w *vcenter) disk(id dr.MachineID, disk dr.DiskID) (*vmwaretest.VM, int32, error) {
	w.mu.Lock()
	vm, keys := w.made[id], w.keys[id]
	w.mu.Unlock()
	if key, ok := keys[disk]; ok && w.sim.VM(vm.Reference()) != nil {
		return vm, key, nil // the same ID may be another machine by now
	}
	vm, keys, err := w.vm(id)
	if err != nil {
		return nil, 0, err
	}
	w.mu.Lock()
	w.made[id], w.keys[id] = vm, keys
	w.mu.Unlock()
	return vm, keys[disk], nil
}

func (w *vcenter) harness(t testing.TB) backendtest.Harness {
	v := connect(t, w.o)
	var n atomic.Int64
	add := func(name string, disks []dr.Disk, change func(*record)) (dr.MachineID, error) {
		spec := vmwaretest.VMSpec{Name: name, InstanceUUID: uuid.NewString(), ChangeTracking: true, Off: true, NICs: []vmwaretest.NICSpec{{}}}
		r := record{Disks: map[string]dr.DiskID{}}
		for _, d := range disks {
			id := uuid.NewString()
			r.Disks[id] = d.ID
			spec.Disks = append(spec.Disks, vmwaretest.DiskSpec{Size: d.Size, UUID: id})
		}
		id := dr.MachineID(spec.InstanceUUID)
		if change != nil {
			change(&r)
		}
		value := r.encode(id).GetOptionValue()
		spec.ExtraConfig = map[string]string{value.Key: value.Value.(string)}
		vm, err := w.sim.AddVM(spec)
		if err == nil {
			vm.SetGuest(login(vmwaretest.Guest{}))
		}
		return id, err
	}
	return backendtest.Harness{
		Backend: v,
		Machine: func(_ backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
			return add(fmt.Sprintf("original-%d", n.Add(1)), disks, nil)
		},
		Power: func(id dr.MachineID, p dr.Power) error {
			vm, _, err := w.vm(id)
			switch {
			case err != nil:
				return err
			case p == dr.On:
				return vm.PowerOn()
			}
			return vm.PowerOff()
		},
		Write: func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
			vm, key, err := w.disk(id, disk)
			if err != nil {
				return err
			}
			for {
				if err = vm.Write(key, p, off); !errors.Is(err, vmwaretest.ErrFrozen) {
					return err
				}
				time.Sleep(time.Millisecond) // as a guest's programs wait
			}
		},
		Read: func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
			vm, key, err := w.disk(id, disk)
			if err != nil {
				return err
			}
			if n, err := vm.Read(key, p, off); n < len(p) {
				return errors.Join(io.ErrUnexpectedEOF, err)
			}
			return nil
		},
		Reopen: func() (backend.Backend, error) {
			die(w.o)
			return Open(context.Background(), w.o)
		},
		Grow: func(id dr.MachineID, disk dr.DiskID, size int64) error {
			return w.grow(id, disk, size)
		},
		LoseChanges: func(id dr.MachineID) error {
			// As VMware says to reset it: without snapshots. An epoch that
			// begins above one is not believed.
			if err := w.removeSnapshots(id); err != nil {
				return err
			}
			vm, _, err := w.vm(id)
			if err == nil {
				vm.ResetTracking()
			}
			return err
		},
		Hang: func(id dr.MachineID, hung bool) error {
			vm, _, err := w.vm(id)
			if err != nil {
				return err
			}
			g := login(vmwaretest.Guest{})
			if hung {
				g.Tools = vmwaretest.ToolsHung
			}
			vm.SetGuest(g)
			return nil
		},
		Duplicate: func(_ backendtest.T, id dr.MachineID) error {
			m, err := v.find(context.Background(), id)
			if err != nil {
				return err
			}
			_, err = add("twin-"+string(id), m.describe().Disks, func(r *record) { r.Key = m.record.Key })
			return err
		},
		Inventory:   func() ([]string, error) { return w.inventory(v) },
		SizeUnit:    1024,
		Granularity: 64 << 10,
		Forgets:     true,
	}
}

// grow enlarges a disk as a person would: vSphere refuses that under a
// snapshot, so all go first.
func (w *vcenter) grow(id dr.MachineID, disk dr.DiskID, size int64) error {
	ctx := context.Background()
	if err := w.removeSnapshots(id); err != nil {
		return err
	}
	v, err := Open(ctx, w.o)
	if err != nil {
		return err
	}
	defer v.Close(ctx)
	m, err := v.find(ctx, id)
	if err != nil {
		return err
	}
	d, _ := m.disk(disk)
	dev := *object.VirtualDeviceList(m.config.Hardware.Device).FindByKey(d.key).(*types.VirtualDisk)
	dev.CapacityInBytes, dev.CapacityInKB = size, size>>10
	return v.reconfigure(ctx, m, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: &dev},
	}})
}

func (w *vcenter) removeSnapshots(id dr.MachineID) error {
	v, err := Open(context.Background(), w.o)
	if err != nil {
		return err
	}
	defer v.Close(context.Background())
	_, err = v.release(context.Background(), id, func(dr.PointID) bool { return false })
	return err
}

func (w *vcenter) inventory(v *VSphere) ([]string, error) {
	var names []string
	for m, err := range v.Machines(context.Background()) {
		if err != nil {
			return nil, err
		}
		names = append(names, string(m.ID))
		found, err := v.find(context.Background(), m.ID)
		if err != nil {
			return nil, err
		}
		for _, d := range found.disks {
			names = append(names, string(m.ID)+"/"+string(d.id))
		}
		for _, s := range found.snapshots() {
			names = append(names, string(m.ID)+"@"+s.name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func newVCenter(t testing.TB, o vmwaretest.Options) *vcenter {
	if o.Datacenters == nil { // with one of everything, nothing needs to be chosen
		o.Datacenters = []vmwaretest.Datacenter{{
			Name: "DC0", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0", "esx-1"}}},
			Datastores: []vmwaretest.Datastore{{Name: "vmfs-0"}}, Networks: []string{"production", "isolated"},
		}}
	}
	sim := vmwaretest.New(t, o)
	return &vcenter{sim: sim, o: options(t, sim), made: map[dr.MachineID]*vmwaretest.VM{}, keys: map[dr.MachineID]map[dr.DiskID]int32{}}
}

// seed makes what is drawn the same in every run, so that a change is judged by
// what it changed; other numbers look elsewhere, and 0 at something new each time.
var seed = flag.Uint64("seed", 1, "what random histories and samples are drawn from; 0: another one each time")

func TestContract(t *testing.T) {
	w := newVCenter(t, vmwaretest.Options{OnGuestProgram: heldGuest})
	withGuest(&w.o)
	h := w.harness(t)
	h.Seed = *seed
	if testing.Short() {
		h.Histories = 2
	}
	backendtest.Run(t, h)
}

// tool finds a program that a test runs. Without it the test is skipped, or
// fails if LIFEBOAT_REQUIRE=all says that nothing may be missing.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("%s is not installed, and LIFEBOAT_REQUIRE=all", name)
	}
	t.Skipf("%s is not installed (Debian: nbdkit, qemu-utils)", name)
	return ""
}

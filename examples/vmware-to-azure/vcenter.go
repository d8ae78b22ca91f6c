package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// vcenter is the site at home. With a real one only Open's options differ: its
// URL and login, and VDDK as the transport.
type vcenter struct {
	sim     *vmwaretest.Simulator
	v       *vmware.VSphere
	witness *witness
}

// Networks of the vCenter.
const production = "production"

func openVCenter(ctx context.Context, dir string, w *witness) (*vcenter, error) {
	sim, err := vmwaretest.Start(vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "DC0", Folders: []string{"recovered"}, Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0", "esx-1"}}},
		Datastores: []vmwaretest.Datastore{{Name: "vmfs-0"}, {Name: "vmfs-1"}}, Networks: []string{production},
	}}})
	if err != nil {
		return nil, err
	}
	c := &vcenter{sim: sim, witness: w}
	c.v, err = vmware.Open(ctx, vmware.Options{URL: sim.URL, Insecure: true,
		Transports: []vmware.Transport{vmware.Servers(&diskServer{sim: sim, dir: dir})}})
	if err != nil {
		sim.Close()
		return nil, err
	}
	return c, nil
}

func (c *vcenter) close() error {
	err := c.v.Close(context.Background())
	c.sim.Close()
	return err
}

// backend is what Lifeboat is given. The simulated vCenter has machines, and no
// guests that would start with them.
func (c *vcenter) backend() backend.Backend { return &booting{c.v, c} }

type booting struct {
	backend.Backend
	c *vcenter
}

func (b *booting) Unwrap() any { return b.Backend }

func (b *booting) Start(ctx context.Context, id dr.MachineID) error {
	m, err := b.Machine(ctx, id)
	if err != nil {
		return err
	}
	if err := b.Backend.Start(ctx, id); err != nil || m.Power == dr.On {
		return err
	}
	vm, err := b.c.find(ctx, id)
	if err != nil {
		return err
	}
	return b.c.witness.boot(hardware(vm))
}

// machine says what to add.
type machine struct {
	name    string
	uefi    bool
	os      string
	address string
	disks   []int64
}

// add makes a machine with a guest that writes, and returns its ID.
func (c *vcenter) add(m machine) (dr.MachineID, error) {
	spec := vmwaretest.VMSpec{Name: m.name, EFI: m.uefi, GuestID: m.os, CPUs: 2, MemoryMB: 4096, InstanceUUID: uuid.NewString(),
		Datastore: "vmfs-0", ChangeTracking: true, NICs: []vmwaretest.NICSpec{{Network: production}},
		Guest: vmwaretest.Guest{HostName: m.name, NICs: []vmwaretest.GuestNIC{{Addresses: []netip.Prefix{netip.MustParsePrefix(m.address)}}}}}
	for _, size := range m.disks {
		spec.Disks = append(spec.Disks, vmwaretest.DiskSpec{Size: size})
	}
	vm, err := c.sim.AddVM(spec)
	if err != nil {
		return "", err
	}
	return dr.MachineID(spec.InstanceUUID), c.witness.install(m.name, hardware(vm), m.disks)
}

func hardware(vm *vmwaretest.VM) computer {
	keys := vm.Disks()
	return computer{
		disks: len(keys),
		read: func(disk int, p []byte, off int64) error {
			if n, err := vm.Read(keys[disk], p, off); n < len(p) {
				return errors.Join(io.ErrUnexpectedEOF, err)
			}
			return nil
		},
		write: func(disk int, p []byte, off int64) error { return vm.Write(keys[disk], p, off) },
	}
}

// object finds a machine as a person with govc would.
func (c *vcenter) object(ctx context.Context, id dr.MachineID, use func(*object.VirtualMachine) error) error {
	client, err := govmomi.NewClient(ctx, c.sim.URL, true)
	if err != nil {
		return err
	}
	defer func() { _ = client.Logout(context.WithoutCancel(ctx)) }()
	instance := true
	ref, err := object.NewSearchIndex(client.Client).FindByUuid(ctx, nil, string(id), true, &instance)
	if err != nil {
		return err
	}
	vm, ok := ref.(*object.VirtualMachine)
	if !ok {
		return fmt.Errorf("machine %s: %w", id, dr.ErrNotFound)
	}
	return use(vm)
}

func (c *vcenter) find(ctx context.Context, id dr.MachineID) (vm *vmwaretest.VM, err error) {
	err = c.object(ctx, id, func(o *object.VirtualMachine) error {
		vm = c.sim.VM(o.Reference())
		return nil
	})
	return vm, err
}

// snapshots names the machines that have any.
func (c *vcenter) snapshots(ctx context.Context) (names []string, err error) {
	for m, err := range c.v.Machines(ctx) {
		if err != nil {
			return nil, err
		}
		err = c.object(ctx, m.ID, func(o *object.VirtualMachine) error {
			var vm mo.VirtualMachine
			if err := o.Properties(ctx, o.Reference(), []string{"snapshot"}, &vm); err != nil {
				return err
			}
			if vm.Snapshot != nil {
				names = append(names, m.Name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// destroy deletes a machine with all its disks.
func (c *vcenter) destroy(ctx context.Context, id dr.MachineID) error {
	return c.object(ctx, id, func(o *object.VirtualMachine) error {
		t, err := o.Destroy(ctx)
		if err != nil {
			return err
		}
		return t.Wait(ctx)
	})
}

// diskServer serves disks over NBD, in place of nbdkit with VMware's VDDK.
type diskServer struct {
	sim *vmwaretest.Simulator
	dir string
	n   atomic.Int64
}

func (s *diskServer) ServeDisk(ctx context.Context, r vmware.DiskRequest) (string, func() error, error) {
	path := filepath.Join(s.dir, fmt.Sprint(s.n.Add(1)))
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", nil, err
	}
	e := vmwaretest.NBDExport{VM: types.ManagedObjectReference{Type: "VirtualMachine", Value: r.VM}, File: r.File}
	if r.Snapshot != "" {
		e.Snapshot = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: r.Snapshot}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.sim.ServeNBD(ctx, l, e) }()
	return "nbd+unix:///?socket=" + path, func() error { stop(); return <-done }, nil
}

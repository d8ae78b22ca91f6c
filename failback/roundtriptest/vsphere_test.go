package roundtriptest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// vcenter is a simulated vCenter, in the hands of a person.
type vcenter struct {
	sim *vmwaretest.Simulator
	v   *vmware.VSphere
	dir string // of sockets
	n   atomic.Int64

	mu    sync.Mutex
	found map[dr.MachineID]*hardware
}

// hardware is a machine and its disks' keys.
type hardware struct {
	vm   *vmwaretest.VM
	keys map[dr.DiskID]int32
}

func vsphere(t *testing.T, name string) roundtriptest.End {
	sim := vmwaretest.New(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "DC0", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0"}}},
		Datastores: []vmwaretest.Datastore{{Name: "vmfs-0"}}, Networks: []string{network},
	}}})
	dir, err := os.MkdirTemp("", "v") // short, as a socket's path must be
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &vcenter{sim: sim, dir: dir, found: map[dr.MachineID]*hardware{}}
	c.v, err = vmware.Open(t.Context(), vmware.Options{URL: sim.URL, Insecure: true, Transports: []vmware.Transport{vmware.Servers(c)}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.v.Close(context.Background()) })
	return roundtriptest.End{Name: name, Where: failover.Where{Networks: everywhere}, Harness: backendtest.Harness{
		Backend: c.v, SizeUnit: 1 << 10,
		Machine: c.add, Power: c.power, Write: c.write, Read: c.read,
	}}
}

func (c *vcenter) add(_ backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
	spec := vmwaretest.VMSpec{Name: "app", InstanceUUID: uuid.NewString(), ChangeTracking: true, Off: true, NICs: []vmwaretest.NICSpec{{Network: network}}}
	for _, d := range disks {
		spec.Disks = append(spec.Disks, vmwaretest.DiskSpec{Size: d.Size})
	}
	_, err := c.sim.AddVM(spec)
	return dr.MachineID(spec.InstanceUUID), err
}

// find finds a machine as a person with govc would.
func (c *vcenter) find(id dr.MachineID) (*hardware, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.found[id]; h != nil && c.sim.VM(h.vm.Reference()) != nil {
		return h, nil
	}
	ctx := context.Background()
	client, err := govmomi.NewClient(ctx, c.sim.URL, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Logout(ctx) }()
	instance := true
	ref, err := object.NewSearchIndex(client.Client).FindByUuid(ctx, nil, string(id), true, &instance)
	if err != nil {
		return nil, err
	}
	if ref == nil {
		return nil, fmt.Errorf("machine %s: %w", id, dr.ErrNotFound)
	}
	m, err := c.v.Machine(ctx, id)
	if err != nil {
		return nil, err
	}
	h := &hardware{vm: c.sim.VM(ref.Reference()), keys: map[dr.DiskID]int32{}}
	for i, key := range h.vm.Disks() {
		h.keys[m.Disks[i].ID] = key
	}
	c.found[id] = h
	return h, nil
}

func (c *vcenter) power(id dr.MachineID, p dr.Power) error {
	h, err := c.find(id)
	switch {
	case err != nil:
		return err
	case p == dr.On:
		return h.vm.PowerOn()
	}
	return h.vm.PowerOff()
}

func (c *vcenter) write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	h, err := c.find(id)
	if err != nil {
		return err
	}
	return h.vm.Write(h.keys[disk], p, off)
}

func (c *vcenter) read(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	h, err := c.find(id)
	if err != nil {
		return err
	}
	if n, err := h.vm.Read(h.keys[disk], p, off); n < len(p) {
		return errors.Join(io.ErrUnexpectedEOF, err)
	}
	return nil
}

// ServeDisk serves disks over NBD, in place of nbdkit with VMware's VDDK.
func (c *vcenter) ServeDisk(ctx context.Context, r vmware.DiskRequest) (string, func() error, error) {
	path := filepath.Join(c.dir, fmt.Sprint(c.n.Add(1)))
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
	go func() { done <- c.sim.ServeNBD(ctx, l, e) }()
	return "nbd+unix:///?socket=" + path, func() error { cancel(); return <-done }, nil
}

package roundtriptest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// hvHost is a simulated Hyper-V host, in the hands of a person.
type hvHost struct {
	sim *hypervtest.Host
	v   *hyperv.HyperV

	mu    sync.Mutex
	disks map[dr.MachineID]map[dr.DiskID]string // what the simulator calls them
}

func hyperV(t *testing.T, name string) roundtriptest.End {
	x := &hvHost{sim: hypervtest.New(t, hypervtest.Options{}), disks: map[dr.MachineID]map[dr.DiskID]string{}}
	x.sim.Switch(network)
	var err error
	x.v, err = hyperv.Open(t.Context(), hyperv.Options{Poll: time.Microsecond,
		Nodes: []hyperv.Node{{Name: "hv1", Conn: x.sim.Conn(), Disks: x.sim.Disks()}}})
	require.NoError(t, err)
	return roundtriptest.End{Name: name, Where: failover.Where{Networks: everywhere}, Harness: backendtest.Harness{
		Backend: x.v, Machine: x.add, Power: x.power, Write: x.write, Read: x.read,
	}}
}

func (x *hvHost) add(_ backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
	spec := hypervtest.VMSpec{Name: "app", Switches: []string{network}}
	for _, d := range disks {
		spec.Disks = append(spec.Disks, hypervtest.DiskSpec{Size: d.Size})
	}
	vm, err := x.sim.AddVM(spec)
	if err != nil {
		return "", err
	}
	return dr.MachineID(strings.ToLower(vm.ID())), nil
}

// find finds a machine, and what the simulator calls one of its disks.
func (x *hvHost) find(id dr.MachineID, disk dr.DiskID) (*hypervtest.VM, string, error) {
	vm := x.sim.VM(strings.ToUpper(string(id)))
	if vm == nil {
		return nil, "", fmt.Errorf("machine %s: %w", id, dr.ErrNotFound)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.disks[id] == nil {
		m, err := x.v.Machine(context.Background(), id)
		if err != nil {
			return nil, "", err
		}
		names := map[dr.DiskID]string{}
		for _, have := range vm.Disks() {
			for _, d := range m.Disks {
				if strings.HasSuffix(have.Path, `\`+d.Name) {
					names[d.ID] = have.VirtualDiskID
				}
			}
		}
		x.disks[id] = names
	}
	return vm, x.disks[id][disk], nil
}

func (x *hvHost) power(id dr.MachineID, p dr.Power) error {
	vm := x.sim.VM(strings.ToUpper(string(id)))
	switch {
	case vm == nil:
		return dr.ErrNotFound
	case p == dr.On:
		return vm.Start()
	}
	vm.PowerOff()
	return nil
}

func (x *hvHost) write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	vm, name, err := x.find(id, disk)
	if err != nil {
		return err
	}
	return vm.Write(name, p, off)
}

func (x *hvHost) read(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	vm, name, err := x.find(id, disk)
	if err != nil {
		return err
	}
	return vm.Read(name, p, off)
}

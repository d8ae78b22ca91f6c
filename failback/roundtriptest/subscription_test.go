package roundtriptest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// cloud is a simulated subscription, in the hands of a person.
type cloud struct {
	sim   *azuretest.Cloud
	azure *azure.Azure
}

// Resource groups: of machines that were there before, and of replicas.
const production, recovery = "production", "recovery"

func subscription(t *testing.T, name string) roundtriptest.End {
	// Restore points may be made as often as one likes, because the guest never
	// rests.
	sim := azuretest.New(azuretest.Options{Limits: azuretest.Limits{CrashInterval: 1, ApplicationInterval: 1}})
	t.Cleanup(sim.Close)
	for _, g := range []string{production, recovery} {
		sim.ResourceGroup(g)
		sim.Network(g, network, map[string]string{"default": "10.1.0.0/16"})
	}
	staging, err := sim.Blobs().Container(t.Context(), "staging", "lifeboat")
	require.NoError(t, err)
	c := &cloud{sim: sim}
	c.azure, err = azure.Open(azure.Options{
		Subscription: sim.Subscription(), Credential: sim.Credential(), ARM: sim.ClientOptions(), Location: sim.Location(),
		ResourceGroup: recovery, Sources: []string{production}, Staging: staging,
		StorageAccount: "/subscriptions/" + sim.Subscription() + "/resourceGroups/" + recovery + "/providers/Microsoft.Storage/storageAccounts/staging",
		Network:        network + "/default", Poll: time.Millisecond,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.azure.Close(context.Background()) })
	return roundtriptest.End{Name: name, Where: failover.Where{Networks: map[string]string{network: network + "/default"}}, Harness: backendtest.Harness{
		Backend: c.azure, SizeUnit: 1 << 20,
		Machine: c.add, Power: c.power, Write: c.write, Read: c.read,
	}}
}

func (c *cloud) add(t backendtest.T, disks []dr.Disk) (dr.MachineID, error) {
	vm := azuretest.VM{Off: true, Subnet: network + "/default", Generation: "V1", BootDiagnostics: true, OSDisk: disks[0].Size, Data: map[int]int64{}}
	for i, d := range disks[1:] {
		vm.Data[i] = d.Size
	}
	if err := c.sim.AddVM(production, "app", vm); err != nil {
		return "", err
	}
	for m, err := range c.azure.Machines(t.Context()) {
		return m.ID, err
	}
	return "", dr.ErrNotFound
}

// find returns a machine's group, name and the places of its disks.
func (c *cloud) find(id dr.MachineID) (group, name string, disks map[dr.DiskID]int, err error) {
	m, err := c.azure.Machine(context.Background(), id)
	if err != nil {
		return "", "", nil, err
	}
	group = recovery
	if _, err := c.sim.Disks(group, m.Name); err != nil {
		group = production
	}
	disks = map[dr.DiskID]int{}
	for i, d := range m.Disks {
		disks[d.ID] = i
	}
	return group, m.Name, disks, nil
}

func (c *cloud) power(id dr.MachineID, p dr.Power) error {
	group, name, _, err := c.find(id)
	if err != nil {
		return err
	}
	return c.sim.Power(group, name, p == dr.On)
}

func (c *cloud) write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	group, name, disks, err := c.find(id)
	if err != nil {
		return err
	}
	return c.sim.Write(group, name, disks[disk]-1, p, off) // the OS disk is at LUN -1
}

func (c *cloud) read(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	group, name, disks, err := c.find(id)
	if err != nil {
		return err
	}
	ids, err := c.sim.Disks(group, name)
	if err != nil {
		return err
	}
	return c.sim.DiskRead(ids[disks[disk]], p, off)
}

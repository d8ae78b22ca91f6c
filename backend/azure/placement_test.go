package azure_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armlocks"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestParseOptions(t *testing.T) {
	for _, raw := range []string{"", "null", " {} "} {
		o, err := azure.ParseOptions(json.RawMessage(raw))
		require.NoError(t, err)
		require.Equal(t, azure.PlacementOptions{}, o)
	}
	o, err := azure.ParseOptions(json.RawMessage(`{"size":"Standard_D2s_v5","zone":"1","license":"Windows_Server","addresses":{"nic0":"10.0.0.4","nic1":""},"tags":{"owner":"me"}}`))
	require.NoError(t, err)
	require.Equal(t, "me", o.Tags["owner"])
	for _, raw := range []string{
		`{"no-such-option":1}`, `{"size":1}`, `[]`, `{`, `{} {}`, `{"zone":"1","availabilitySet":"a"}`, `{"diskType":"Fast"}`, `{"security":"Confidential"}`,
		`{"addresses":{"nic0":"nowhere"}}`, `{"addresses":{"nic0":"2001:db8::1"}}`, `{"tags":{"lifeboat-machine":"x"}}`, `{"tags":{"Lifeboat-Key":"x"}}`, `{"tags":{"a/b":"x"}}`,
		`{"license":"Solaris"}`, `{"diskType":"UltraSSD_LRS"}`, `{"diskType":"PremiumV2_LRS"}`,
	} {
		_, err := azure.ParseOptions(json.RawMessage(raw))
		require.ErrorIs(t, err, dr.ErrInvalid, raw)
	}
}

func TestMachineName(t *testing.T) {
	for name, want := range map[string]string{
		"web": "web", "Web-01": "Web-01", "web.example.com": "web-example-com", "büro server": "b-ro-server", "--web--": "web", "a__b": "a-b", "": "", "日本": "",
		strings.Repeat("a", 80): strings.Repeat("a", 60), strings.Repeat("a", 59) + "-b": strings.Repeat("a", 59), "web (old)": "web-old",
	} {
		require.Equal(t, want, azure.MachineName(name), name)
	}
}

// nothingMade tells that neither Azure nor the container has anything new.
func (r *rig) nothingMade(t testing.TB, before []string, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, before, r.everything(t), "refused, after something was made")
}

// everything is also the records.
func (r *rig) everything(t testing.TB) []string {
	t.Helper()
	all := r.cloud.Resources()
	for pages := r.container.NewListBlobsFlatPager(nil); pages.More(); {
		page, err := pages.NextPage(context.Background())
		require.NoError(t, err)
		for _, b := range page.Segment.BlobItems {
			all = append(all, *b.Name)
		}
	}
	return all
}

// Machines that Azure can't have are refused by Prepare.
func TestPlacementRefusals(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	for _, c := range []struct {
		name   string
		change func(*dr.Machine)
		o      azure.PlacementOptions
		say    string
	}{
		{"no disks", func(m *dr.Machine) { m.Disks = nil }, azure.PlacementOptions{}, "without disks"},
		{"two of one ID", func(m *dr.Machine) { m.Disks = append(m.Disks, m.Disks[0]) }, azure.PlacementOptions{}, "two disks of one ID"},
		{"no sectors", func(m *dr.Machine) { m.Disks[0].Size = 1000 }, azure.PlacementOptions{}, "whole sectors"},
		{"an OS disk of 3 TiB by BIOS", func(m *dr.Machine) { m.Disks[0].Size = 3 << 40 }, azure.PlacementOptions{}, "BIOS"},
		{"an OS disk of 4 TiB", func(m *dr.Machine) { m.Firmware, m.Disks[0].Size = dr.UEFI, 4<<40 }, azure.PlacementOptions{}, "most that Azure starts from"},
		{"a disk of 9 TiB", func(m *dr.Machine) { m.Disks = append(m.Disks, dr.Disk{ID: "big", Size: 9 << 40}) }, azure.PlacementOptions{}, "page blob"},
		{"trusted by BIOS", func(m *dr.Machine) {}, azure.PlacementOptions{Security: "TrustedLaunch"}, "BIOS"},
		{"no such size", func(m *dr.Machine) {}, azure.PlacementOptions{Size: "Standard_X1"}, "not offered"},
		{"no such zone", func(m *dr.Machine) {}, azure.PlacementOptions{Zone: "9"}, "no size"},
		{"no such availability set", func(m *dr.Machine) {}, azure.PlacementOptions{AvailabilitySet: "none"}, "availability set none"},
		{"too many disks for the size", func(m *dr.Machine) {
			for i := range 5 {
				m.Disks = append(m.Disks, dr.Disk{ID: dr.DiskID(rune('a' + i)), Size: 1 << 20})
			}
		}, azure.PlacementOptions{Size: "Standard_D2s_v5"}, "data disks"},
		{"too many cards for the size", func(m *dr.Machine) { m.NICs = []dr.NIC{{ID: "a"}, {ID: "b"}, {ID: "c"}} }, azure.PlacementOptions{Size: "Standard_D2s_v5"}, "cards"},
		{"generation 2 on a size of the first", func(m *dr.Machine) { m.Firmware = dr.UEFI }, azure.PlacementOptions{Size: "Standard_A2_v2"}, "generations V1"},
		{"premium on a size without", func(m *dr.Machine) {}, azure.PlacementOptions{Size: "Standard_A2_v2", DiskType: "Premium_LRS"}, "premium"},
		{"trusted on a size that can't", func(m *dr.Machine) { m.Firmware = dr.UEFI }, azure.PlacementOptions{Size: "Standard_A2_v2", Security: "TrustedLaunch"}, "generations V1"},
		{"a size that the zone lacks", func(m *dr.Machine) {}, azure.PlacementOptions{Size: "Standard_D8s_v5", Zone: "3"}, "zone 3"},
		{"a size that the subscription lacks", func(m *dr.Machine) {}, azure.PlacementOptions{Size: "Standard_M128"}, "NotAvailableForSubscription"},
		{"larger than any", func(m *dr.Machine) { m.CPUs = 64 }, azure.PlacementOptions{}, "no size"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := r.everything(t)
			m := web()
			c.change(&m)
			_, err := r.prepare(t, c.name, m, options(c.o))
			require.ErrorIs(t, err, dr.ErrInvalid)
			require.ErrorContains(t, err, c.say)
			r.nothingMade(t, before, err)
		})
	}
}

// Everything that is asked for arrives at Azure.
func TestPlacementArrives(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	ctx := context.Background()
	_, err := r.compute(t).NewAvailabilitySetsClient().CreateOrUpdate(ctx, group, "set", armcompute.AvailabilitySet{Location: to.Ptr(r.cloud.Location())}, nil)
	require.NoError(t, err)
	get := func(id dr.MachineID) armcompute.VirtualMachine {
		g, n, err := r.vm(id)
		require.NoError(t, err)
		vm, err := r.compute(t).NewVirtualMachinesClient().Get(ctx, g, n, nil)
		require.NoError(t, err)
		return vm.VirtualMachine
	}
	before := r.everything(t)
	m := web()
	m.Firmware, m.OS, m.SecureBoot = dr.UEFI, "Windows Server 2022", true
	m.Disks = append(m.Disks, dr.Disk{ID: "sdb", Size: 5 << 20})
	id := r.started(t, "k", m, options(azure.PlacementOptions{Size: "standard_d4s_v5", Zone: "2", DiskType: "Premium_LRS", Security: "TrustedLaunch", License: "Windows_Server",
		Tags: map[string]string{"owner": "me"}}))
	vm := get(id)
	require.Equal(t, "Standard_D4s_v5", string(*vm.Properties.HardwareProfile.VMSize))
	require.Equal(t, "2", *vm.Zones[0])
	require.Equal(t, "Windows_Server", *vm.Properties.LicenseType)
	require.Equal(t, armcompute.SecurityTypesTrustedLaunch, *vm.Properties.SecurityProfile.SecurityType)
	require.True(t, *vm.Properties.SecurityProfile.UefiSettings.SecureBootEnabled)
	require.True(t, *vm.Properties.SecurityProfile.UefiSettings.VTpmEnabled)
	require.Equal(t, armcompute.OperatingSystemTypesWindows, *vm.Properties.StorageProfile.OSDisk.OSType)
	ids, err := r.cloud.Disks(group, *vm.Name)
	require.NoError(t, err)
	require.Len(t, ids, 2)
	for i, d := range ids {
		parts := strings.Split(d, "/")
		x, err := r.compute(t).NewDisksClient().Get(ctx, group, parts[len(parts)-1], nil)
		require.NoError(t, err)
		require.Equal(t, armcompute.DiskStorageAccountTypesPremiumLRS, *x.SKU.Name)
		require.Equal(t, "2", *x.Zones[0])
		require.Equal(t, string(m.Disks[i].ID), *x.Tags["lifeboat-disk"])
		if i == 0 {
			require.Equal(t, armcompute.HyperVGenerationV2, *x.Properties.HyperVGeneration)
		}
	}
	// Every resource carries the tags.
	res, err := armresources.NewClient(r.cloud.Subscription(), r.cloud.Credential(), r.cloud.ClientOptions())
	require.NoError(t, err)
	n := 0
	for pages := res.NewListByResourceGroupPager(group, nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		require.NoError(t, err)
		for _, x := range page.Value {
			if slices.Contains(before, strings.ToLower(*x.ID)) {
				continue
			}
			n++
			require.NotNil(t, x.Tags["owner"], *x.ID)
			require.Equal(t, "me", *x.Tags["owner"], *x.ID)
			require.Equal(t, string(id), *x.Tags["lifeboat-machine"], *x.ID)
			require.Equal(t, "k", *x.Tags["lifeboat-key"], *x.ID)
		}
	}
	require.Equal(t, 4, n, "a machine, a card, two disks")
	d, err := r.a.Machine(ctx, id)
	require.NoError(t, err)
	require.Equal(t, dr.UEFI, d.Firmware)
	require.Equal(t, 4, d.CPUs)
	require.NoError(t, r.a.Remove(ctx, id))

	for _, set := range []string{"set", "/subscriptions/" + r.cloud.Subscription() + "/resourceGroups/" + group + "/providers/Microsoft.Compute/availabilitySets/set"} {
		id = r.started(t, "set", web(), options(azure.PlacementOptions{AvailabilitySet: set}))
		require.True(t, strings.HasSuffix(strings.ToLower(*get(id).Properties.AvailabilitySet.ID), "/availabilitysets/set"))
		require.NoError(t, r.a.Remove(ctx, id))
	}
	require.Equal(t, before, r.everything(t))
}

func TestReplicaNames(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	name := func(id dr.MachineID) string {
		m, err := r.a.Machine(context.Background(), id)
		require.NoError(t, err)
		return m.Name
	}
	prepared := func(key string, change ...func(*backend.Placement)) dr.MachineID {
		id, err := r.prepare(t, key, web(), change...)
		require.NoError(t, err)
		return id
	}
	first := prepared("first")
	require.Equal(t, "web", name(first))
	second := prepared("second")
	require.Regexp(t, `^web-[0-9a-f]{8}$`, name(second), "another replica that has not started has the name")
	require.Equal(t, first, prepared("first"))
	require.Equal(t, "web", name(first))
	require.Regexp(t, `^web-[0-9a-f]{8}$`, name(prepared("drill", func(p *backend.Placement) { p.Isolated = true })))
	require.NoError(t, r.cloud.AddVM(group, "foreign", azuretest.VM{Off: true, Subnet: "prod/default"}))
	id := prepared("third", func(p *backend.Placement) { p.Name = "foreign" })
	require.Regexp(t, `^foreign-[0-9a-f]{8}$`, name(id))
	require.Equal(t, "a-name", name(prepared("fourth", func(p *backend.Placement) { p.Name = "a name!" })))
	require.Equal(t, "web", name(prepared("fifth", func(p *backend.Placement) { p.Name, p.Machine.Name = "", "!"; p.Machine.ID = "web-x" }))[:3])
	// A name that is given back can be had again.
	require.NoError(t, r.a.Remove(context.Background(), first))
	require.Equal(t, "web", name(prepared("sixth")))
}

// A machine of the name appears between Prepare and Start.
func TestNameTakenMeanwhile(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id, err := r.prepare(t, "k", web())
	require.NoError(t, err)
	require.NoError(t, r.cloud.AddVM(group, "web", azuretest.VM{Subnet: "prod/default", Tags: map[string]string{"owner": "somebody"}}))
	err = r.a.Start(context.Background(), id)
	require.ErrorIs(t, err, dr.ErrExists)
	remedy(t, err)
	vm, err := r.compute(t).NewVirtualMachinesClient().Get(context.Background(), group, "web", nil)
	require.NoError(t, err)
	require.Equal(t, "somebody", *vm.Tags["owner"], "their machine was written over")
	require.NoError(t, r.a.Remove(context.Background(), id))
	_, err = r.compute(t).NewVirtualMachinesClient().Get(context.Background(), group, "web", nil)
	require.NoError(t, err, "their machine was deleted")
}

func TestNoRoom(t *testing.T) {
	for _, code := range []string{"AllocationFailed", "ZonalAllocationFailed", "OverconstrainedAllocationRequest", "SkuNotAvailable", "QuotaExceeded"} {
		r := newRig(t, azuretest.Options{})
		id, err := r.prepare(t, "k", web())
		require.NoError(t, err)
		r.cloud.FailLRO(func(c azuretest.Call) string {
			if c.Method == "PUT" && strings.Contains(c.Path, "/virtualMachines/") {
				return code
			}
			return ""
		})
		err = r.a.Start(context.Background(), id)
		require.ErrorContains(t, err, code)
		remedy(t, err)
		require.False(t, dr.IsPermanent(err), "it is worth another attempt")
		r.cloud.FailLRO(nil)
		require.NoError(t, r.a.Start(context.Background(), id), "after %s", code)
		m, err := r.a.Machine(context.Background(), id)
		require.NoError(t, err)
		require.Equal(t, dr.On, m.Power)
		require.NoError(t, r.a.Remove(context.Background(), id))
	}
}

// A lock on the group keeps Remove from deleting; what one on a part of the
// machine has kept goes when that is gone.
func TestRemoveUnderLocks(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	ctx := context.Background()
	locks, err := armlocks.NewManagementLocksClient(r.cloud.Subscription(), r.cloud.Credential(), r.cloud.ClientOptions())
	require.NoError(t, err)
	lock := armlocks.ManagementLockObject{Properties: &armlocks.ManagementLockProperties{Level: to.Ptr(armlocks.LockLevelCanNotDelete)}}
	before := r.everything(t)
	m := web()
	m.Disks = append(m.Disks, dr.Disk{ID: "sdb", Size: 1 << 20})

	id := r.started(t, "k", m)
	_, err = locks.CreateOrUpdateAtResourceGroupLevel(ctx, group, "keep", lock, nil)
	require.NoError(t, err)
	err = r.a.Remove(ctx, id)
	require.ErrorContains(t, err, "ScopeLocked")
	require.Contains(t, remedy(t, err), "lock")
	_, err = locks.DeleteAtResourceGroupLevel(ctx, group, "keep", nil)
	require.NoError(t, err)
	require.NoError(t, r.a.Remove(ctx, id))
	require.Equal(t, before, r.everything(t))

	id = r.started(t, "k", m)
	ids, err := r.cloud.Disks(group, "web")
	require.NoError(t, err)
	_, err = locks.CreateOrUpdateByScope(ctx, ids[1], "keep", lock, nil)
	require.NoError(t, err)
	err = r.a.Remove(ctx, id)
	require.ErrorContains(t, err, "ScopeLocked")
	remedy(t, err)
	_, err = locks.DeleteByScope(ctx, ids[1], "keep", nil)
	require.NoError(t, err)
	require.NoError(t, r.a.Remove(ctx, id))
	require.Equal(t, before, r.everything(t))
}

package azure

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
)

func TestProblems(t *testing.T) {
	healthy := func() *machine {
		disk := &armcompute.Disk{Name: to.Ptr("web-os"), Tags: map[string]*string{tagDisk: to.Ptr("sda")}, SKU: &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypesPremiumLRS)},
			Properties: &armcompute.DiskProperties{NetworkAccessPolicy: to.Ptr(armcompute.NetworkAccessPolicyAllowAll)}}
		ref := func(id string) *armcompute.ManagedDiskParameters { return &armcompute.ManagedDiskParameters{ID: &id} }
		return &machine{disks: []attached{{lun: -1, id: "os", disk: disk}}, vm: &armcompute.VirtualMachine{Location: to.Ptr("West Europe"), Properties: &armcompute.VirtualMachineProperties{
			StorageProfile: &armcompute.StorageProfile{OSDisk: &armcompute.OSDisk{ManagedDisk: ref("os")}}}}}
	}
	require.Empty(t, healthy().problems("westeurope"))
	for _, c := range []struct {
		code    string
		blocker bool
		disk    bool
		harm    func(*machine)
		say     string
	}{
		{"region", true, false, func(m *machine) { m.vm.Location = to.Ptr("northeurope") }, "northeurope"},
		{"disk-unmanaged", true, false, func(m *machine) {
			m.vm.Properties.StorageProfile.DataDisks = []*armcompute.DataDisk{{Vhd: &armcompute.VirtualHardDisk{URI: to.Ptr("https://a.blob/x.vhd")}}}
		}, "page blobs"},
		{"disk-shared", true, true, func(m *machine) { m.disks[0].disk.Properties.MaxShares = to.Ptr(int32(2)) }, "web-os"},
		{"disk-slow-snapshots", false, true, func(m *machine) { m.disks[0].disk.SKU.Name = to.Ptr(armcompute.DiskStorageAccountTypesUltraSSDLRS) }, "UltraSSD_LRS"},
		{"disk-slow-snapshots", false, true, func(m *machine) {
			m.disks[0].disk.SKU.Name = to.Ptr(armcompute.DiskStorageAccountTypesPremiumV2LRS)
		}, "PremiumV2_LRS"},
		{"disk-no-export", true, true, func(m *machine) {
			m.disks[0].disk.Properties.NetworkAccessPolicy = to.Ptr(armcompute.NetworkAccessPolicyDenyAll)
		}, "no export"},
		{"disk-no-export", true, true, func(m *machine) {
			m.disks[0].disk.Properties.PublicNetworkAccess = to.Ptr(armcompute.PublicNetworkAccessDisabled)
		}, "no export"},
		{"disk-customer-key", false, true, func(m *machine) {
			m.disks[0].disk.Properties.Encryption = &armcompute.Encryption{Type: to.Ptr(armcompute.EncryptionTypeEncryptionAtRestWithCustomerKey)}
		}, "customer's key"},
		{"vtpm", false, false, func(m *machine) {
			m.vm.Properties.SecurityProfile = &armcompute.SecurityProfile{UefiSettings: &armcompute.UefiSettings{VTpmEnabled: to.Ptr(true)}}
		}, "TPM"},
		{"disk-ephemeral", true, false, func(m *machine) {
			m.vm.Properties.StorageProfile.OSDisk.DiffDiskSettings = &armcompute.DiffDiskSettings{Option: to.Ptr(armcompute.DiffDiskOptionsLocal)}
		}, "ephemeral"},
		{"several-disks", false, false, func(m *machine) {
			m.vm.Properties.StorageProfile.DataDisks = []*armcompute.DataDisk{{Lun: to.Ptr(int32(0)), ManagedDisk: &armcompute.ManagedDiskParameters{ID: to.Ptr("data")}}}
		}, "restore point"},
	} {
		t.Run(c.code, func(t *testing.T) {
			m := healthy()
			c.harm(m)
			found := m.problems("westeurope")
			require.Len(t, found, 1)
			p := found[0]
			require.Equal(t, backend.Problem{Code: c.code, Disk: p.Disk, Text: p.Text, Remedy: p.Remedy, Blocker: c.blocker}, p)
			require.Equal(t, c.disk, p.Disk == "sda")
			require.Contains(t, p.Text, c.say)
			if c.blocker {
				require.NotEmpty(t, p.Remedy, "a blocker that says not what to do")
			}
		})
	}
}

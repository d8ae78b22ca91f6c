package azure_test

import (
	"context"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestSmallestSize(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*dr.Machine)
		o      azure.PlacementOptions
		limits azuretest.Limits
		want   string
	}{
		{"as large as the machine", func(m *dr.Machine) { m.CPUs, m.Memory = 2, 4<<30 }, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_A2_v2"},
		{"for general use before others", func(m *dr.Machine) { m.CPUs, m.Memory = 2, 5<<30 }, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_D2s_v5"},
		{"by memory", func(m *dr.Machine) { m.CPUs, m.Memory = 2, 20<<30 }, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_E4s_v5"},
		{"by processors", func(m *dr.Machine) { m.CPUs, m.Memory = 5, 4<<30 }, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_D8s_v5"},
		{"nothing known", func(m *dr.Machine) { m.CPUs, m.Memory = 0, 0 }, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_A2_v2"},
		{"generation 2", func(m *dr.Machine) { m.CPUs, m.Memory, m.Firmware = 1, 1<<30, dr.UEFI }, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_D2s_v5"},
		{"premium disks", func(m *dr.Machine) { m.CPUs, m.Memory = 1, 1<<30 }, azure.PlacementOptions{DiskType: "Premium_LRS"}, azuretest.Limits{}, "Standard_D2s_v5"},
		{"trusted launch", func(m *dr.Machine) { m.CPUs, m.Memory, m.Firmware = 1, 1<<30, dr.UEFI }, azure.PlacementOptions{Security: "TrustedLaunch"}, azuretest.Limits{}, "Standard_D2s_v5"},
		{"by disks", func(m *dr.Machine) {
			for i := range 6 {
				m.Disks = append(m.Disks, dr.Disk{ID: dr.DiskID(rune('a' + i)), Size: 1 << 20})
			}
		}, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_D4s_v5"},
		{"by cards", func(m *dr.Machine) { m.NICs = []dr.NIC{{ID: "a"}, {ID: "b"}, {ID: "c"}} }, azure.PlacementOptions{}, azuretest.Limits{}, "Standard_B2ms"},
		{"a family whose quota is left", func(m *dr.Machine) { m.CPUs, m.Memory = 4, 16<<30 }, azure.PlacementOptions{}, azuretest.Limits{FamilyCores: map[string]int{"standardDSv5Family": 2}}, "Standard_E4s_v5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, azuretest.Options{Limits: c.limits})
			m := web()
			c.change(&m)
			id := r.started(t, "k", m, options(c.o))
			g, n, err := r.vm(id)
			require.NoError(t, err)
			vm, err := r.compute(t).NewVirtualMachinesClient().Get(context.Background(), g, n, nil)
			require.NoError(t, err)
			require.Equal(t, c.want, string(*vm.Properties.HardwareProfile.VMSize))
		})
	}
}

// A quota that is used up is told before anything is made.
func TestQuota(t *testing.T) {
	for name, limits := range map[string]azuretest.Limits{
		"cores":              {Cores: 3},
		"virtualMachines":    {VMs: 1},
		"standardDSv5Family": {FamilyCores: map[string]int{"standardDSv5Family": 3}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, azuretest.Options{Limits: limits})
			require.NoError(t, r.cloud.AddVM(sources, "busy", azuretest.VM{Size: "Standard_D2s_v5", Subnet: "prod/default"}))
			before := r.everything(t)
			_, err := r.prepare(t, "k", web(), options(azure.PlacementOptions{Size: "Standard_D2s_v5"}))
			require.ErrorContains(t, err, name)
			require.Contains(t, remedy(t, err), "quota")
			require.False(t, dr.IsPermanent(err))
			r.nothingMade(t, before, err)
		})
	}
}

// sku is a size as Azure tells of it.
func sku(capabilities map[string]string) *armcompute.ResourceSKU {
	s := &armcompute.ResourceSKU{Name: to.Ptr("Standard_D4s_v9"), Family: to.Ptr("f")}
	for k, v := range capabilities {
		s.Capabilities = append(s.Capabilities, &armcompute.ResourceSKUCapabilities{Name: to.Ptr(k), Value: to.Ptr(v)})
	}
	return s
}

// Sizes whose machines would not start from a copied disk.
func TestSizesThatDontFit(t *testing.T) {
	plain := map[string]string{"vCPUs": "4", "MemoryGB": "16", "MaxDataDiskCount": "8", "MaxNetworkInterfaces": "2", "HyperVGenerations": "V1, V2", "PremiumIO": "True"}
	with := func(k, v string) map[string]string {
		m := map[string]string{k: v}
		for k2, v2 := range plain {
			if k2 != k {
				m[k2] = v2
			}
		}
		return m
	}
	require.Empty(t, azure.Unfit(sku(plain), web(), azure.PlacementOptions{}))
	require.Empty(t, azure.Unfit(sku(with("CpuArchitectureType", "x64")), web(), azure.PlacementOptions{}))
	require.Empty(t, azure.Unfit(sku(with("DiskControllerTypes", "SCSI, NVMe")), web(), azure.PlacementOptions{}))
	require.Contains(t, azure.Unfit(sku(with("CpuArchitectureType", "Arm64")), web(), azure.PlacementOptions{}), "Arm64")
	require.Contains(t, azure.Unfit(sku(with("DiskControllerTypes", "NVMe")), web(), azure.PlacementOptions{}), "NVMe")
	require.Contains(t, azure.Unfit(sku(with("ConfidentialComputingType", "SNP")), web(), azure.PlacementOptions{}), "confidential")
	uefi := web()
	uefi.Firmware = dr.UEFI
	require.Empty(t, azure.Unfit(sku(plain), uefi, azure.PlacementOptions{}))

	// Constrained sizes give a guest fewer processors than they cost quota.
	guest, quota := azure.CPUs(sku(with("vCPUsAvailable", "2")))
	require.Equal(t, 2, guest)
	require.Equal(t, 4, quota)
}

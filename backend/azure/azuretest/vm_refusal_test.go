package azuretest_test

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

func TestMachinesAreRefused(t *testing.T) {
	w := newWorld(t, azuretest.Options{Limits: azuretest.Limits{Cores: 10, FamilyCores: map[string]int{"standardESv5Family": 2}}})
	w.machine("busy")
	disk := func(name string, change func(*armcompute.Disk)) string {
		d := emptyDisk(1)
		if change != nil {
			change(&d)
		}
		return *must(w.disk(name, d))(t).ID
	}
	os := disk("os", nil)
	gen2 := disk("gen2", func(d *armcompute.Disk) { d.Properties.HyperVGeneration = ptr(armcompute.HyperVGenerationV2) })
	trusted := disk("trusted", func(d *armcompute.Disk) {
		d.Properties.HyperVGeneration = ptr(armcompute.HyperVGenerationV2)
		d.Properties.SecurityProfile = &armcompute.DiskSecurityProfile{SecurityType: ptr(armcompute.DiskSecurityTypesTrustedLaunch)}
	})
	zonal := disk("zonal", func(d *armcompute.Disk) { d.Zones = []*string{ptr("3")} })
	premium := disk("premium", func(d *armcompute.Disk) {
		d.SKU = &armcompute.DiskSKU{Name: ptr(armcompute.DiskStorageAccountTypesPremiumLRS)}
	})
	huge := disk("huge", func(d *armcompute.Disk) { d.Properties.DiskSizeGB = ptr(int32(5000)) })
	shared := disk("shared", nil)
	must(w.sas("shared", armcompute.AccessLevelRead))(t)
	var five []string
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		five = append(five, disk(n, nil))
	}
	nic := *must(w.nic("nic", nicModel(w.subnet("app"), "")))(t).ID
	fast := nicModel(w.subnet("app"), "")
	fast.Properties.EnableAcceleratedNetworking = ptr(true)
	fastID := *must(w.nic("fast", fast))(t).ID
	w.Network(rg, "other", map[string]string{"x": "10.8.0.0/24"})
	elsewhere := *must(w.nic("elsewhere", nicModel("/subscriptions/"+w.Subscription()+"/resourceGroups/"+rg+"/providers/Microsoft.Network/virtualNetworks/other/subnets/x", "")))(t).ID
	busyOS := *must(w.disks.Get(t.Context(), rg, "busy-os", nil))(t).ID
	busyNIC := *must(w.nics.Get(t.Context(), rg, "busy-nic", nil))(t).ID

	type model = armcompute.VirtualMachine
	size := func(s string) func(*model) {
		return func(m *model) { m.Properties.HardwareProfile.VMSize = ptr(armcompute.VirtualMachineSizeTypes(s)) }
	}
	nics := func(ids ...string) func(*model) {
		return func(m *model) {
			m.Properties.NetworkProfile.NetworkInterfaces = nil
			for i, id := range ids {
				m.Properties.NetworkProfile.NetworkInterfaces = append(m.Properties.NetworkProfile.NetworkInterfaces, &armcompute.NetworkInterfaceReference{
					ID: &id, Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: ptr(i == 0)}})
			}
		}
	}
	for name, c := range map[string]struct {
		os     string
		data   []string
		change func(*model)
		status int
		code   string
	}{
		"no such size":                {os, nil, size("Standard_Z1"), 400, "InvalidParameter"},
		"a size of generation 1 only": {gen2, nil, size("Standard_A2_v2"), 400, "BadRequest"},
		"a size not for all":          {os, nil, size("Standard_M128"), 409, "SkuNotAvailable"},
		"a size not in this zone":     {zonal, nil, func(m *model) { m.Zones = []*string{ptr("3")}; size("Standard_D8s_v5")(m) }, 409, "SkuNotAvailable"},
		"cores of the family":         {os, nil, size("Standard_E4s_v5"), 409, "OperationNotAllowed"},
		"premium on a plain size":     {premium, nil, size("Standard_A2_v2"), 400, "InvalidParameter"},
		"an OS profile":               {os, nil, func(m *model) { m.Properties.OSProfile = &armcompute.OSProfile{ComputerName: ptr("x")} }, 400, "InvalidParameter"},
		"no OS type":                  {os, nil, func(m *model) { m.Properties.StorageProfile.OSDisk.OSType = nil }, 400, "InvalidParameter"},
		"an image": {os, nil, func(m *model) {
			m.Properties.StorageProfile.OSDisk.CreateOption = ptr(armcompute.DiskCreateOptionTypesFromImage)
		}, 400, "InvalidParameter"},
		"no such disk":             {os + "x", nil, nil, 404, "ResourceNotFound"},
		"another's disk":           {busyOS, nil, nil, 409, "ConflictingUserInput"},
		"the same disk twice":      {os, []string{os}, nil, 400, "InvalidParameter"},
		"a disk that is read":      {shared, nil, nil, 409, "OperationNotAllowed"},
		"a disk in another zone":   {zonal, nil, nil, 400, "BadRequest"},
		"an OS disk too large":     {huge, nil, nil, 400, "InvalidParameter"},
		"too many data disks":      {os, five, nil, 409, "OperationNotAllowed"},
		"a LUN twice":              {os, five[:2], func(m *model) { m.Properties.StorageProfile.DataDisks[1].Lun = ptr(int32(0)) }, 400, "InvalidParameter"},
		"less trust than the disk": {trusted, nil, nil, 400, "BadRequest"},
		"more trust than the disk": {gen2, nil, func(m *model) {
			m.Properties.SecurityProfile = &armcompute.SecurityProfile{SecurityType: ptr(armcompute.SecurityTypesTrustedLaunch)}
		}, 400, "BadRequest"},
		"no interface":        {os, nil, nics(), 400, "InvalidParameter"},
		"no such interface":   {os, nil, nics(nic + "x"), 400, "InvalidResourceReference"},
		"another's interface": {os, nil, nics(busyNIC), 400, "NicInUse"},
		"too many interfaces": {os, nil, nics(nic, fastID, elsewhere), 400, "BadRequest"},
		"interfaces apart":    {os, nil, nics(nic, elsewhere), 400, "SubnetsNotInSameVnet"},
		"no primary": {os, nil, func(m *model) {
			nics(nic, fastID)(m)
			m.Properties.NetworkProfile.NetworkInterfaces[0].Properties = nil
		}, 400, "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary"},
		"acceleration on a plain size": {os, nil, func(m *model) { nics(fastID)(m); size("Standard_B2ms")(m) }, 400, "VMSizeIsNotPermittedToEnableAcceleratedNetworking"},
		"another region":               {os, nil, func(m *model) { m.Location = ptr("northeurope") }, 400, "LocationNotAvailableForResourceType"},
		"no such availability set":     {os, nil, func(m *model) { m.Properties.AvailabilitySet = &armcompute.SubResource{ID: ptr("/x")} }, 404, "ResourceNotFound"},
		"a zone and a set": {zonal, nil, func(m *model) {
			m.Zones = []*string{ptr("3")}
			m.Properties.AvailabilitySet = &armcompute.SubResource{ID: ptr("/x")}
		}, 400, "BadRequest"},
	} {
		m := vmModel(c.os, nic, c.data...)
		if c.change != nil {
			c.change(&m)
		}
		_, err := w.vm("new", m)
		t.Log(name)
		refused(t, err, c.status, c.code)
	}
	_, err := w.vms.Get(t.Context(), rg, "new", nil)
	refused(t, err, 404, "ResourceNotFound")

	// Two of ten cores are in use: eight more fit, and then no more.
	m := vmModel(os, nic)
	size("Standard_D8s_v5")(&m)
	must(w.vm("large", m))(t)
	require.NoError(t, w.deallocate("busy"))
	n := *must(w.nic("n2", nicModel(w.subnet("app"), "")))(t).ID
	must(w.vm("small", vmModel(five[0], n)))(t)
	refused(t, w.start("busy"), 409, "OperationNotAllowed")
	require.NoError(t, w.deallocate("small"))
	require.NoError(t, w.start("busy"))
}

func TestQuotasAndSizesAreTold(t *testing.T) {
	w := newWorld(t, azuretest.Options{Limits: azuretest.Limits{Cores: 10}})
	w.machine("web")
	found := map[string][2]int64{}
	usage := w.compute.NewUsageClient().NewListPager("westeurope", nil)
	for usage.More() {
		for _, u := range must(usage.NextPage(t.Context()))(t).Value {
			found[*u.Name.Value] = [2]int64{int64(*u.CurrentValue), *u.Limit}
		}
	}
	require.Equal(t, [2]int64{2, 10}, found["cores"])
	require.Equal(t, [2]int64{2, 100}, found["standardDSv5Family"])
	require.Equal(t, [2]int64{1, 25000}, found["virtualMachines"])
	require.Equal(t, [2]int64{2, 50000}, found["StandardDiskCount"])

	sizes := map[string]*armcompute.ResourceSKU{}
	skus := w.compute.NewResourceSKUsClient().NewListPager(&armcompute.ResourceSKUsClientListOptions{Filter: ptr("location eq 'westeurope'")})
	for skus.More() {
		for _, s := range must(skus.NextPage(t.Context()))(t).Value {
			sizes[*s.Name] = s
		}
	}
	capabilities := map[string]string{}
	for _, c := range sizes["Standard_A2_v2"].Capabilities {
		capabilities[*c.Name] = *c.Value
	}
	require.Equal(t, map[string]string{"vCPUs": "2", "MemoryGB": "4", "MaxDataDiskCount": "4", "MaxNetworkInterfaces": "2", "HyperVGenerations": "V1",
		"PremiumIO": "False", "AcceleratedNetworkingEnabled": "False", "CpuArchitectureType": "x64", "TrustedLaunchDisabled": "True"}, capabilities)
	require.Equal(t, "3", *sizes["Standard_D8s_v5"].Restrictions[0].RestrictionInfo.Zones[0])
	require.Equal(t, armcompute.ResourceSKURestrictionsTypeLocation, *sizes["Standard_M128"].Restrictions[0].Type)
	require.Equal(t, "disks", *sizes["Premium_LRS"].ResourceType)
}

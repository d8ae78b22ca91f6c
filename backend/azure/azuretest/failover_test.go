package azuretest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

// The calls of a failover, in their order: sizes and quota, network, disks from
// stored bytes, machine, proof, and away again. Then with the first answer of
// each call lost, after it had its effect.
func TestAFailoverFromBytesToAMachine(t *testing.T) {
	for _, lossy := range []bool{false, true} {
		t.Run(fmt.Sprint("lossy ", lossy), func(t *testing.T) { failover(t, lossy) })
	}
}

func failover(t *testing.T, lossy bool) {
	w := newWorld(t, azuretest.Options{Polls: 2, OnRunCommand: func(string, []string) (string, error) { return "active", nil }})
	ctx := t.Context()
	zone := []*string{ptr("1")}
	before := w.Resources()
	blobs := map[string]string{}
	for _, name := range []string{"os", "data"} {
		blobs[name] = w.pageBlob(name, 20<<20+512, footer(20<<20))
	}
	if lossy {
		var seen sync.Map
		w.OnCall(func(c azuretest.Call) *azuretest.Fault {
			if c.Service != azuretest.ServiceARM || c.Method == "POST" {
				return nil
			}
			if _, again := seen.LoadOrStore(c.Method+c.Path, true); again {
				return nil
			}
			return &azuretest.Fault{Lost: true, Effect: true}
		})
	}
	pip, err := w.pips.BeginCreateOrUpdate(ctx, rg, "pip", armnetwork.PublicIPAddress{Location: loc, Zones: zone,
		SKU:        &armnetwork.PublicIPAddressSKU{Name: ptr(armnetwork.PublicIPAddressSKUNameStandard)},
		Properties: &armnetwork.PublicIPAddressPropertiesFormat{PublicIPAllocationMethod: ptr(armnetwork.IPAllocationMethodStatic), DeleteOption: ptr(armnetwork.DeleteOptionsDelete)}}, nil)
	public := must(await(ctx, pip, err))(t)
	group, err := w.network.NewSecurityGroupsClient().BeginCreateOrUpdate(ctx, rg, "nsg", armnetwork.SecurityGroup{Location: loc}, nil)
	nsg := must(await(ctx, group, err))(t)
	n := nicModel(w.subnet("app"), "10.9.0.10")
	n.Properties.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: nsg.ID}
	n.Properties.IPConfigurations[0].Properties.PublicIPAddress = &armnetwork.PublicIPAddress{ID: public.ID}
	nic := must(w.nic("nic0", n))(t)
	ids := map[string]string{}
	for name, url := range blobs {
		d := diskModel(armcompute.DiskCreateOptionImport, func(p *armcompute.DiskProperties) {
			p.CreationData.SourceURI, p.CreationData.StorageAccountID = &url, ptr("/subscriptions/x/storageAccounts/stage")
			if name == "os" {
				p.OSType, p.HyperVGeneration = ptr(armcompute.OperatingSystemTypesWindows), ptr(armcompute.HyperVGenerationV2)
				p.SecurityProfile = &armcompute.DiskSecurityProfile{SecurityType: ptr(armcompute.DiskSecurityTypesTrustedLaunch)}
			}
		})
		d.SKU, d.Zones = &armcompute.DiskSKU{Name: ptr(armcompute.DiskStorageAccountTypesPremiumLRS)}, zone
		ids[name] = *must(w.disk(name, d))(t).ID
	}
	m := vmModel(ids["os"], *nic.ID, ids["data"])
	m.Zones, m.Tags = zone, map[string]*string{"dr": ptr("1")}
	m.Properties.StorageProfile.OSDisk.OSType = ptr(armcompute.OperatingSystemTypesWindows)
	m.Properties.StorageProfile.DataDisks[0].DeleteOption = ptr(armcompute.DiskDeleteOptionTypesDelete)
	m.Properties.LicenseType = ptr("Windows_Server")
	m.Properties.DiagnosticsProfile = &armcompute.DiagnosticsProfile{BootDiagnostics: &armcompute.BootDiagnostics{Enabled: ptr(true)}}
	m.Properties.SecurityProfile = &armcompute.SecurityProfile{SecurityType: ptr(armcompute.SecurityTypesTrustedLaunch),
		UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: ptr(true), VTpmEnabled: ptr(true)}}
	v := must(w.vm("web", m))(t)
	require.Equal(t, "1", *v.Zones[0])
	require.True(t, *v.Properties.SecurityProfile.UefiSettings.VTpmEnabled)
	require.Equal(t, "Windows_Server", *v.Properties.LicenseType)
	require.Equal(t, "running", w.power("web"))
	b := make([]byte, 512)
	require.NoError(t, w.Read(rg, "web", 0, b, 0))
	require.Equal(t, block('x'), b, "the machine has the bytes of the blob")
	must(w.vms.RetrieveBootDiagnosticsData(ctx, rg, "web", nil))(t)
	run, err := w.vms.BeginRunCommand(ctx, rg, "web", armcompute.RunCommandInput{CommandID: ptr("RunPowerShellScript"), Script: []*string{ptr("Get-Service TermService")}}, nil)
	require.Equal(t, "active", *must(await(ctx, run, err))(t).Value[0].Message)
	require.NoError(t, w.deleteVM("web"))
	left, err := w.network.NewSecurityGroupsClient().BeginDelete(ctx, rg, "nsg", nil)
	must(await(ctx, left, err))(t)
	require.Equal(t, before, w.Resources(), "nothing is left behind")
}

// Options.Source stands for another blob service.
func TestDisksComeFromElsewhere(t *testing.T) {
	content := append(bytes.Repeat([]byte("lifeboat"), 20<<20/8), footer(20<<20)...)
	w := newWorld(t, azuretest.Options{Source: func(_ context.Context, url string) (io.ReaderAt, int64, error) {
		if !strings.HasSuffix(url, "/good") {
			return nil, 0, fmt.Errorf("no such blob")
		}
		return bytes.NewReader(content), int64(len(content)), nil
	}})
	from := func(url string) armcompute.Disk {
		return diskModel(armcompute.DiskCreateOptionImport, func(p *armcompute.DiskProperties) {
			p.CreationData.SourceURI, p.CreationData.StorageAccountID = &url, ptr("/a")
		})
	}
	d := must(w.disk("d", from("http://elsewhere/good")))(t)
	b := make([]byte, 20<<20)
	require.NoError(t, w.DiskRead(*d.ID, b, 0))
	require.True(t, bytes.Equal(content[:20<<20], b))
	_, err := w.disk("e", from("http://elsewhere/bad"))
	refused(t, err, 400, "BadRequest")
}

func TestACustomersMachine(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	require.NoError(t, w.AddVM("their", "web", azuretest.VM{
		Size: "Standard_D4s_v5", OS: "Windows", OSDisk: 127 << 30, Data: map[int]int64{0: 1 << 30, 5: 2 << 20}, Zone: "2",
		Subnet: w.subnet("app"), Address: "10.9.0.20", Tags: map[string]string{"owner": "them"}, TrustedLaunch: true,
	}))
	require.Error(t, w.AddVM("their", "web", azuretest.VM{Subnet: w.subnet("app")}))
	v := must(w.vms.Get(t.Context(), "their", "web", nil))(t)
	require.Equal(t, "2", *v.Zones[0])
	require.Equal(t, "them", *v.Tags["owner"])
	require.Equal(t, []int32{0, 5}, []int32{*v.Properties.StorageProfile.DataDisks[0].Lun, *v.Properties.StorageProfile.DataDisks[1].Lun})
	require.NoError(t, w.Write("their", "web", 5, block(5), 0))
	require.Error(t, w.Write("their", "web", 1, block(5), 0))
	require.Error(t, w.Write("their", "web", 5, block(5), 2<<20))
	require.Error(t, w.AddVM("their", "odd", azuretest.VM{OSDisk: 1000, Subnet: w.subnet("app")}))
	require.NoError(t, w.Power("their", "web", false))
	require.ErrorIs(t, w.Read("their", "web", 5, make([]byte, 512), 0), azuretest.ErrNotRunning)
}

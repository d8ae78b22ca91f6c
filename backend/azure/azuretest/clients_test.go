package azuretest_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armlocks"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

const (
	rg  = "dr-group"
	mib = 1 << 20
)

var loc = ptr("westeurope")

func ptr[T any](v T) *T { return &v }

// world is a Cloud with a network, and unmodified clients.
type world struct {
	*azuretest.Cloud
	t         *testing.T
	disks     *armcompute.DisksClient
	snapshots *armcompute.SnapshotsClient
	vms       *armcompute.VirtualMachinesClient
	compute   *armcompute.ClientFactory
	network   *armnetwork.ClientFactory
	nics      *armnetwork.InterfacesClient
	pips      *armnetwork.PublicIPAddressesClient
	locks     *armlocks.ManagementLocksClient
	tags      *armresources.TagsClient
	generic   *armresources.Client
	groups    *armresources.ResourceGroupsClient
}

func newWorld(t *testing.T, o azuretest.Options) *world {
	t.Helper()
	c := azuretest.New(o)
	t.Cleanup(c.Close)
	c.ResourceGroup(rg)
	c.Network(rg, "net", map[string]string{"app": "10.9.0.0/24", "tiny": "10.9.1.0/29"})
	w := &world{Cloud: c, t: t}
	var err error
	w.compute, err = armcompute.NewClientFactory(c.Subscription(), c.Credential(), c.ClientOptions())
	require.NoError(t, err)
	w.network, err = armnetwork.NewClientFactory(c.Subscription(), c.Credential(), c.ClientOptions())
	require.NoError(t, err)
	w.locks, err = armlocks.NewManagementLocksClient(c.Subscription(), c.Credential(), c.ClientOptions())
	require.NoError(t, err)
	resources, err := armresources.NewClientFactory(c.Subscription(), c.Credential(), c.ClientOptions())
	require.NoError(t, err)
	w.disks, w.snapshots, w.vms = w.compute.NewDisksClient(), w.compute.NewSnapshotsClient(), w.compute.NewVirtualMachinesClient()
	w.nics, w.pips = w.network.NewInterfacesClient(), w.network.NewPublicIPAddressesClient()
	w.tags, w.generic, w.groups = resources.NewTagsClient(), resources.NewClient(), resources.NewResourceGroupsClient()
	return w
}

// await polls to the end without the second that PollUntilDone waits.
func await[T any](ctx context.Context, p *runtime.Poller[T], err error) (T, error) {
	var zero T
	for range 10_000 {
		if err != nil {
			return zero, err
		}
		if p.Done() {
			return p.Result(ctx)
		}
		_, err = p.Poll(ctx)
	}
	return zero, errors.New("the operation does not end")
}

// refused asserts that the service said no with a status and a code.
func refused(t *testing.T, err error, status int, code string) {
	t.Helper()
	var re *azcore.ResponseError
	require.ErrorAs(t, err, &re, "want %s", code)
	require.Equal(t, code, re.ErrorCode, "%v", err)
	require.Equal(t, status, re.StatusCode, "%v", err)
}

func emptyDisk(gb int32) armcompute.Disk {
	return armcompute.Disk{Location: loc, Properties: &armcompute.DiskProperties{
		DiskSizeGB: ptr(gb), CreationData: &armcompute.CreationData{CreateOption: ptr(armcompute.DiskCreateOptionEmpty)},
	}}
}

func (w *world) disk(name string, d armcompute.Disk) (armcompute.Disk, error) {
	p, err := w.disks.BeginCreateOrUpdate(w.t.Context(), rg, name, d, nil)
	r, err := await(w.t.Context(), p, err)
	return r.Disk, err
}

func (w *world) snapshot(name, source string) (armcompute.Snapshot, error) {
	p, err := w.snapshots.BeginCreateOrUpdate(w.t.Context(), rg, name, armcompute.Snapshot{Location: loc, Properties: &armcompute.SnapshotProperties{
		Incremental:  ptr(true),
		CreationData: &armcompute.CreationData{CreateOption: ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: &source},
	}}, nil)
	r, err := await(w.t.Context(), p, err)
	return r.Snapshot, err
}

func (w *world) copied(name, source string) (armcompute.Disk, error) {
	return w.disk(name, armcompute.Disk{Location: loc, Properties: &armcompute.DiskProperties{
		CreationData: &armcompute.CreationData{CreateOption: ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: &source},
	}})
}

func (w *world) subnet(name string) string {
	return "/subscriptions/" + w.Subscription() + "/resourceGroups/" + rg + "/providers/Microsoft.Network/virtualNetworks/net/subnets/" + name
}

func nicModel(subnet, address string) armnetwork.Interface {
	p := &armnetwork.InterfaceIPConfigurationPropertiesFormat{Primary: ptr(true), Subnet: &armnetwork.Subnet{ID: &subnet}}
	if address != "" {
		p.PrivateIPAddress, p.PrivateIPAllocationMethod = &address, ptr(armnetwork.IPAllocationMethodStatic)
	}
	return armnetwork.Interface{Location: loc, Properties: &armnetwork.InterfacePropertiesFormat{
		IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{Name: ptr("ip0"), Properties: p}},
	}}
}

func (w *world) nic(name string, n armnetwork.Interface) (armnetwork.Interface, error) {
	p, err := w.nics.BeginCreateOrUpdate(w.t.Context(), rg, name, n, nil)
	r, err := await(w.t.Context(), p, err)
	return r.Interface, err
}

func vmModel(os string, nic string, data ...string) armcompute.VirtualMachine {
	storage := &armcompute.StorageProfile{OSDisk: &armcompute.OSDisk{
		CreateOption: ptr(armcompute.DiskCreateOptionTypesAttach), OSType: ptr(armcompute.OperatingSystemTypesLinux),
		ManagedDisk: &armcompute.ManagedDiskParameters{ID: &os}, DeleteOption: ptr(armcompute.DiskDeleteOptionTypesDelete),
	}}
	for i, d := range data {
		storage.DataDisks = append(storage.DataDisks, &armcompute.DataDisk{
			Lun: ptr(int32(i)), CreateOption: ptr(armcompute.DiskCreateOptionTypesAttach), ManagedDisk: &armcompute.ManagedDiskParameters{ID: &d},
		})
	}
	return armcompute.VirtualMachine{Location: loc, Properties: &armcompute.VirtualMachineProperties{
		HardwareProfile: &armcompute.HardwareProfile{VMSize: ptr(armcompute.VirtualMachineSizeTypes("Standard_D2s_v5"))},
		StorageProfile:  storage,
		NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{{
			ID: &nic, Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: ptr(true), DeleteOption: ptr(armcompute.DeleteOptionsDelete)},
		}}},
	}}
}

func (w *world) vm(name string, m armcompute.VirtualMachine) (armcompute.VirtualMachine, error) {
	p, err := w.vms.BeginCreateOrUpdate(w.t.Context(), rg, name, m, nil)
	r, err := await(w.t.Context(), p, err)
	return r.VirtualMachine, err
}

// machine makes a machine with its own disks and interface.
func (w *world) machine(name string) armcompute.VirtualMachine {
	w.t.Helper()
	os := must(w.disk(name+"-os", emptyDisk(1)))(w.t)
	data := must(w.disk(name+"-data", emptyDisk(1)))(w.t)
	n := must(w.nic(name+"-nic", nicModel(w.subnet("app"), "")))(w.t)
	return must(w.vm(name, vmModel(*os.ID, *n.ID, *data.ID)))(w.t)
}

// must is for calls in an expression: must(call)(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		require.NoError(t, err)
		return v
	}
}

func (w *world) power(name string) string {
	w.t.Helper()
	v := must(w.vms.InstanceView(w.t.Context(), rg, name, nil))(w.t)
	for _, s := range v.Statuses {
		if code, ok := bytes.CutPrefix([]byte(*s.Code), []byte("PowerState/")); ok {
			return string(code)
		}
	}
	return ""
}

func (w *world) start(name string) error {
	p, err := w.vms.BeginStart(w.t.Context(), rg, name, nil)
	_, err = await(w.t.Context(), p, err)
	return err
}

func (w *world) deallocate(name string) error {
	p, err := w.vms.BeginDeallocate(w.t.Context(), rg, name, nil)
	_, err = await(w.t.Context(), p, err)
	return err
}

func (w *world) deleteVM(name string) error {
	p, err := w.vms.BeginDelete(w.t.Context(), rg, name, nil)
	_, err = await(w.t.Context(), p, err)
	return err
}

func (w *world) sas(name string, level armcompute.AccessLevel) (string, error) {
	p, err := w.disks.BeginGrantAccess(w.t.Context(), rg, name, armcompute.GrantAccessData{Access: &level, DurationInSeconds: ptr(int32(3600))}, nil)
	r, err := await(w.t.Context(), p, err)
	if err != nil {
		return "", err
	}
	return *r.AccessSAS, nil
}

func (w *world) revoke(name string) error {
	p, err := w.disks.BeginRevokeAccess(w.t.Context(), rg, name, nil)
	_, err = await(w.t.Context(), p, err)
	return err
}

// clock is set by hand.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

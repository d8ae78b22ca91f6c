package azure

import (
	"context"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armlocks"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// Azure is one subscription. All methods are safe for concurrent use.
type Azure struct {
	opts   Options
	groups []string // whose machines are seen, the replicas' first

	vms       *armcompute.VirtualMachinesClient
	disks     *armcompute.DisksClient
	snapshots *armcompute.SnapshotsClient
	sets      *armcompute.RestorePointCollectionsClient
	restores  *armcompute.RestorePointsClient
	restored  *armcompute.DiskRestorePointClient
	skus      *armcompute.ResourceSKUsClient
	avsets    *armcompute.AvailabilitySetsClient
	usage     *armcompute.UsageClient

	nics    *armnetwork.InterfacesClient
	vnets   *armnetwork.VirtualNetworksClient
	subnets *armnetwork.SubnetsClient
	publics *armnetwork.PublicIPAddressesClient
	guards  *armnetwork.SecurityGroupsClient
	rules   *armnetwork.SecurityRulesClient

	resources *armresources.Client
	locks     *armlocks.ManagementLocksClient

	trust  time.Duration // see usualTrust
	width  int           // how many calls one operation has in flight
	grants grants
	sizes  sizeTable
	plain  runtime.Pipeline // for addresses that need no credential

	cabling sync.Mutex // held while a card is changed

	mu    sync.Mutex
	found map[string]place // by vmId, in lower case
}

var (
	_ backend.Backend     = (*Azure)(nil)
	_ backend.Lister      = (*Azure)(nil)
	_ backend.Shutdowner  = (*Azure)(nil)
	_ backend.Sweeper     = (*Azure)(nil)
	_ backend.Prober      = (*Azure)(nil)
	_ backend.Preflighter = (*Azure)(nil)

	_ backend.NetworkLister = (*Azure)(nil)
)

// Open makes a backend of a subscription. It asks Azure nothing: whether the
// credential is good the first call tells, and [Azure.Check] tells it all.
func Open(o Options) (*Azure, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	a := &Azure{opts: o, groups: append([]string{o.ResourceGroup}, o.Sources...), width: usualWidth, trust: usualTrust, found: map[string]place{}}
	a.grants.init(a)
	a.plain = runtime.NewPipeline("lifeboat", "v1", runtime.PipelineOptions{}, &a.dataOptions().ClientOptions)
	clients := patient(o.ARM, o.Poll)
	compute, err := armcompute.NewClientFactory(o.Subscription, o.Credential, clients)
	if err != nil {
		return nil, err
	}
	network, err := armnetwork.NewClientFactory(o.Subscription, o.Credential, clients)
	if err != nil {
		return nil, err
	}
	if a.resources, err = armresources.NewClient(o.Subscription, o.Credential, clients); err != nil {
		return nil, err
	}
	if a.locks, err = armlocks.NewManagementLocksClient(o.Subscription, o.Credential, clients); err != nil {
		return nil, err
	}
	a.vms, a.disks, a.snapshots = compute.NewVirtualMachinesClient(), compute.NewDisksClient(), compute.NewSnapshotsClient()
	a.sets, a.restores, a.restored = compute.NewRestorePointCollectionsClient(), compute.NewRestorePointsClient(), compute.NewDiskRestorePointClient()
	a.skus, a.usage, a.avsets = compute.NewResourceSKUsClient(), compute.NewUsageClient(), compute.NewAvailabilitySetsClient()
	a.nics, a.vnets, a.subnets = network.NewInterfacesClient(), network.NewVirtualNetworksClient(), network.NewSubnetsClient()
	a.publics, a.guards, a.rules = network.NewPublicIPAddressesClient(), network.NewSecurityGroupsClient(), network.NewSecurityRulesClient()
	return a, nil
}

// Close revokes every address that this process can still read disks by.
func (a *Azure) Close(ctx context.Context) error { return a.grants.close(ctx) }

// dataOptions are those of clients that read disks by an address: the transport
// and the retries are those of the Resource Manager's clients.
func (a *Azure) dataOptions() *pageblob.ClientOptions {
	var o pageblob.ClientOptions
	if a.opts.ARM != nil {
		o.Retry, o.Transport, o.Telemetry = a.opts.ARM.Retry, a.opts.ARM.Transport, a.opts.ARM.Telemetry
		o.InsecureAllowCredentialWithHTTP = a.opts.ARM.InsecureAllowCredentialWithHTTP
	}
	return &o
}

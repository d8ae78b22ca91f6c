package azuretest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// Options say what a [Cloud] is like. The zero value fits most tests.
type Options struct {
	// Location is the region that everything is in; "" means westeurope.
	Location string
	// Zones of the region; nil means 1, 2 and 3.
	Zones []string
	// Clock tells the time: of creation, of the intervals between restore
	// points, of shared access that ends. nil means time.Now.
	Clock func() time.Time
	// Polls is how often a long operation is asked for until it has ended; 0
	// means 1. A request to what the operation works on counts as well, so that
	// one whose client is gone ends too.
	Polls int
	// Source is where disks are imported from: it opens the page blob that a
	// URL names, with its footer, and tells its size in bytes. nil means the
	// Cloud's own [Blobs]. Set it where another service holds the blobs.
	Source func(ctx context.Context, url string) (io.ReaderAt, int64, error)
	// PageSize is how many resources a list tells at once; 0 means 50.
	PageSize int
	// SKUs are the sizes that machines can have; nil means DefaultSKUs.
	SKUs []SKU
	// Limits are refused beyond.
	Limits Limits
	// OnRunCommand runs a script in the guest of a machine, given by its
	// resource ID, and returns what it wrote. nil means no output. It may block.
	OnRunCommand func(vm string, script []string) (stdout string, err error)
}

// Limits are Azure's quotas and throttles. 0 means the default that the field
// names, less than 0 that there is none. Time is that of Options.Clock.
type Limits struct {
	Cores       int            // of all machines that are not deallocated; 0: 100
	FamilyCores map[string]int // by the family of sizes, as standardDSv5Family; where absent: 100
	VMs         int            // 0: 25,000
	Disks       int            // 0: 50,000

	SASPerFamily   int // shared accesses at a time to snapshots of one disk; 0: 5
	SnapshotsADisk int // 0: 500
	SnapshotBurst  int // snapshots of a disk within 5 minutes, 7 on Azure; 0: no limit

	CrashInterval       time.Duration // between crash-consistent restore points of a machine; 0: 1 hour
	ApplicationInterval time.Duration // between others of a machine; 0: 3 hours

	VMWrites        int // writes of one machine at once, 12 on Azure; 0: no limit
	VMWritesAMinute int // what comes back of these each minute; 0: 4
}

// Cloud is a subscription and its Resource Manager, served over HTTP on
// loopback. All methods are safe for concurrent use.
type Cloud struct {
	*faults
	o      Options
	server *httptest.Server
	client *http.Client
	blobs  *Blobs

	// guests is held for reading while a guest writes, and for writing where
	// several disks must be seen at one instant. It is taken after mu.
	guests sync.RWMutex

	routes []route

	mu        sync.Mutex
	touched   []*operation          // by the request that is served now
	resources map[string]resource   // by lower-cased ID
	ops       map[string]*operation // all there were, by ID
	under     map[string]*operation // those under way, by the request that began them
	count     int                   // of IDs made so far
	lro       int                   // long operations accepted so far
	failLRO   func(Call) string
	onStart   []func(string)
	onStop    []func(string)
	buckets   map[string]*bucket
	bursts    map[string][]time.Time // when snapshots of a disk were made
}

const subscription = "6b9f2e4c-3a51-4f0d-9c1e-2d7a80b4c5d6"

// New starts a Cloud with its own [Blobs]. Close it at the end.
func New(o Options) *Cloud {
	if o.Location == "" {
		o.Location = "westeurope"
	}
	if o.Zones == nil {
		o.Zones = []string{"1", "2", "3"}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Polls <= 0 {
		o.Polls = 1
	}
	if o.PageSize <= 0 {
		o.PageSize = 50
	}
	if o.SKUs == nil {
		o.SKUs = DefaultSKUs()
	}
	o.Limits = o.Limits.filled()
	c := &Cloud{
		faults: &faults{}, o: o,
		client:    &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DialContext: (&net.Dialer{}).DialContext}},
		resources: map[string]resource{}, ops: map[string]*operation{}, under: map[string]*operation{}, buckets: map[string]*bucket{}, bursts: map[string][]time.Time{},
	}
	c.routes = allRoutes()
	c.blobs = newBlobs(BlobOptions{Clock: o.Clock}, c.faults)
	c.server = httptest.NewServer(c.wrap(ServiceARM, http.HandlerFunc(c.serve)))
	return c
}

func (l Limits) filled() Limits {
	fill := func(n *int, usual int) {
		switch {
		case *n == 0:
			*n = usual
		case *n < 0:
			*n = 1 << 30
		}
	}
	fill(&l.Cores, 100)
	fill(&l.VMs, 25_000)
	fill(&l.Disks, 50_000)
	fill(&l.SASPerFamily, 5)
	fill(&l.SnapshotsADisk, 500)
	fill(&l.SnapshotBurst, 1<<30)
	span := func(d *time.Duration, usual time.Duration) {
		if *d == 0 {
			*d = usual
		}
	}
	span(&l.CrashInterval, time.Hour)
	span(&l.ApplicationInterval, 3*time.Hour)
	fill(&l.VMWrites, 1<<30)
	fill(&l.VMWritesAMinute, 4)
	return l
}

// Close ends the Cloud and its Blobs.
func (c *Cloud) Close() {
	c.client.CloseIdleConnections()
	c.server.Close()
	c.blobs.Close()
}

// Subscription returns the ID of the subscription.
func (c *Cloud) Subscription() string { return subscription }

// Location returns the region.
func (c *Cloud) Location() string { return c.o.Location }

// Blobs returns the blob service beside the Resource Manager.
func (c *Cloud) Blobs() *Blobs { return c.blobs }

// URL returns where the Resource Manager is served.
func (c *Cloud) URL() string { return c.server.URL }

// ClientOptions returns what clients of the SDK need to talk to this Cloud.
// Each call returns options of its own.
func (c *Cloud) ClientOptions() *arm.ClientOptions {
	return &arm.ClientOptions{
		DisableRPRegistration: true,
		ClientOptions: policy.ClientOptions{
			InsecureAllowCredentialWithHTTP: true,
			Cloud: cloud.Configuration{
				ActiveDirectoryAuthorityHost: c.server.URL,
				Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
					cloud.ResourceManager: {Endpoint: c.server.URL, Audience: c.server.URL},
				},
			},
			Retry:     policy.RetryOptions{RetryDelay: time.Millisecond, MaxRetryDelay: 8 * time.Millisecond},
			Transport: c.client,
		},
	}
}

type credential struct{}

func (credential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: "simulated", ExpiresOn: time.Now().Add(24 * time.Hour)}, nil
}

// Credential returns one that this Cloud accepts.
func (c *Cloud) Credential() azcore.TokenCredential { return credential{} }

// Resources lists the IDs of all there is but locks, lower-cased and sorted:
// what is left behind shows there.
func (c *Cloud) Resources() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id, r := range c.resources {
		if _, lock := r.(*lock); !lock {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// OnStart adds what is called, with the machine's resource ID, after a machine
// has started. It may call the Cloud.
func (c *Cloud) OnStart(hook func(vm string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onStart = append(c.onStart, hook)
}

// OnStop adds what is called, with the machine's resource ID, when a machine
// stops, before it is off: what writes in its guest should end. It may call the
// Cloud.
func (c *Cloud) OnStop(hook func(vm string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onStop = append(c.onStop, hook)
}

// FailLRO sets what is asked for each long operation as it is accepted: a code
// that is not empty, as AllocationFailed, makes the operation end as Failed
// with that code instead of having its effect. The Call's N counts the long
// operations from 1. nil lets all succeed.
func (c *Cloud) FailLRO(match func(Call) (code string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLRO = match
}

// alike tells whether two IDs or names are one: their case does not matter.
func alike(a, b string) bool { return strings.EqualFold(a, b) }

package azure

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Options says which subscription, by whose credential, and where in it. The
// fields of the first two groups are needed; the rest has defaults that work.
type Options struct {
	// Subscription is the ID of the subscription, Credential what logs in:
	// one of package azidentity, which keeps its secrets to itself.
	Subscription string
	Credential   azcore.TokenCredential
	// ARM sets the cloud (public, US Government, China, or one of your own),
	// the transport and retries of the Resource Manager's clients.
	ARM *arm.ClientOptions

	// ResourceGroup is where replicas are made, and Location in which region:
	// "westeurope".
	ResourceGroup, Location string
	// Staging is a container for the disks of replicas that have not started
	// yet, and for the records of all machines; StorageAccount is the resource
	// ID of its account, which must be of the same region: disks are made of
	// its page blobs.
	Staging        *container.Client
	StorageAccount string

	// Sources are further resource groups whose machines are seen, captured
	// and failed back to.
	Sources []string
	// Network is where cards go that a placement maps nowhere: "vnet/subnet",
	// "group/vnet/subnet" or a subnet's resource ID. DrillNetwork is the
	// virtual network of machines that must not reach production, "vnet" or
	// "group/vnet": a card takes the subnet there that is named as the one it
	// would have in production, or else the first by name.
	Network, DrillNetwork string

	// Poll is how often a long operation is asked for its end where the service
	// doesn't say; 0: 2 s.
	Poll time.Duration
	// Bases is how many moments are kept of each machine from which changes can
	// be told, each an incremental snapshot a disk; 0: 4. The oldest go first.
	Bases int
	// Grant is for how long an address to read a disk's bytes by is valid; it
	// is revoked when it is no longer needed. 0: 4 hours, the least is a minute.
	Grant time.Duration

	// Log receives what a person may want to know later; nil is silent.
	Log *slog.Logger
}

func (o *Options) complete() error {
	missing := func(what string) error { return fmt.Errorf("%w: Options.%s is missing", dr.ErrInvalid, what) }
	switch {
	case o.Subscription == "":
		return missing("Subscription")
	case o.Credential == nil:
		return missing("Credential")
	case o.ResourceGroup == "":
		return missing("ResourceGroup")
	case o.Location == "":
		return missing("Location")
	case o.Staging == nil:
		return missing("Staging")
	case !strings.Contains(strings.ToLower(o.StorageAccount), "/providers/microsoft.storage/storageaccounts/"):
		return fmt.Errorf("%w: Options.StorageAccount %q is no resource ID of a storage account", dr.ErrInvalid, o.StorageAccount)
	case o.Poll < 0, o.Bases < 0, o.Grant < 0, o.Grant > 0 && o.Grant < time.Minute:
		return fmt.Errorf("%w: a limit in Options is too small", dr.ErrInvalid)
	}
	if o.Poll == 0 {
		o.Poll = 2 * time.Second
	}
	if o.Bases == 0 {
		o.Bases = 4
	}
	if o.Grant == 0 {
		o.Grant = 4 * time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Location = strings.ToLower(strings.ReplaceAll(o.Location, " ", ""))
	return nil
}

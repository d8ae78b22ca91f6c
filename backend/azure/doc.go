// Package azure is the backend for Microsoft Azure: one subscription is a full
// Source and Target, so that machines fail over to it, and come home from it with
// only their changes.
//
//	credential, err := azidentity.NewDefaultAzureCredential(nil)
//	staging, err := container.NewClient("https://account.blob.core.windows.net/lifeboat", credential, nil)
//	a, err := azure.Open(azure.Options{Subscription: id, Credential: credential,
//		ResourceGroup: "recovery", Location: "westeurope", Staging: staging, StorageAccount: accountID,
//		Network: "prod/default", DrillNetwork: "drill"})
//	defer a.Close(ctx)
//
// What lives here, file by file:
//
//   - azure.go, options.go: the connection: whose subscription, and where in it;
//   - machine.go, names.go: machines, disks and their names, read;
//   - preflight.go: what keeps a machine, or the principal, from working;
//   - record.go, records.go: the facts that this library keeps of each machine;
//   - capture.go, snapshot.go, restorepoint.go, image.go, changes.go, grants.go,
//     release.go: the Source;
//   - prepare.go, placement.go, size.go, network.go, draft.go, adopt.go,
//     upload.go, staging.go, copyblob.go, convert.go, power.go, tidy.go,
//     remove.go: the Target;
//   - probe.go, access.go, publicaddress.go, allow.go, effective.go, checkport.go,
//     vmwaretools.go, runcommand.go: proof that a machine lives, and the actions
//     by which one gets to it;
//   - wait.go, patience.go, parallel.go, errors.go, secrets.go: long operations,
//     and failures as errors that say what to do and give nothing away.
//
// What may not live here: flows, stores, and anything of another platform. The
// store of points on page blobs is package pageblob; the simulator for tests is
// azuretest, which knows nothing of this package.
//
// # Names
//
// The ID of a machine that a customer has is its vmId, which no other machine
// ever has; a name and a resource ID can be given again. A replica's is "lb-" and
// a hash of its placement's key: any process finds it by that, before there is
// anything at Azure. A disk's ID is the tag "lifeboat-disk", which says what it
// stands for, or its unique ID.
//
// Everything that is made here carries the tag "lifeboat-machine", and nothing
// without it is deleted. A name that somebody else's resource has is not taken
// over. The one thing that can't be tagged is a security rule in a group that
// the card had already; that one is recorded.
//
// # The record
//
// What must survive this process is a blob of the staging container,
// machines/ID.json: the placement, where each disk's bytes are, whether they are
// torn, which point they hold, which moments are kept. It is changed by
// compare-and-swap, so that of two processes one is told. A machine that nobody
// captured, drafted, prepared or switched under a claim has none. Without its record a replica can still
// be removed, by its tag; what its disks hold is unknown then.
//
// # Fences
//
// The record remembers the epochs of claims too (fences.go). Every change of it is
// conditional, and so are the making of a machine and the exchange of its disks;
// a draft writes under leases that the next one breaks. What Azure takes no
// condition for, to start, power off, deallocate and delete, is sent only if the
// record was seen within the last second, and is read again else: a worker that
// was passed over while it stood still does one thing at most, the request that
// was on its way. Decision 0038 has the window and the tests that show it.
//
// # Moments
//
// A snapshot freezes one disk. Those of several disks of a machine that runs are
// of several moments, so they are taken twice: if nothing was written between the
// two rounds, they are of one moment (most machines, most of the time). Else the
// bytes are those of a restore point between two rounds, which Azure makes of all
// disks at once, once an hour at most; where it makes none, the capture is
// dr.ErrNotConsistent rather than a point of two moments. Application consistency
// (of Windows; Linux is frozen by file system) is a restore point without a
// consistency mode, every three hours at most; between, a point is
// crash-consistent, and says so.
//
// # Changes
//
// Azure tells what differs between two incremental snapshots of one disk. So the
// snapshots of the newest released points stay, Options.Bases of them, of which
// each costs what changed since the one before. Changes up to a point are told by
// the snapshot after its restore point, changes since it by the one before: too
// much is told, never too little, and no range of a restore point's is called
// zero by what a snapshot says. A disk that was exchanged or that Azure can't
// compare is told whole, or is dr.ErrChangesLost.
//
// # How replicas become machines
//
// Until it starts, a replica is a record and a page blob a disk, a fixed VHD,
// written under a lease by one draft at a time; an image that is page blobs
// itself (PageBlobs) is copied by the storage service. Start imports the blobs as
// managed disks, makes the cards and then the machine of them, without a profile
// of the guest's system: Azure changes nothing inside. Each is named after what
// it is made of, so that a Start that was cut off goes on with what is there.
// Draft makes page blobs of a machine's disks again, and its own disks stay until
// the next Start has exchanged them.
//
// # Privileges
//
// The principal needs, on the resource groups of replicas and of sources:
//
//	Microsoft.Compute/virtualMachines/read, write, delete, start/action,
//	    powerOff/action, deallocate/action, retrieveBootDiagnosticsData/action,
//	    runCommand/action (ActionCheckPort)
//	Microsoft.Compute/disks/read, write, delete, beginGetAccess/action, endGetAccess/action
//	Microsoft.Compute/snapshots/read, write, delete, beginGetAccess/action, endGetAccess/action
//	Microsoft.Compute/restorePointCollections/read, write, delete
//	Microsoft.Compute/restorePointCollections/restorePoints/read, write, delete
//	Microsoft.Compute/restorePointCollections/restorePoints/diskRestorePoints/read,
//	    beginGetAccess/action, endGetAccess/action
//	Microsoft.Compute/availabilitySets/read (and, to use one, write)
//	Microsoft.Network/networkInterfaces/read, write, delete, join/action,
//	    effectiveNetworkSecurityGroups/action (Allowed.Open)
//	Microsoft.Network/virtualNetworks/read, subnets/read, subnets/join/action, CheckIpAddressAvailability/read
//	Microsoft.Network/publicIPAddresses/read, write, delete, join/action (ActionPublicAddress)
//	Microsoft.Network/networkSecurityGroups/read, write, delete, join/action,
//	    securityRules/read, write, delete (ActionAllow)
//	Microsoft.Resources/subscriptions/resourceGroups/read, resources/read
//	Microsoft.Authorization/locks/read (Preflight; not needed)
//
// on the subscription Microsoft.Compute/skus/read and
// Microsoft.Compute/locations/usages/read; on the storage account
// Microsoft.Storage/storageAccounts/read and listKeys/action (to import disks of
// its blobs); and on the container "Storage Blob Data Contributor". [Azure.Check]
// asks for most of it.
//
// # Costs
//
// A replica that never started costs its page blobs, by what is written of them.
// One that runs costs as any machine; stopped it is deallocated, and costs its
// disks by their size. Each base of Options.Bases costs its changes. A restore
// point goes when its point is released; its empty collection, which costs
// nothing, stays with the machine.
//
// # Not verified on
//
// Nothing here was run against a real subscription. Tests run against azuretest
// over HTTP by unmodified clients of the SDK; `go test -tags live -run TestLive$
// ./backend/azure` makes a round trip on a subscription of yours (live_test.go
// says by which variables), though not the whole suite, which needs a guest that
// writes. Assumed of Azure are:
//
//   - an address granted for reading reads pages, page ranges and their
//     differences (the header x-ms-previous-snapshot-url) of incremental
//     snapshots and of restore points, of ranges written and cleared;
//   - what differs between two incremental snapshots is complete also where
//     snapshots between them were deleted, and tells of a page that was written
//     and then written back: that nothing differs is what proves a moment of
//     several disks;
//   - snapshots of one disk are in the order in which they were asked for;
//   - the storage service copies from such an address to a page blob, in a time
//     that a caller can wait for, and ends the copy if the address is revoked; if
//     it refuses, this process reads and writes the bytes;
//   - an address granted for writing to an upload disk reads it, too, which only
//     writes need that are no whole sectors;
//   - an address can be granted again while one is good, and is the same; five at
//     most are for all snapshots of a disk;
//   - lastOwnershipUpdateTime changes whenever a disk's machine was started,
//     or the disk attached elsewhere: Holds relies on it;
//   - restore points are refused by 409 and OperationNotAllowed when they come too
//     soon, and by codes of the guest's extension when that fails; a codeless
//     refusal counts as dr.ErrNotConsistent as well;
//   - PowerOff that asks the guest ends by switching it off; after how long isn't
//     documented;
//   - a machine that could not be allocated stays, as Failed and without a power
//     state, and is made by the same request again, of another size too;
//   - lists by tag lag by seconds; what the record names is deleted without them;
//   - security groups see a card's private address as the destination of what
//     came by its public one;
//   - effective rules name ports as "22-22", and expand what tags stand for.
package azure

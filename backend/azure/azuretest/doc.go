// Package azuretest is a simulated Azure for tests: the parts of the Resource
// Manager that disaster recovery uses, and a Blob service. Unmodified clients of
// the SDK (armcompute, armnetwork, armresources, armlocks, azblob) talk to it
// over plain HTTP on loopback.
//
//	cloud := azuretest.New(azuretest.Options{})
//	defer cloud.Close()
//	cloud.Network("dr", "net", map[string]string{"app": "10.0.0.0/24"})
//	err := cloud.AddVM("dr", "web", azuretest.VM{Subnet: "net/app", Data: map[int]int64{0: 1 << 30}})
//	err = cloud.Write("dr", "web", 0, make([]byte, 512), 4096) // the guest writes
//	vms, err := armcompute.NewVirtualMachinesClient(cloud.Subscription(), cloud.Credential(), cloud.ClientOptions())
//
// # What is simulated
//
//   - Long operations: their effect begins when they are accepted, and ends
//     after [Options].Polls polls, or as many other requests to what they work on,
//     so that an operation whose client is lost ends too. What is busy meanwhile
//     answers 409. A request made again joins its operation. Resume tokens work.
//   - Disks hold bytes, as pages with the footer of a fixed VHD behind them, and
//     cost what was written to them. Create options Empty, Copy, Import, Upload
//     and Restore, the states of an upload and of shared access, growing.
//   - Incremental snapshots, one family a disk, whose SAS URLs answer page ranges
//     and their difference; full ones, which can't be compared. Restore points
//     with all disks at one instant, also while guests write, and with the
//     intervals that Azure asks for.
//   - Machines with attached disks: sizes with their capabilities, generations,
//     zones, availability sets, trusted launch, quotas at PUT and at start, power
//     states, the deletion of what is to go with them, changes of disks, boot
//     diagnostics whose URLs can be fetched, commands in the guest.
//   - ETags of machines: PUT and PATCH with If-Match change one only if its model
//     is the one that the ETag was told of. What switches a machine on and off
//     changes no ETag here, and takes no condition, as on Azure.
//   - Virtual networks, interfaces with dynamic and static addresses, public
//     addresses, security groups and what their rules do to a flow.
//   - Resource groups, generic lists by tag, tags, locks, sizes, usage, paging.
//   - Limits, each of which can be turned off or on: [Limits].
//   - Faults: [Cloud.OnCall] before or after the effect of any call, numbered over
//     both services; [Cloud.FailLRO] for operations that are accepted and then
//     fail; [Cloud.Hang] for guests.
//   - People and guests who interfere: [Cloud.Power], [Cloud.Write],
//     [Cloud.GrowDisk], and hooks when machines start and stop.
//
// A failed operation leaves a machine, an interface or a public address that it
// was to make behind, in state Failed; a disk, a snapshot or a restore point it
// does not.
//
// What lives here: the simulator only. What may not: anything of the backend,
// which imports it in its tests, as users' tests do.
//
// # Not verified on
//
// Nothing here was compared with the real cloud; it follows the REST reference,
// the SDK's sources, and errors as others report them. In particular it can't
// show:
//
//   - the exact error code, and whether a refusal is answered at once or as a
//     failed operation, where the reference does not say: shared accesses beyond
//     five a family, restore points too close together, starting a machine whose
//     disk is being read, effective rules of an interface whose machine is off
//     are OperationNotAllowed or 400 here;
//   - which requests Azure lets run at once: here each resource has one operation
//     at a time, an equal request joins it, and only a forced deletion preempts;
//   - a second grant of access to the same disk, which tells the first one's URL
//     here;
//   - what changes a machine's ETag beside PUT and PATCH, which the reference
//     doesn't tell; and what becomes of a request with If-Match that is made again
//     because its answer was lost, which is 412 here;
//   - time: operations take polls, not seconds; incremental snapshots are
//     complete at once; a restart or a resize has no downtime; capacity runs out
//     only by [Cloud.FailLRO];
//   - machines from images, data disks that a machine's PUT creates, several
//     regions, scale sets, hosts, capacity reservations (kept, not checked), disk
//     encryption, ultra disks, shared disks, private endpoints, hibernation,
//     instant-access snapshots, load balancers (kept, not checked), routes, ARM
//     templates, the deletion of whole groups, role assignments: any bearer token
//     may do anything;
//   - what a guest does at boot: nothing of the disk's content is looked at.
package azuretest

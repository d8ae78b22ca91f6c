// Package vmwaretest is a vCenter for tests: govmomi's own simulator, vcsim,
// with what vcsim lacks for replication. An unmodified govmomi client talks to
// it over HTTPS.
//
//	sim := vmwaretest.New(t, vmwaretest.Options{})
//	vm, err := sim.AddVM(vmwaretest.VMSpec{Name: "web", ChangeTracking: true,
//		Disks: []vmwaretest.DiskSpec{{Size: 1 << 40}}})
//	err = vm.Write(vm.Disks()[0], []byte("hello"), 4096) // the guest writes
//	client, err := govmomi.NewClient(ctx, sim.URL, true)
//
// # What is added to vcsim
//
//   - Disks hold bytes. They are sparse and in memory: a disk costs what was
//     written to it, a snapshot a table of pages.
//   - Snapshots freeze bytes. The machine goes on in a delta ("web-000001.vmdk"
//     above "web.vmdk"), links are merged when a snapshot goes, and a merge can
//     fail, or find files open elsewhere, and leave runtime.consolidationNeeded.
//     Independent disks and physical RDMs are left out.
//   - Change tracking: changeIds as vSphere writes them, QueryChangedDiskAreas
//     with at most Options.MaxAreas a call, "*", offsets at the end refused,
//     changeIds that outlive their snapshot. Epochs end with a power loss, a
//     revert, and when tracking is disabled. Bugs turns on what real versions
//     got wrong.
//   - A changeVersion that is stale is ConcurrentAccess; vcsim ignores it.
//   - One change of a machine at a time: others wait for their turn, or fail
//     with TaskInProgress if Options says so. Properties can be read meanwhile.
//     What vcsim panics on is refused.
//   - Quiescing, with guests that flush, fail, or stay frozen; guests that shut
//     down, hang, or have no tools; names and addresses of guests, and
//     CustomizeVM_Task, which changes them.
//   - Guest operations: logins, files in memory, and programs that are a function
//     of the test, or scripts that are run for real in a folder of this machine
//     (Guest.Shell). A guest that is frozen lets wait whoever writes to its disks.
//   - Datastore access under /folder/ (GET, HEAD, Range, whole PUT) with a
//     session or a password, refused for files of running machines.
//   - ExportVm, ExportSnapshot and ImportVApp with streamOptimized images, in
//     both directions, leases that time out, and a limit of connections.
//   - Locks: of a disk that is open for writing against others who would, and
//     against a start; of a running machine's files against other machines, deletion,
//     relocation and reading; disks can't be resized under a snapshot.
//   - Hot-add: a snapshot's disk attached to another machine is a [Device]
//     there, and what is written to one that is nonpersistent reaches nobody.
//   - Relocation that moves files and changes diskObjectIds.
//   - Sessions that expire, idle or all at once, calls that wait in them
//     included; a read-only user and privileges that are denied; latency,
//     faults at the n-th call before or after its effect, and counters of calls
//     and bytes.
//   - [Simulator.ServeNBD] in place of nbdkit with the vddk plugin, and
//     [Simulator.WriteRaw] for the file plugin of a real one.
//   - An administrator who interferes: [VM.AddSnapshot], [VM.Revert],
//     [VM.Relocate], [VM.ResetTracking], [VM.PowerLoss], [VM.Attach].
//
// What lives here: the simulator only. What may not: anything of the backend,
// which imports it in its tests, as users' tests do.
//
// # Not verified on
//
// Nothing here was compared with a real vCenter or ESXi; it follows the API's
// documentation and what other tools report. In particular it can't show:
//
//   - which fault a release answers to a changeId of another epoch
//     (InvalidArgument here) or to a query without active tracking (FileFault
//     here), and the status of a locked file under /folder (500 here);
//   - which calls queue behind a task of the same machine and which fail with
//     TaskInProgress: all do the one or the other here;
//   - what besides a reconfiguration changes a machine's changeVersion (nothing
//     here), and whether the call or its task fails when it is stale (the task
//     here);
//   - the privileges that methods ask for, beyond what the API's reference
//     names, and on which object: they are denied everywhere at once;
//   - the machine of an import whose lease timed out (it stays here), and a
//     snapshot that is removed while it is exported (its bytes stay readable);
//   - snapshots of machines with shared disks, which are taken here;
//   - the granularity of real tracking, which grows with the disk (64 KiB
//     here), and areas that are reported without having changed;
//   - what real tools write in the guest, such as logs of logins, and how long
//     each of their operations takes; aliases, tickets and SAML tokens; the
//     registry; operations on files beyond those that are listed in soap.go;
//   - speed, timing of stuns, snapshot removal under load, vSAN, vVols, NFS
//     snapshots, encrypted machines, linked clones, memory snapshots;
//   - space: datastores never fill up;
//   - VDDK itself: its transports, its limits, its own locking;
//   - storage vMotion of a machine's home (.vmx): only disks move here, and a
//     host's list of machines does not follow them;
//   - machines that are registered from their .vmx, which have no disks here;
//   - the REST API, and vcsim's own "/sdk/vim25" JSON door, which bypasses
//     everything that was added.
package vmwaretest

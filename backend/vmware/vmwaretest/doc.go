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
//     fail and leave runtime.consolidationNeeded.
//   - Change tracking: changeIds as vSphere writes them, QueryChangedDiskAreas
//     with at most Options.MaxAreas a call, "*", offsets at the end refused,
//     changeIds that outlive their snapshot. Epochs end with a power loss, a
//     revert, and when tracking is disabled. Bugs turns on what real versions
//     got wrong.
//   - Quiescing, with guests that flush, fail, or stay frozen; guests that shut
//     down, hang, or have no tools.
//   - Datastore access under /folder/ (GET, HEAD, Range, whole PUT) with a
//     session or a password, refused for files of running machines.
//   - ExportVm, ExportSnapshot and ImportVApp with streamOptimized images, in
//     both directions, and leases that time out.
//   - Locks: of a running machine's files against other machines, deletion and
//     reading; disks can't be resized under a snapshot.
//   - Relocation that moves files and changes diskObjectIds.
//   - Sessions that expire everywhere at once, latency, faults at the n-th call
//     before or after its effect, and counters of calls and bytes.
//   - [Simulator.ServeNBD] in place of nbdkit with the vddk plugin.
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
//   - the granularity of real tracking, which grows with the disk (64 KiB
//     here), and areas that are reported without having changed;
//   - speed, timing of stuns, snapshot removal under load, vSAN, vVols, NFS
//     snapshots, encrypted machines, linked clones, memory snapshots;
//   - VDDK itself: its transports, its limits, its own locking;
//   - storage vMotion of a machine's home (.vmx): only disks move here;
//   - the REST API, and vcsim's own "/sdk/vim25" JSON door, which bypasses
//     everything that was added.
package vmwaretest

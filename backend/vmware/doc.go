// Package vmware is the backend for VMware vSphere: a vCenter or a single ESXi
// host is a full Source and Target, so that machines leave it and come home
// with only their changes.
//
//	u, _ := url.Parse("https://vcenter.example/sdk")
//	v, err := vmware.Open(ctx, vmware.Options{URL: u, User: "lifeboat@vsphere.local", Password: secret,
//		Transports: []vmware.Transport{&vmware.VDDK{LibDir: "/opt/vmware-vix-disklib-distrib"}}})
//	defer v.Close(ctx)
//
// What lives here, file by file:
//
//   - vsphere.go, session.go, options.go: the connection: who logs in, how a
//     session that died is replaced, how many things happen at once;
//   - find.go, inventory.go, list.go, facts.go, config.go, places.go: machines
//     and what is around them, read;
//   - preflight.go, check.go: what keeps a machine, or the account, from working;
//   - record.go: the few facts that this library keeps on each machine; fence.go:
//     whose changes of it count;
//   - capture.go, snapshot.go, tracking.go, changes.go, image.go: the Source;
//   - prepare.go, placement.go, choose.go, estate.go, create.go, board.go,
//     identity.go, customize.go, holds.go, draft.go, commit.go, power.go,
//     remove.go: the Target;
//   - transport.go, limits.go, opendisks.go: how bytes are read and written, by
//     servers.go, vddk.go, hotadd.go, nfc.go or folder.go;
//   - guestdoor.go, guestfiles.go, guestrun.go: programs in guests, for
//     guestinspect.go and for guestfreeze.go with its script;
//   - task.go, errors.go: tasks, and faults as errors that say what to do.
//
// What may not live here: flows, stores, and anything of another platform.
// The simulator for tests is vmwaretest, which knows nothing of this package.
//
// # Names
//
// A machine's ID is its instance UUID, which outlives renaming, migration and
// registering it in a rebuilt vCenter. A disk's ID is the UUID of its backing;
// its file's name changes with every snapshot, and its diskObjectId with every
// storage vMotion. A replica's disks keep the IDs of those they stand for, by
// the record.
//
// # The record
//
// What must survive this process is kept on the machine itself, as one value of
// its extraConfig ("lifeboat"): whether its disks are torn, which point
// they hold, since which changeIds, whether this library made it. It travels
// with the machine. A clone carries its original's record; it is believed to be
// torn where that was, and of the rest nothing, as its instance UUID differs.
// Reverting to a snapshot brings an older record back together with the disks,
// and changes the tracking's epoch, so nothing is believed of it either.
//
// # Fences
//
// The record also remembers the epochs under which the machine was changed
// (package backend). What depends on nobody having raised one since, by vSphere
// itself: every change of the configuration, and so of the record, the mark that
// disks are torn, a draft's commit, cards and disks that are added or grown. Such
// a call carries the configuration's changeVersion.
//
// PowerOn, PowerOff, ShutdownGuest, snapshots, customization and Destroy take no
// condition. The record is looked at right before each, at most 5 s before, by
// two clocks; a call that has to log in first looks again. So a worker that stood
// still does at most one of these when it wakes, the one that was already
// decided, and the one whose process was never stopped does one within 5 s of its
// last look. What that comes to: a machine goes on or off once, a replica that is
// off is destroyed once, a snapshot of ours comes or goes, which the next draft
// or sweep tidies. Our own writes are never late by that: a machine that was
// switched on is ErrRunning to the new owner's draft and commit, and what it holds
// is asked of its change tracking, as ever.
//
// Disks are written past vSphere's API. A draft looks at the record before its
// writes when the last look is older than 5 s. vSphere lets one at a time open a
// disk for writing, and starts no machine meanwhile: whoever takes over from a
// worker that stands still with its disks open is refused until that one is
// ended, or wakes and is fenced. Where a transport takes no such lock (a server
// of your own, two disks attached to one appliance), a draft that follows one
// that was cut off waits for 6 s before it writes: then only requests that were
// on their way can still arrive.
//
// A replica that is gone remembers nothing: a CreateVM that was decided before
// may leave an empty one that is off, which the next Prepare of its key finds. A
// snapshot that somebody reverts to brings older epochs back with the older
// record. Stop under a record that can't be read isn't refused.
//
// # Moments
//
// Capture makes a snapshot without memory, named after the point, and finds it
// by that name in any later process. Whether it was quiesced is read off the
// snapshot, never assumed: a quiesce that fails, or that the guest's tools skip,
// leaves a crash-consistent point. Where vSphere asks applications (Windows with
// VSS) it is application-consistent, elsewhere file-system-consistent.
//
// # Guests
//
// With Options.GuestAuth scripts are run in guests, through their tools. A
// script and what it prints lie in a folder of their own, which is removed
// afterwards; what a process that died has left is removed by the next call,
// when it is an hour old. [VSphere.Inspect] reads what stands in the way of a
// failover. dr.As finds a backend.Quiescer, which holds Linux guests for a
// moment that several machines share: all file systems are frozen, by root and
// after the programs in /etc/lifeboat/freeze.d, and thaw by themselves when
// Options.FreezeLimit is over, whatever has become of us. A Capture meanwhile
// is a plain snapshot, and its point says what was reached.
//
// # Changes
//
// A point's cursors are changeIds. They are asked for page by page to the end.
// Every doubt becomes dr.ErrChangesLost, upon which whole disks are compared by
// checksum: another epoch, a disk that was resized or exchanged since, tracking
// that was off, or that somebody enabled while snapshots existed, which is known
// to report too little without an error.
//
// # Privileges
//
// The account needs, on the machines and the places for replicas:
// VirtualMachine.State.CreateSnapshot, .RemoveSnapshot; VirtualMachine.Config.
// ChangeTracking, .AdvancedConfig, .AddNewDisk, .AddExistingDisk, .AddRemoveDevice,
// .RemoveDisk, .DiskExtend, .EditDevice, .Settings; VirtualMachine.Interact.PowerOn, .PowerOff;
// VirtualMachine.Inventory.Create, .Delete; VirtualMachine.Provisioning.DiskRandomRead,
// .DiskRandomAccess, .GetVmFiles, .Customize; Datastore.AllocateSpace, .Browse,
// .FileManagement; Network.Assign; Resource.AssignVMToPool; VApp.Export for
// the transport [NFC]; and for guests VirtualMachine.GuestOperations.Query, .Modify
// and .Execute. [VSphere.Check] tells what is missing.
//
// # Not verified on
//
// Nothing here was run against a real vCenter or ESXi host: tests run against
// vmwaretest, a simulator over govmomi's vcsim, whose documentation says what it
// can't show. Disks travel over real NBD in tests, but nbdkit's file plugin and
// our own server stand in for nbdkit's vddk plugin. The script that freezes was
// run on real ext4, XFS and btrfs, also from a root that it froze, but never
// through real VMware Tools: whether these can log a user in while the disks are
// frozen depends on the distribution (docs/decisions/0018). Scripts for Windows
// guests were started in the simulator only. `go test -tags live
// ./backend/vmware` runs the whole suite on a vCenter of yours.
package vmware

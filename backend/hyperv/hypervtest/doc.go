// Package hypervtest is a Hyper-V host in this process, for tests: its WMI as a
// [host.Conn], its virtual disks as a [host.Disks], and guests that write. What a
// backend does with them is what it would do on Windows.
//
//	h := hypervtest.New(t, hypervtest.Options{})
//	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 1 << 30}}})
//	err = vm.Start()
//	err = vm.Write("os", []byte("hello"), 4096) // the guest writes
//	all, err := h.Conn().Query(ctx, "SELECT * FROM Msvm_ComputerSystem")
//
// # What is simulated
//
//   - The classes of root\virtualization\v2 in schema.txt, with the properties
//     that Windows Server 2019 has: an unknown class, property, method or
//     parameter, or a value of another type, is the error that WMI gives. WQL
//     with AND, OR, LIKE and its escapes; paths absolute and relative; embedded
//     instances as CIM-XML; numbers of 64 bits as strings; captions in the
//     host's language.
//   - Disks are real VHDX files in a folder of the test, dynamic, fixed and
//     differencing, which other tools can read: [Host.Local]. Paths are those of
//     Windows, without regard to case. Disks of the old format are in memory.
//   - Snapshots freeze files. The machine goes on in a new .avhdx above, merges
//     happen later, from the newest file downwards, and wait for whoever reads,
//     for room, and as long as a machine has more than one reference point:
//     [VM.ChainLength]. Snapshots of the kind Recovery, with guests whose VSS
//     works, fails, or isn't there; checkpoints of a person, and the way back to
//     them. Pass-through disks, shared ones and Fibre Channel are left out
//     without a word where the caller asks for that.
//   - Change tracking by moments that reference points name, through chains,
//     power cycles, checkpoints, migrations and moves; lost by [Host.Crash],
//     [VM.LoseTracking], [VM.ReplaceDisk], by a revert what came after the
//     checkpoint, and when no reference point names the moment any more.
//   - Jobs: they take [Options].JobPolls calls, polls or others, so that one whose
//     client is lost ends too; then they have their effect, and some minutes
//     later they are gone. A machine has one at a time.
//   - Machines made of parts, with the rules of controllers, drives, cards and
//     switches; what a running machine refuses; a start that fails because of
//     its files.
//   - Locks: of a running machine's files against everybody, of an open disk
//     against a start.
//   - Guests: shutdown, heartbeat, facts and addresses, a screen; items of the
//     host in a machine's configuration, which copies carry along.
//   - Nodes of a cluster that share C:\ClusterStorage: [NewCluster], [VM.Migrate].
//   - Faults: [Host.Fail] and [Host.FailNth] before or after the effect of any
//     call, [Host.FailJob] and [Host.EndJob], [Host.Deny], [Host.Hang],
//     [Host.FillUp], [Host.Alter] for what no real host should say, and
//     [Host.Abandon] for the death of the client.
//
// What lives here: the simulator only. What may not: anything of the backend,
// which imports it in its tests, as users' tests do.
//
// # Not verified on
//
// Nothing here was compared with a real Hyper-V host. It follows Microsoft's
// reference, the classes that are generated from one, and what other tools do. In
// particular it can't show:
//
//   - which code a release answers where the reference names several: 32773 for
//     what is wrong in itself, 32775 for a machine that is busy or in another
//     state, 32768 for a file or a guest that fails; which methods refuse at
//     once and which start a job that fails;
//   - which of several ERROR_CTLOG codes lost tracking has, and whether a host
//     that lost its power forgets all of it: real ones keep a coarser record;
//   - when exactly merges start, and which files an older reference point really
//     keeps: here it is all of them. No merge happens in the middle of a chain;
//   - changes that a real tracker reports without need, and its granularity
//     (64 KiB here), nor a VHDX that is written offline by another system;
//   - the moment of a snapshot within a guest: all of its disks are frozen
//     between two writes;
//   - durability: files aren't synced, and a crash loses no write;
//   - planned systems, import and export, Replica, storage pools, saved states
//     with memory, shielded machines, boot sources, VLANs and other features of
//     switch ports, GetVirtualDiskChanges for clients elsewhere, WMI events,
//     failover of a cluster by itself;
//   - chains whose files are renamed or written below a child: they go on here;
//   - speed, limits of WMI's own, sessions and rights beyond [Host.Deny].
package hypervtest

import "github.com/lifeboat-dr/lifeboat/backend/hyperv/host"

var (
	_ host.Conn  = (*conn)(nil)
	_ host.Disks = (*disks)(nil)
	_ host.Disk  = (*openDisk)(nil)
)

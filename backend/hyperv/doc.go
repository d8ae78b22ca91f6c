// Package hyperv is the backend for Microsoft Hyper-V: a host, or the nodes of a
// failover cluster, is a full Source and Target, so that machines leave it and
// come home with only their changes.
//
//	conn, err := winhost.Dial(ctx, winhost.Options{}) // on the host itself
//	hv, err := hyperv.Open(ctx, hyperv.Options{Nodes: []hyperv.Node{{Name: "hv1", Conn: conn, Disks: winhost.Disks{}}}})
//
// Virtual disks are reached on the host only (virtdisk.dll), so the backend runs
// there; package remote serves it to a replicator elsewhere, and examples/agent
// is a service that does.
//
// What lives here, file by file:
//
//   - hyperv.go, job.go, errors.go: the hosts, their methods and jobs, and what
//     goes wrong as errors that say what to do;
//   - find.go, list.go, vdisk.go, facts.go, config.go, cimxml.go, inspect.go:
//     machines, read;
//   - record.go, store.go: the few facts that this library keeps on each machine;
//     fence.go: whose changes of it count;
//   - preflight.go, check.go: what keeps a machine, or a host, from working;
//   - capture.go, release.go, changes.go, image.go, opendisks.go: the Source;
//   - placement.go, prepare.go, define.go, cards.go, holds.go, draft.go, torn.go,
//     commit.go, power.go, remove.go: the Target.
//
// Package host is the seam to Windows, winhost its adapters, hypervtest a host in
// this process for tests. What may not live here: COM, virtdisk, flows, stores,
// and anything of another platform.
//
// # Names
//
// A machine's ID is its GUID, as names are rarely unique. A disk's ID is the
// VirtualDiskId inside of its file, which outlives renaming, checkpoints and
// moves; a replica's disks keep the IDs of those they stand for, by the record.
// The first disk, by controller and location, counts as the boot disk.
//
// # The record
//
// What must survive this process is kept in the machine's own configuration, as
// an exchange item that only the host sees ("lifeboat"): whether its disks are
// torn, which point they hold, its checkpoints and reference points of ours,
// whether this library made it. An imported copy carries its original's record;
// of that only is believed that disks are torn.
//
// # Fences
//
// The record also remembers the epochs under which the machine was changed
// (package backend). Nothing that Hyper-V's methods or its files do takes a
// condition. So whoever raises an epoch begins a generation of the record, under a
// name of its own ("lifeboat@7") that can be added once; the highest counts, and
// what an older owner still writes to its own is read by nobody: marks, commits
// and epochs are safe. The first one's name then holds what an earlier Lifeboat
// takes for a newer one's record, so that it refuses the machine.
//
// Through one agent (package remote) all of it is: old and new owners meet in one
// process, where one change of a machine waits for another, and a client that
// wakes finds its calls and its drafts' writes refused.
//
// Of several processes on a host, or agents on a cluster's nodes, each looks at
// the record before whatever it asks for, unless it did within the last 5 s, by
// two clocks. A worker that stood still for longer does at most one thing when it
// wakes, the call that was already decided; one that never stood still goes on
// with the call of ours that it is in for 5 s at most. What one such call comes
// to: RequestStateChange, a machine goes on or off; Rename, a disk of a stopped
// replica has its torn name, so that the machine counts as torn until it is
// filled; Remove and DestroySystem, a file or the whole of a stopped replica is
// gone, and it is made anew. Files that somebody has open, of a running machine or
// a draft, can't be renamed nor removed. A disk is open for writing to one at a
// time, and its machine doesn't start meanwhile: whoever takes over from a worker
// that stands still with disks open is refused (ErrBusy) until that one is ended,
// or wakes and is fenced; an agent ends a client's session when it is silent.
//
// Removal forgets what a machine remembered, and a checkpoint that a person
// applies brings an older record back. Stop under a record that can't be read
// isn't refused.
//
// # Moments
//
// Capture makes a recovery checkpoint, written down before and after, so that a
// later process finds it. Release makes it a reference point, which keeps the
// moment for resilient change tracking (RCT) and none of its bytes. Older
// reference points hold up merges: Forget, which replication calls with each
// point that is safe, destroys them, and three are kept at most in any case.
//
// More than crash consistency asks the guest for a production checkpoint: on
// Windows applications flush by VSS, on Linux file systems are frozen. If that
// fails the point is crash-consistent and says so.
//
// # Changes
//
// They are asked of RCT by the virtual disk's identifier, as its file flips
// between .vhdx and .avhdx. Every doubt becomes dr.ErrChangesLost, upon which
// whole disks are compared by checksum: a host that lost power, a disk that was
// exchanged or is a VHD, a configuration older than 6.2, lists of a reference
// point that don't belong together, a moment from before a draft whose writes
// tracking isn't known to have seen.
//
// # Torn disks
//
// While a draft writes to a machine's disks their files have other names
// ("disk.torn.vhdx"), also after a crash: nobody can start the machine, by
// whatever tool, until a draft was committed (docs/decisions/0025).
//
// # What is refused
//
// Machines with disks that are passed through, shared, or behind Fibre Channel,
// naming them: a checkpoint would leave them out in silence. Writing to a machine
// with checkpoints of others. Static addresses: Hyper-V sets those inside of a
// guest only while it runs.
//
// # Rights
//
// The account needs to be one of the host's Hyper-V Administrators, with access
// to root\virtualization\v2 and full control of the folders of disks. From
// another computer it needs DCOM's remote launch and activation, too.
//
// # Not verified on
//
// Nothing here was run against a real Hyper-V host: tests run against
// hypervtest, whose documentation says what it can't show, and the adapters'
// COM part runs under Wine, which has no Hyper-V. In particular: recovery
// checkpoints of machines that are off; whether the files of tracking (.rct, .mrt)
// may be renamed together with their disk, and whether virtdisk's writes to a
// disk of a stopped machine are tracked (asked at every commit; else older points
// are compared whole); that AddKvpItems refuses a name that is there (what was
// added is read back); whether a frozen file's own identifier of tracking is that
// of its checkpoint; host-only exchange items of 2,000 characters; SCVMM. UEFI
// variables, the vTPM, DVDs, GPUs and advanced settings of cards (VLANs,
// bandwidth) are not carried over. `go test -tags live ./backend/hyperv` runs the
// whole suite on a host of yours.
package hyperv

// Package physical is the backend for machines whose disks this host can open:
// raw image files, block devices, and the replicas that it makes of image
// files under its root folder.
//
// Here live the [Host] with its Source and Target, the state it keeps of each
// machine, the freezing of running machines, and the [Tracker] seam. Guests'
// file systems, agents and networks don't belong here: what must happen inside
// a machine, and what starts and stops it, are hooks ([Hooks], [Commands]).
//
// # What is durable
//
// Under Root each machine has a folder with machine.json, replaced whole and
// atomically on every change, and with the image files that Prepare made. A
// draft writes the disks in place. Before its first byte the machine is marked
// torn; its commit syncs every disk and then replaces machine.json, which ends
// the mark, says what the disks hold and names the tracker's epoch in one
// step. One process owns a root at a time.
//
// A draft that was interrupted keeps no list of what it wrote: such a list is
// worth only what was synced before it, and a copy that compares block sums
// ([dr.Summer], which images and drafts here are) finds what is missing at the
// speed of reading. So drafts are no [dr.Resumer]. They tell the tracker what
// they write, so a point from before a draft can still be a base for changes.
//
// # Fences
//
// machine.json remembers the epochs of claims. A call holds its machine's turn
// from the check to the effect, hooks included, so a call that was passed over has
// none. A process that stands still keeps the root: another one's Open is
// dr.ErrBusy until it is ended, and takes nothing over from under it. Where
// workers come and go, an agent (package backend/remote) has the root, and a
// client that stands still loses its session.
//
// # A moment of a running machine
//
// Disks have no snapshots, as a rule. A running machine's image is a
// [dr.Settler], read pass after pass over what was written meanwhile, as live
// migration does. With freeze hooks the last pass is read while the machine is
// frozen; with only a tracker it ends when a pass went by without a write; with
// only the hooks the last pass compares whole disks while the machine is frozen;
// with neither the capture is refused. A freeze never outlives
// Config.FreezeLimit: then the machine thaws whatever happens, and the capture
// fails.
//
// Hooks that freeze a Linux machine's file systems, and prepare its
// applications by scripts, are in package fsfreeze.
//
// Where all disks of a machine can be copied at once (Config.Snapshots: image
// files by [Reflink], logical volumes by [LVM]), it is frozen only for as long
// as that takes, and its image reads the copies. They are recorded before they
// are made, found again by the point's name, also by another process, and
// removed by Release and Sweep.
//
// # What it believes
//
// Whether a machine runs, and so what its disks hold, is known from Start,
// Stop and the configuration alone. A machine that is started, or a disk that
// is written, behind this package's back makes Holds a lie: give each machine
// one owner. What Linux knows to be in use (mounted, swap, below another
// device, attached to a loop device, locked as QEMU locks images) is never
// written, nor is a disk that two machines of a host share, under whatever
// names.
//
// # Disks that are given up
//
// A block device that carries a partition table, a file system, or anything else
// that wipefs would tell of, is written only if it is known to be the machine's
// own, from its last capture or from a draft, or if its owner gave it up
// ([Disk].GivenUp): a rescue environment's disks, a machine that was rebuilt.
// Else it is a [*ForeignError]. A disk that is given up may be larger than the
// one that it stands for, and have another ID; [Host.Prepare] says how they find
// each other. Before such a machine starts, the backup of a GPT is moved to the
// disk's end, and the kernel reads the table anew; a table for sectors of another
// size is a [*SectorError]. Decision 0029 has the reasons.
//
// # What it can't look into
//
// A machine here is its disks and its hooks. One may be the host that this
// process runs on (Machine.Self, which package inventory configures): with
// Config.Inspect the host is asked, as [backend.Inspector], it can't be switched
// off without a hook, and its disks are never written. What other guests are
// like inside is read from the disks of a recovery point instead, by package
// failover/readiness/offline.
//
// # Not verified on
//
// Windows and darwin are compiled, not run, and there nothing is known to be
// mounted. Block devices were loop devices; device-mapper was not at hand, and
// so [LVM] never met a volume, nor a kernel that reads partition tables: that it
// forgets old partitions was shown, not that it finds new ones.
package physical

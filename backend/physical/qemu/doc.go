// Package qemu runs the machines of a physical host in QEMU: image files and
// block devices of this computer become machines that start, stop, shut down,
// freeze and are probed. [Runner.Configure] gives its hooks to a physical.Config.
//
// What lives here: the hooks, and a server of the disks that notes what
// is written. How QEMU is run belongs to internal/qemu; what a host does with
// hooks to package physical.
//
// # Two ways to a disk
//
// With Options.Tracker this process serves the disks to QEMU (NBD over a Unix
// socket) and tells the tracker of every write. So a running machine is
// replicated by deltas, without root, without a kernel's tracker. The
// price: when this process ends its machines end, as by a power cut, however it
// ends. The host's records still say that they run: a new process calls Stop and
// Start for those that [Runner.Running] doesn't find.
//
// Without it QEMU opens the disks by itself, and its machines outlive this
// process: the next one, with the same Options.Folder, finds them. What
// they write is known to nobody here: give the host another tracker, or let
// cycles compare sums.
//
// Either way the files are locked while the machine runs, so that a host of
// package physical doesn't write them, whatever its records say.
//
// # What a freeze reaches
//
// The processors stand still and what was written has arrived: a point is crash
// consistent, as after a power cut, and Configure says so to the host. File
// systems inside aren't frozen; that takes an agent inside.
//
// # Networks
//
// A machine that is started isolated, as drills are, reaches nothing. Others get what
// Options.Netdev says of each card; without it they are isolated too.
//
// # Not verified on
//
// Hosts other than Linux, and hardware acceleration. See internal/qemu.
package qemu

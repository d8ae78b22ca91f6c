// Package bootproof proves that a recovery point boots, by booting it: the
// disks of an opened point are served to QEMU as they are, with an overlay that
// takes what the guest writes, in a network that leads nowhere. Nothing is
// restored first, nothing of the point changes, and when the proof is over
// the overlay is gone.
//
// [Boot] starts such a machine, [Machine.Wait] waits for signs of life, and
// [Prove] is both with a report. [Scan] makes it a scan of package
// failover/cleanroom, [PlanCheck] a callback of a recovery plan, so that every
// drill can end with a machine that answers.
//
// [Recover] is for the hour of need: a machine that goes on running from the
// store, with an overlay that is kept, while its content is copied to where it
// shall live. See [Instant].
//
// Here live the serving of a point to QEMU, the proofs and the instant recovery.
// How QEMU is run belongs to internal/qemu, network block devices and overlays
// to internal/nbd. Machines of a platform, that flows start, belong to package
// backend and its like: a proof is no failover, and no protection's state
// knows of it.
//
// # What it costs, and what it proves
//
// A boot reads what a boot reads, a few dozen MiB, through the store. It takes
// memory as the machine has it, 2 GiB at most if nobody says more. Instructions
// are emulated, unless Options.KVM: a guest is five to fifty times slower.
//
// It proves that the firmware finds its way to the disk, that the file systems
// are whole enough for the system to come up, and what the evidence says. The
// hardware is QEMU's: a guest without virtio drivers wants Options.Bus "ahci",
// and a system that boots here may still lack a driver that its new home needs.
//
// The guest is taken for hostile; internal/qemu says what is between it and this
// host. As root, QEMU runs as another user: the same for all proofs, unless Options.User
// says otherwise.
//
// # Not verified on
//
// Hosts other than Linux, QEMU other than 7.2, hardware acceleration, Windows
// guests.
package bootproof

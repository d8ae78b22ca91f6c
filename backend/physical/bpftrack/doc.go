// Package bpftrack tracks what is written to block devices with BPF programs
// in the Linux kernel: no kernel module, and no C compiler when it is built or
// run. Its [Tracker] is a [physical.Tracker].
//
// Here live the programs, their bitmaps, the marks and what outlives a restart.
// Reading disks, freezing machines and deciding what a lost change means belong
// to package physical. decisions/0026 says why it is built like this.
//
// # What is seen
//
// Two programs run for each tracked disk, at the kernel's tracepoints
// block_bio_queue and block_rq_complete: before a write can reach the disk, and
// when the disk is done with it. Each sets the bits of the blocks concerned.
// Writes are what has an odd operation code: also discards, secure erasure,
// write-zeroes, and flushes that carry data. Who writes doesn't matter: file
// systems, direct I/O, memory maps, io_uring, swap, other layers of block
// devices on top. What can't be told apart dirties the whole disk: an event of
// more than 1,536 words of the bitmap (6 GiB of 64 KiB), a write past the bitmap, a run that the
// kernel skipped (it counts them), a command that sends data past the block layer
// (Options.TrustPassthrough).
//
// A partition is tracked as a range of its disk: the kernel tells writes of a
// partition with the whole disk's number and sectors (seen on 6.18). A file is
// tracked by the one loop device that stands on the whole of it; what is
// written to the file beside that device isn't seen, so it takes a word that
// nobody does (Options.TrustLoops).
//
// Devices that have no queue of requests (device-mapper, md, zram, NVMe over
// several paths) and zoned ones are refused, as they don't say at completion
// where a write went. What such layers write to the disks below is seen there,
// so protect whole disks. Health says of each disk how it is tracked, or why
// not and what helps. What isn't tracked is compared by sums: dr.ErrChangesLost
// is the answer to every mark.
//
// Nor is seen what this kernel doesn't do: writes of another host to a shared
// disk, an array or hypervisor that rolls a disk back, another system that is
// booted while this one hibernates, and commands past the block layer that carry
// no data (Options.TrustPassthrough). Untrack such a machine, or don't Track it.
//
// Another medium in the drive, or a loop device attached anew, is known by the
// kernel's disk sequence number; a disk that grew by its size. Their marks are
// lost, and the next Cut tracks them anew.
//
// # Restarts
//
// Without Options.Pins all marks end with the process, also one that ends well:
// nobody saw what was written since. With it, maps, programs and links stay in a
// BPF file system and go on, and Options.State says which marks they belong to.
// A process may be killed anywhere. After a reboot both are gone.
//
// # What it needs
//
// Linux 5.17 or newer with type information (CONFIG_DEBUG_INFO_BTF, as the
// large distributions build it); CAP_BPF and CAP_PERFMON; no tracefs. For pins a
// BPF file system, for their state a tmpfs that is not frozen with the machine.
//
// # What it costs
//
// A bit for each block of 64 KiB: 2 MiB for each TiB of disk in the kernel, and
// at most as much for each older mark that is kept. A run of a program took
// 130 to 145 ns on 2 cores, and each write pays two. Direct writes to memory took
// longer by 1.6 % (4 KiB, 11.7 µs each), 1.0 % (64 KiB) and 0.4 % (1 MiB): medians of
// 201 alternating pairs on a machine that did little else (BenchmarkWritePath); on a
// busy one they wander from −11 to 3 % and say nothing. Cut and Since of 1 TiB of
// which one block in a hundred was written took 0.16 s together.
//
// A mounted disk has to be read past its own page cache, which knows nothing of
// what the file system writes. Package physical does, where the system offers
// direct reads.
//
// # Not verified on
//
// Other kernels than 6.18 and other processors than amd64. Disks were loop
// devices: NVMe, SCSI and virtio, requests of several discards, and commands
// past the block layer were not at hand. Capabilities short of root's were not
// tried.
package bpftrack

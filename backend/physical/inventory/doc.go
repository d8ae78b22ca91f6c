// Package inventory tells what machine this process runs on: its disks by names
// that stay, what is on them and who uses it, firmware, processors, memory,
// network cards, and the facts that readiness checks ask for. [Read] makes a
// [Report] of plain values; [Report.Machine] makes of it the configuration with
// which package physical protects this very machine; [Inspect] answers as a
// backend.Inspector does.
//
// Everything is read from files below Options.Root: sysfs, proc, dev, the
// system's configuration, and the first and last bytes of block devices.
// Nothing is written, no program is run, and no device is opened but for
// reading. As root all is seen; without privileges what is on the devices isn't,
// and the report says so.
//
// # What it believes
//
// The kernel's view counts: sysfs for devices, their sizes and what is built on
// them, mountinfo for what is mounted. What is on the bytes (tables, superblocks)
// explains it; where the two differ it is a problem. A report is of no single
// moment: devices come and go while it is read, and one that goes is left out,
// with a problem. Text and superblocks may come from anybody: what is read,
// listed and followed is bounded.
//
// # Names that stay
//
// A disk's ID is a world-wide name if it has one, else a name made of model and
// serial number as udev makes it, also where no udev runs; else its place on the
// bus, and then the report says that it is not stable. Several paths to one
// logical unit are one disk, the multipath device; without one they are a
// blocker, because the two paths would be captured as two disks.
//
// # What may not live here
//
// Judgements whether a machine can fail over (package readiness), capture and
// tracking (package physical and its parts), and anything of other systems than
// Linux, where Read is dr.ErrUnsupported.
//
// # Not verified on
//
// Multipath, RAID, device-mapper, NVMe and real firmware were fixtures made
// after the layout of such machines; the machine at hand was a virtual one with
// loop devices.
package inventory

// Package vhdx reads and writes VHDX files, Hyper-V's virtual disks: fixed,
// dynamic and differencing ones, with logical sectors of 512 and of 4096 bytes,
// up to 64 TiB. What is written survives a power cut at any point.
//
//	base, err := vhdx.Create(vhdx.OSFile(f), vhdx.Options{Size: 40 << 30})
//	_, err = base.WriteAt(data, 0)
//	child, err := vhdx.Create(vhdx.OSFile(g), vhdx.Options{Parent: base, ParentRelative: `.\base.vhdx`})
//	err = child.Merge() // what was written to the child, into the base
//	err = errors.Join(child.Close(), base.Close())
//
// What lives here:
//
//   - disk.go, read.go, write.go: [Disk], what it shows and how it changes;
//   - create.go, open.go: how one comes to be;
//   - grow.go, merge.go, relink.go: changes of more than bytes;
//   - commit.go, allocator.go: what is written when, and where;
//   - header.go, region.go, metadata.go, locator.go, bat.go, bitmap.go,
//     logentry.go: the format's structures;
//   - replay.go, medium.go: what a crash left in the log;
//   - geometry.go, space.go, ranges.go, guid.go, file.go, errors.go: what they
//     stand on.
//
// What may not live here: how parents are found by their paths, snapshots and
// change tracking, anything of WMI or virtdisk.
//
// # The format
//
// It is the one of Microsoft's [MS-VHDX], version 8. All is little-endian, and
// what has a place has it on a whole MiB:
//
//	0        "vhdxfile"
//	64 KiB   a header, and another one at 128 KiB; the valid one with the higher
//	         sequence counts. FileWriteGuid, DataWriteGuid, where the log is, and
//	         LogGuid, which is null while the log is empty
//	192 KiB  the region table, and a copy of it at 256 KiB
//	1 MiB    the log
//	         metadata: sizes, the disk's ID, who the parent is
//	         BAT: for each block its state, and where in the file it is
//	         blocks, and the sector bitmaps of partial ones: which sectors are
//	         their own, and which the parent's
//
// The BAT has, behind the entries of each chunk of 2²³ sectors, one for the
// chunk's sector bitmap. A child knows its parent by the DataWriteGuid that it
// had, so any write to the parent ends all its children.
//
// # What survives
//
// Bytes go into their blocks at once, and to new blocks where nothing shows them
// yet. What shows them, the pages of BAT and bitmaps, waits in memory for Flush:
// it syncs the file, writes the pages to the log as one entry, syncs, and then
// puts the pages into their places. Each entry is the log's tail and head alone,
// as the sync before it made what came earlier durable, so an entry that counts
// is overwritten only by the one after the next. If a Flush has more pages than
// an entry takes, it takes several, in an order that is whole after each. A
// block that was given back is used again after the Flush that says so.
//
// Grow and what changes the parent go through the log as one entry. If the BAT
// doesn't fit any more, it is written anew at the end of the file, and the entry
// that has the new size has the new region tables too. So Create reserves no
// room for disks that never grow: a BAT's region is what the disk needs, in whole
// MiB, each enough for 4 TiB in blocks of 32 MiB.
//
// Merge tells the child by which DataWriteGuid the changed parent will be known
// (parent_linkage2), before it writes the parent's first byte. The child covers
// everything that is being copied until the merge is complete, so whoever is cut
// off merges again.
//
// # Trust
//
// A file's bytes are hostile until proven otherwise. What contradicts the format
// is [ErrCorrupt], with where in the file, what would have to be understood and
// isn't is [ErrUnsupported]. Regions, the log, blocks and bitmaps that lie
// outside of the file, or that have a byte in common, are refused by Open, as
// are logs that are torn or would change what they may not. Not looked at are
// the bits of sector bitmaps. Memory: the BAT takes 8 bytes for each block, at
// most 513 MiB, and no page of it that is zeros in the file; one bit for each MiB
// of a file of at most 128 TiB while it is opened; 4 MiB of bitmaps; a log of at
// most 32 MiB.
//
// # Not supported
//
// Shrinking, other types of parent locators, VHD sets (.vhds), parents of
// another format or another sector size, files that somebody else writes while
// they are open (there is no lock: it is the caller's to take).
//
// # Not verified on
//
// No file was read from, or opened by, a real Windows host. qemu-img 7.2 reads,
// writes, checks and replays what it can (no parents, no sectors of 4096 bytes),
// libvhdi 20210425 and 7-Zip 26.02 read all kinds with a clean log. That Windows
// opens a child by its parent_linkage2 is what the specification demands, which
// also says that a new file has none.
//
// [MS-VHDX]: https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx
package vhdx

// Package vhd reads and writes VHDs, the older of Hyper-V's two formats of disks
// and the one that Azure takes: fixed, dynamic and differencing ones. What it
// writes survives power cuts. The newer format is package vhdx's, which looks alike
// to a caller.
//
//	d, err := vhd.Create(vhd.OSFile(f), vhd.Options{Size: 40 << 30})
//	d.WriteAt(p, off) // as an io.WriterAt, at any alignment
//	d.Flush()         // durable from here on
//	d.Close()
//
// What lives here:
//
//   - fixed.go: [Footer] and [Parse], all that Azure's page blobs need;
//   - footer.go, header.go, table.go, bitmap.go: the structures of the format;
//   - create.go, open.go: [Create] and [Open], and the proof that an image is sound;
//   - disk.go, write.go, allocated.go: [Disk], reads and writes through a chain;
//   - space.go: where blocks go in the file, and the order in which a Flush writes.
//
// What may not live here: VHDX, the search for a parent's file (its paths are
// foreign text, and whose files may be opened is the caller's to know), merging
// and resizing.
//
// # The format
//
// It is that of Microsoft's "Virtual Hard Disk Image Format Specification",
// version 1.0 of October 2006. Numbers are big-endian.
//
//	fixed    the disk's bytes, then a footer of 512 bytes that says so
//
//	others   footer     a copy
//	         header     "cxsparse": where the table is, a block's size, the parent
//	         table      for each block its first sector in the file, ^0: not there
//	         paths      of the parent, as UTF-16
//	         block      a bitmap of its sectors, whole sectors long, then its bytes
//	         …          in any order
//	         footer
//
// A sector whose bit is not set is the parent's, or zeros in a dynamic image. The
// rules of size for Azure are those of "Prepare a Windows VHD or VHDX to upload to
// Azure": fixed, and a whole number of MiB without the footer.
//
// Where the specification is silent or others differ:
//
//   - The size is the footer's "current size", as Hyper-V takes it, not the
//     rounded one that the geometry makes.
//   - The footer at the end decides what is a fixed disk, whose guest may write a
//     footer's copy at the beginning. For the others the copy decides, and the
//     footer at the end is allowed to be torn.
//   - The parent's time in the header is that of the last write to its file. It is
//     checked where the file tells it; [OpenOptions] can lift that for chains that
//     were copied without their times.
//   - The room of a parent's path is read in sectors, as specified, or in bytes, as
//     some write it.
//
// # Power cuts
//
// There is no log. A Flush writes data and the bitmaps of new blocks, syncs, then
// writes the table and the bitmaps of old blocks, which tell of that data, and
// syncs again. So whenever power is cut, what was flushed is there, and each other
// sector is as it was or as it was written since. A block that was given up is
// used again only after the table without it is durable.
//
// The footer at the end is not moved with every block: the file grows in steps of
// 16 to 64 MiB, each with a Sync between the new footer and the first block that
// overwrites the old one. At any moment one of the two footers is whole, and what
// is at the end of the file is never what a guest wrote. Close gives the rest of a
// step back; after a power cut the room stays and is used up first.
//
// # Trust
//
// An image's bytes are hostile until proven otherwise. Blocks that overlap each
// other or anything else, that end behind the file, tables and headers that do,
// footers that disagree: [ErrCorrupt]. Memory is bounded by the disk's blocks, of
// which more than 4 Mi are [ErrUnsupported] (16 MiB of table, twice while it is
// checked), and 4 MiB of bitmaps. A chain has at most 256 images; that it has no
// cycle is up to who opens parents.
//
// # Not verified on
//
// Images were exchanged with qemu-img 7.2, 7-Zip 26.02 and libvhdi 20210425.
// (qemu-img doesn't read differencing ones.) No image of a real Windows host was
// read, and none has attached one of ours; that Windows finds a parent by the
// paths that are written here is what the specification and other programs'
// published sources say.
package vhd

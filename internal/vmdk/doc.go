// Package vmdk reads and writes streamOptimized VMDKs, the form in which
// vSphere's NFC leases send and take whole disks: what a snapshot's export
// lease sends is read by [Reader], and [Writer] makes what an import lease
// takes. Both go once from start to end, over any stream, in memory that
// doesn't depend on the disk (the writer keeps four bytes for each 32 MiB of
// disk, which the format wants at the end).
//
// What lives here:
//
//   - format.go, descriptor.go: the format's constants, its header and the
//     descriptor that stands inside the image;
//   - reader.go, grain.go: [Reader];
//   - directory.go: the grain tables and directories that it passes, and the
//     proof that no grain is missing;
//   - writer.go, pack.go: [Writer], and how grains are compressed side by side.
//
// What may not live here: leases, HTTP, other kinds of VMDK. A monolithicFlat
// or a vmfs disk is plain bytes, and other sparse kinds don't travel over NFC.
//
// # The format
//
// It is the one of VMware's technical note "Virtual Disk Format 5.0", sections
// "Hosted sparse extents" and "Stream-optimized compressed":
//
//	header       a sector; its directory offset is ^0: see the footer
//	descriptor   text, padded with zeros
//	             zeros up to the header's overhead
//	grain        lba, size, zlib stream (RFC 1950); padded to a sector
//	…            ascending; a grain of zeros isn't there
//	table        a marker, then where each of 512 grains is, in sectors
//	…            grains and their table, for each 32 MiB that isn't empty
//	directory    a marker, then where each table is
//	footer       a marker, then the header with the directory's offset
//	end          a marker of zeros
//
// Where the note is silent, the reader follows what producers are known to do:
//
//   - A marker of type 4 carries no data. vSphere sends some while it passes a
//     long hole, to keep the connection alive.
//   - The directory and its tables may stand before the grains, and the end
//     marker may then be missing: so qemu-img writes. Such a stream is whole if
//     it ends between two grains and the tables name exactly the grains that
//     came.
//   - The last grain may be as long as the others or end with the disk.
//
// # Trust
//
// A stream's bytes are hostile until proven otherwise: a broken image is an
// error that wraps [ErrFormat] and says where in the stream, a short one wraps
// [io.ErrUnexpectedEOF]. Grains that are beyond the disk, out of order, of the
// wrong size or with a wrong checksum are refused, and so are images whose
// tables disagree with the grains that came (both are proof against accidents,
// not against somebody who makes an image on purpose), or which have a parent,
// whose absent grains are not zeros. Nothing is allocated by a length that is
// only claimed, but for buffers of up to three grains of at most [MaxGrain].
//
// # Not verified on
//
// Images were exchanged in both directions with qemu-img 7.2 only. (It can't open
// an image of 0 bytes, its own neither.) No image of
// a real vCenter or ESXi host was read, and none has imported one; that type 4
// is as described, and that vSphere leaves empty tables out as this writer
// does, is what VMware's and VirtualBox's published sources show.
package vmdk

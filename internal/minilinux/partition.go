package minilinux

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

const sector = 512

// part of the disk, in bytes.
type part struct{ off, size int64 }

// layout of a disk: the boot partition from 1 MiB, and the root with what is
// left; the last MiB is kept for GPT's second table.
func layout(size int64) (boot, root part) {
	boot = part{bootStart, bootSize}
	root = part{boot.off + boot.size, 0}
	root.size = size - mib - root.off
	return boot, root
}

// writeMBR writes a table with an active FAT and a Linux partition, and the
// code that starts the active one.
func writeMBR(w io.WriterAt, code []byte, id [16]byte, boot, root part) error {
	mbr := make([]byte, sector)
	copy(mbr[:440], code)
	copy(mbr[440:444], id[:4])
	for i, p := range []struct {
		part
		active, kind byte
	}{{boot, 0x80, 0x0c}, {root, 0, 0x83}} {
		mbrEntry(mbr[446+16*i:], p.active, p.kind, p.part)
	}
	mbr[510], mbr[511] = 0x55, 0xaa
	_, err := w.WriteAt(mbr, 0)
	return err
}

// mbrEntry leaves the cylinders to nobody: everything reads the sectors.
func mbrEntry(e []byte, active, kind byte, p part) {
	e[0], e[4] = active, kind
	copy(e[1:4], []byte{0xfe, 0xff, 0xff})
	copy(e[5:8], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], uint32(p.off/sector))
	binary.LittleEndian.PutUint32(e[12:], uint32(p.size/sector))
}

// Kinds of partitions, as they lie on the disk (UEFI specification, 5.3.3,
// and the Discoverable Partitions Specification).
var (
	kindESP  = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	kindRoot = [16]byte{0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09} // x86-64
)

// writeGPT writes both tables and the protective MBR (UEFI specification,
// 5.3).
func writeGPT(w io.WriterAt, size int64, o Options, boot, root part) error {
	const entries, entrySize = 128, 128
	table := make([]byte, entries*entrySize)
	for i, p := range []struct {
		part
		kind, id [16]byte
		name     string
	}{{boot, kindESP, o.id("esp"), "esp"}, {root, kindRoot, o.id("root partition"), "root"}} {
		e := table[i*entrySize:]
		copy(e, p.kind[:])
		copy(e[16:], p.id[:])
		binary.LittleEndian.PutUint64(e[32:], uint64(p.off/sector))
		binary.LittleEndian.PutUint64(e[40:], uint64((p.off+p.size)/sector-1))
		for j, r := range utf16.Encode([]rune(p.name)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], r)
		}
	}
	last := size/sector - 1
	tableSectors := int64(len(table) / sector)
	disk := o.id("disk")
	header := func(self, other, at int64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00")
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], uint64(self))
		binary.LittleEndian.PutUint64(h[32:], uint64(other))
		binary.LittleEndian.PutUint64(h[40:], uint64(2+tableSectors))
		binary.LittleEndian.PutUint64(h[48:], uint64(last-tableSectors-1))
		copy(h[56:], disk[:])
		binary.LittleEndian.PutUint64(h[72:], uint64(at))
		binary.LittleEndian.PutUint32(h[80:], entries)
		binary.LittleEndian.PutUint32(h[84:], entrySize)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	mbr := make([]byte, sector)
	mbrEntry(mbr[446:], 0, 0xee, part{sector, last * sector})
	mbr[510], mbr[511] = 0x55, 0xaa
	for _, b := range []struct {
		at  int64
		raw []byte
	}{
		{0, mbr},
		{1, header(1, last, 2)}, {2, table},
		{last - tableSectors, table}, {last, header(last, 1, last-tableSectors)},
	} {
		if _, err := w.WriteAt(b.raw, b.at*sector); err != nil {
			return err
		}
	}
	return nil
}

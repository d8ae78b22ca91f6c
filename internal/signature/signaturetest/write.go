// Package signaturetest writes the superblocks that package signature knows, as
// little of them as makes blkid agree (of xfs and btrfs, whose superblocks it
// checks closer, as makes Probe agree): for tests that need a disk which looks
// used. Nothing that it writes can be mounted.
package signaturetest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// Write writes what makes the size bytes of w look like a kind, by blkid's names:
// "ext4", "xfs", "btrfs", "vfat", "swap", "swsuspend", "crypto_LUKS",
// "LVM2_member", "linux_raid_member" (metadata 1.2), and of md "md-1.0" and
// "md-0.90", whose superblocks are at the end. id is a UUID as blkid prints it. For
// devices of btrfs and md beside one, say how many there are.
func Write(w io.WriterAt, size int64, kind, id, label string, devices int) error {
	put := func(off int64, b []byte) error {
		_, err := w.WriteAt(b, off)
		return err
	}
	raw, _ := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	uuid := make([]byte, 16)
	copy(uuid, raw)
	switch kind {
	case "ext4":
		b := make([]byte, 1024)
		le.PutUint32(b[4:], uint32(min(size/4096, 1<<31))) // blocks
		le.PutUint32(b[24:], 2)                            // of 4 KiB
		le.PutUint16(b[56:], 0xef53)
		le.PutUint32(b[76:], 1)    // revision
		le.PutUint32(b[92:], 0x4)  // journal
		le.PutUint32(b[96:], 0x42) // extents, file types
		le.PutUint16(b[88:], 256)  // size of inodes
		copy(b[104:], uuid)
		copy(b[120:136], label)
		return put(1024, b)
	case "xfs":
		b := make([]byte, 512)
		copy(b, "XFSB")
		be.PutUint32(b[4:], 4096)
		be.PutUint64(b[8:], uint64(size/4096)) // blocks
		copy(b[32:], uuid)
		copy(b[108:120], label)
		return put(0, b)
	case "btrfs":
		b := make([]byte, 4096)
		copy(b[0x20:], uuid)
		le.PutUint64(b[0x30:], 0x10000)
		copy(b[0x40:], "_BHRfS_M")
		le.PutUint64(b[0x70:], uint64(size))
		le.PutUint64(b[0x88:], uint64(max(devices, 1)))
		le.PutUint32(b[0x90:], 4096)
		copy(b[0x12b:0x22b], label)
		return put(0x10000, b)
	case "vfat":
		b := make([]byte, 512)
		b[0], b[1], b[2] = 0xeb, 0x58, 0x90
		copy(b[3:], "mkfs.fat")
		le.PutUint16(b[11:], 512)
		b[13] = 8
		le.PutUint16(b[14:], 32)
		b[16], b[21] = 2, 0xf8
		le.PutUint32(b[32:], uint32(min(size/512, 1<<31)))
		le.PutUint32(b[36:], uint32(min(size/512/8/128+1, 1<<20)))
		le.PutUint32(b[44:], 2)
		b[66] = 0x29
		n, _ := strconv.ParseUint(strings.ReplaceAll(id, "-", ""), 16, 32)
		le.PutUint32(b[67:], uint32(n))
		copy(b[71:82], label+"           ")
		copy(b[82:], "FAT32   ")
		b[510], b[511] = 0x55, 0xaa
		return put(0, b)
	case "swap", "swsuspend":
		b := make([]byte, 4096)
		le.PutUint32(b[1024:], 1)
		le.PutUint32(b[1028:], uint32(size/4096-1))
		copy(b[1036:], uuid)
		copy(b[1052:1068], label)
		copy(b[4086:], "SWAPSPACE2")
		if kind == "swsuspend" {
			copy(b[4086:], "S1SUSPEND\x00")
		}
		return put(0, b)
	case "crypto_LUKS":
		b := make([]byte, 4096)
		copy(b, "LUKS\xba\xbe\x00\x02")
		be.PutUint64(b[8:], 16<<10)
		copy(b[24:72], label)
		copy(b[168:208], id)
		return put(0, b)
	case "LVM2_member":
		b := make([]byte, 512)
		copy(b, "LABELONE")
		le.PutUint64(b[8:], 1)
		le.PutUint32(b[20:], 32)
		copy(b[24:], "LVM2 001")
		copy(b[32:64], strings.ReplaceAll(id, "-", ""))
		le.PutUint64(b[64:], uint64(size))
		le.PutUint32(b[16:], lvmSum(b[20:]))
		return put(512, b)
	case "linux_raid_member", "md-1.0":
		off := int64(4096)
		if kind == "md-1.0" {
			off = (size/512 - 16) &^ 7 * 512
		}
		b := make([]byte, 512)
		le.PutUint32(b, 0xa92b4efc)
		le.PutUint32(b[4:], 1)
		copy(b[16:], uuid)
		copy(b[32:64], label)
		le.PutUint32(b[72:], 1) // level
		le.PutUint64(b[80:], uint64(size/512-2048))
		le.PutUint32(b[92:], uint32(devices))
		le.PutUint64(b[128:], 2048)
		le.PutUint64(b[136:], uint64(size/512-2048))
		le.PutUint64(b[144:], uint64(off/512))
		return put(off, b)
	case "md-0.90":
		b := make([]byte, 4096)
		le.PutUint32(b, 0xa92b4efc)
		le.PutUint32(b[8:], 90)
		for i, at := range []int{20, 52, 56, 60} {
			le.PutUint32(b[at:], be.Uint32(uuid[4*i:]))
		}
		le.PutUint32(b[28:], 1)
		le.PutUint32(b[32:], uint32(size/1024-64))
		le.PutUint32(b[40:], uint32(devices))
		return put(size&^(64<<10-1)-64<<10, b)
	}
	return fmt.Errorf("kind %q", kind)
}

// lvmSum is LVM2's CRC, with its own start (lib/misc/crc.c).
func lvmSum(b []byte) uint32 {
	crc := uint32(0xf597a6cf)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0xedb88320&-(crc&1)
		}
	}
	return crc
}

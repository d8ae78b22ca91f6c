package signature

import "slices"

// kind is how one is recognised.
type kind struct {
	name string
	use  Use
	// at are the places of the magic in bytes. Negative ones count from the
	// end, rounded down to a multiple of align, a power of two, if there is one.
	at    at
	align int64
	// is are the magics that it may have there; none: more looks itself.
	is is
	// uuid is the place of its 16 bytes, label that of a text; 0: none.
	uuid  int64
	label span
	// more reads on behind the magic at a place; nil: the magic says enough.
	more func(p *probe, at int64, s *Signature) verdict
}

type (
	at   []int64
	is   []string
	span struct{ at, n int64 }
)

// verdict is how far a kind is believed.
type verdict int

const (
	nothing verdict = iota // it isn't that
	// trace: somebody may have put it there, which [All] tells. A wrong refusal
	// costs a word in the configuration, a missed signature a disk.
	trace
	owner // enough of it is there to be the device's: [Probe] tells it too
)

// ddfMagic is in the byte order of the controller.
var ddfMagic = is{"\xde\x11\xde\x11", "\x11\xde\x11\xde"}

// weak is for magics that are too short, or too easily left behind, to say that
// it is the owner.
func weak(*probe, int64, *Signature) verdict { return trace }

const (
	mdMagic = "\xfc\x4e\x2b\xa9"
	// Caches and bcachefs begin their magic alike.
	bcacheMagic = "\xc6\x85\x73\xf6"
	// Swap's signature ends the first page, whose size is the kernel's that made it.
	page4, page8, page16, page32, page64 = 4<<10 - 10, 8<<10 - 10, 16<<10 - 10, 32<<10 - 10, 64<<10 - 10
)

// kinds are in the order in which they own a device: members go before what
// they carry, what is often seen before what is rare, and what reads the most last.
var kinds = []kind{
	// Metadata of versions 0.90 and 1.0 is at the end, so that the file system
	// at the beginning looks whole.
	{name: "linux_raid_member", use: Member, at: at{0, 4096, -8192}, align: 4096, is: is{mdMagic}, more: md1},
	{name: "linux_raid_member", use: Member, at: at{-64 << 10}, align: 64 << 10, is: is{mdMagic, "\xa9\x2b\x4e\xfc"}, more: md0},
	{name: "isw_raid_member", use: Member, at: at{-1024}, is: is{"Intel Raid ISM Cfg Sig. "}},
	{name: "ddf_raid_member", use: Member, at: at{-512}, is: ddfMagic},
	{name: "ddf_raid_member", use: Member, at: at{-257 * 512}, is: ddfMagic, more: weak},

	{name: "crypto_LUKS", use: Encrypted, at: at{0}, is: is{"LUKS\xba\xbe"}, more: luks},
	{name: "crypto_LUKS", use: Encrypted, at: at{16 << 10, 32 << 10}, is: is{"SKUL\xba\xbe"}, more: luks},
	{name: "BitLocker", use: Encrypted, at: at{3}, is: is{"-FVE-FS-"}},

	{name: "LVM2_member", use: Member, at: at{0, 512, 1024, 1536}, is: is{"LABELONE"}, more: lvm},
	{name: "bcache", use: Member, at: at{0x1018}, is: is{bcacheMagic + "\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"}, uuid: 0x1028},
	{name: "ceph_bluestore", use: Member, at: at{0}, is: is{"bluestore block device"}},

	{name: "swap", use: Swap, at: at{page4, page8, page16, page32, page64}, is: is{"SWAPSPACE2", "SWAP-SPACE"}, uuid: 0x40c, label: span{0x41c, 16}},
	{name: "swsuspend", use: Swap, at: at{page4, page8, page16, page32, page64}, is: is{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"}, uuid: 0x40c, label: span{0x41c, 16}, more: hibernated},

	{name: "xfs", use: FileSystem, at: at{0}, is: is{"XFSB"}, uuid: 32, label: span{108, 12}},
	{name: "btrfs", use: FileSystem, at: at{0x10040}, is: is{"_BHRfS_M"}, uuid: 0x10020, label: span{0x1012b, 256}, more: btrfs},
	{name: "ext2", use: FileSystem, at: at{0x438}, is: is{"\x53\xef"}, uuid: 0x468, label: span{0x478, 16}, more: ext},
	{name: "f2fs", use: FileSystem, at: at{0x400}, is: is{"\x10\x20\xf5\xf2"}, uuid: 0x46c},
	{name: "erofs", use: FileSystem, at: at{0x400}, is: is{"\xe2\xe1\xf5\xe0"}, uuid: 0x430, label: span{0x440, 16}},
	{name: "squashfs", use: FileSystem, at: at{0}, is: is{"hsqs", "sqsh"}},
	{name: "ntfs", use: FileSystem, at: at{3}, is: is{"NTFS    "}, more: ntfs},
	{name: "exfat", use: FileSystem, at: at{3}, is: is{"EXFAT   "}, more: exfat},
	{name: "ReFS", use: FileSystem, at: at{0}, is: is{"\x00\x00\x00ReFS\x00"}},
	{name: "vfat", use: FileSystem, at: at{0x52, 0x36}, is: is{"FAT32   ", "FAT16   ", "FAT12   ", "FAT     "}, more: vfat},
	{name: "iso9660", use: FileSystem, at: at{0x8001}, is: is{"CD001"}, label: span{0x8028, 32}},

	// Nothing shows through these as if it began at the beginning: where a file
	// system is seen beside, it was made later. bcachefs is one itself, but on
	// several devices with one UUID.
	{name: "bcachefs", use: Member, at: at{0x1018}, is: is{bcacheMagic + "\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"}, uuid: 0x1038},
	{name: "stratis", use: Member, at: at{512 + 4}, is: is{"!Stra0tis\x86\xff\x02^\x41rh"}},
	{name: "vdo", use: Member, at: at{0}, is: is{"dmvdo001"}, uuid: 40},
	{name: "DM_verity_hash", use: Member, at: at{0}, is: is{"verity\x00\x00"}, uuid: 16},
	{name: "DM_integrity", use: Member, at: at{0}, is: is{"integrt\x00"}},
	{name: "oracleasm", use: Member, at: at{32}, is: is{"ORCLDISK"}},
	{name: "VMFS_volume_member", use: Member, at: at{1 << 20}, is: is{"\x0d\xd0\x01\xc0"}, more: vmfsMember},

	{name: "jfs", use: FileSystem, at: at{0x8000}, is: is{"JFS1"}, uuid: 0x8088},
	{name: "reiserfs", use: FileSystem, at: at{0x10034}, is: is{"ReIsEr"}, uuid: 0x10054},
	{name: "nilfs2", use: FileSystem, at: at{0x406}, is: is{"\x34\x34"}, uuid: 0x498, more: weak},
	{name: "gfs2", use: FileSystem, at: at{0x10000}, is: is{"\x01\x16\x19\x70"}},
	{name: "ocfs2", use: FileSystem, at: at{0x400, 0x800, 0x1000, 0x2000}, is: is{"OCFSV2"}},
	{name: "vxfs", use: FileSystem, at: at{0x400}, is: is{"\xf5\xfc\x01\xa5"}},
	{name: "ufs", use: FileSystem, at: at{0x2000 + 1372, 0x10000 + 1372}, is: is{"\x54\x19\x01\x00", "\x19\x01\x54\x19"}},
	{name: "hfsplus", use: FileSystem, at: at{0x400}, is: is{"H+\x00\x04", "HX\x00\x05"}},
	{name: "hfs", use: FileSystem, at: at{0x400}, is: is{"BD"}, more: weak},
	{name: "apfs", use: FileSystem, at: at{32}, is: is{"NXSB"}, uuid: 72},
	{name: "udf", use: FileSystem, at: at{0x8001}, is: is{"BEA01", "NSR0"}},
	{name: "VMFS", use: FileSystem, at: at{2 << 20}, is: is{"\x5e\xf1\xab\x2f"}},

	// Four labels of 256 KiB, two at either end, each with a ring of uberblocks
	// in its second half; a pool whose first one was overwritten can still be
	// imported by another.
	{name: "zfs_member", use: Member, at: at{0, 256 << 10, -512 << 10, -256 << 10}, align: 256 << 10, more: zfs},
}

// each tells what is recognised, until yield has enough or the device fails.
func (p *probe) each(yield func(Signature, verdict) bool) {
	for _, k := range kinds {
		for _, off := range k.at {
			if off < 0 {
				if off += p.size; k.align > 0 {
					off &^= k.align - 1
				}
			}
			if k.is != nil && !slices.ContainsFunc(k.is, func(magic string) bool { return p.is(off, magic) }) {
				continue
			}
			s := Signature{Kind: k.name, Use: k.use}
			if k.uuid > 0 {
				s.UUID = uuid(p.at(k.uuid, 16))
			}
			if k.label.n > 0 {
				s.Label = text(p.at(k.label.at, int(k.label.n)))
			}
			found := owner
			if k.more != nil {
				found = k.more(p, off, &s)
			}
			if p.err != nil {
				return
			}
			s.Label = printable(s.Label)
			if found != nothing && !yield(s, found) {
				return
			}
		}
	}
}

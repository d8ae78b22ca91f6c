package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Features that a reader must know (s_feature_incompat).
const (
	featFiletype   = 0x2
	featRecover    = 0x4
	featJournalDev = 0x8
	featMetaBG     = 0x10
	feat64Bit      = 0x80
	featInline     = 0x8000
	known          = featFiletype | featRecover | featMetaBG | 0x40 /* extents */ | feat64Bit | 0x100 /* mmp */ | 0x200 /* flex_bg */ |
		0x400 /* ea_inode */ | 0x2000 /* csum_seed */ | 0x4000 /* largedir */ | featInline | 0x10000 /* encrypt: a file at a time */ | 0x20000 /* casefold */
)

const rootInode = 2

var le = binary.LittleEndian

// FS is a file system. It is safe for concurrent use.
type FS struct {
	// Label and UUID name it, as fstab does.
	Label, UUID string
	// Note says in what way the reader knows less than the guest would.
	Note string

	r          io.ReaderAt
	size       int64
	block      int64
	blocks     uint64
	firstData  uint64
	inodes     uint32
	perGroup   uint32 // inodes a group
	blkGroup   uint32 // blocks a group
	inodeSize  int64
	descSize   int64
	firstMeta  uint32
	incompat   uint32
	roCompat   uint32
	journal    uint32
	replaced   map[uint64]uint64 // block: where the journal has a newer one
	unescape   map[uint64]bool   // of those: begins with the journal's magic
	backGroups [2]uint32         // sparse_super2
	compat     uint32
}

// Is reports whether the bytes at 1024 of a volume are an ext superblock.
func Is(super []byte) bool { return len(super) >= 0x3a && le.Uint16(super[0x38:]) == 0xef53 }

// Open reads the superblock and the journal of a file system of size bytes.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, size: size}
	if err := f.load(); err != nil {
		return nil, err
	}
	if f.incompat&featRecover == 0 {
		return f, nil
	}
	if err := f.replay(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return f, f.load() // the superblock may be one of the replaced blocks
}

func (f *FS) load() error {
	s := make([]byte, 1024)
	if err := f.readAt(s, 1024); err != nil {
		return err
	}
	if !Is(s) {
		return guestfs.Corrupt("no ext file system")
	}
	shift := le.Uint32(s[0x18:])
	f.compat, f.incompat, f.roCompat = le.Uint32(s[0x5c:]), le.Uint32(s[0x60:]), le.Uint32(s[0x64:])
	if u := f.incompat &^ known; u != 0 {
		return guestfs.Unsupported("ext4 features %#x", u)
	}
	if shift > 6 {
		return guestfs.Corrupt("blocks of 1024<<%d bytes", shift)
	}
	f.block = 1024 << shift
	f.blocks = uint64(le.Uint32(s[4:]))
	f.inodes, f.firstData = le.Uint32(s[0:]), uint64(le.Uint32(s[0x14:]))
	f.blkGroup, f.perGroup = le.Uint32(s[0x20:]), le.Uint32(s[0x28:])
	f.inodeSize, f.descSize = 128, 32
	if le.Uint32(s[0x4c:]) > 0 { // s_rev_level: dynamic
		f.inodeSize = int64(le.Uint16(s[0x58:]))
	}
	if f.incompat&feat64Bit != 0 {
		f.blocks |= uint64(le.Uint32(s[0x150:])) << 32
		f.descSize = int64(le.Uint16(s[0xfe:]))
	}
	f.firstMeta = le.Uint32(s[0x104:])
	f.journal = le.Uint32(s[0xe0:])
	f.backGroups = [2]uint32{le.Uint32(s[0x24c:]), le.Uint32(s[0x250:])}
	f.Label = strings.TrimRight(string(s[0x78:0x88]), "\x00")
	f.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", s[0x68:0x6c], s[0x6c:0x6e], s[0x6e:0x70], s[0x70:0x72], s[0x72:0x78])
	switch {
	case f.blkGroup == 0 || f.perGroup == 0 || int64(f.blkGroup) > 8*f.block || int64(f.perGroup) > 8*f.block:
		return guestfs.Corrupt("groups of %d blocks and %d inodes", f.blkGroup, f.perGroup)
	case f.inodeSize < 128 || f.inodeSize > f.block || f.inodeSize&(f.inodeSize-1) != 0:
		return guestfs.Corrupt("inodes of %d bytes", f.inodeSize)
	case f.descSize < 32 || f.descSize > f.block || f.descSize&(f.descSize-1) != 0 || f.incompat&feat64Bit != 0 && f.descSize < 64:
		return guestfs.Corrupt("group descriptors of %d bytes", f.descSize)
	case f.firstData > 1:
		return guestfs.Corrupt("first data block %d", f.firstData)
	}
	return nil
}

// readAt reads all of p, newer blocks from the journal.
func (f *FS) readAt(p []byte, off int64) error {
	for len(p) > 0 {
		n, at := len(p), off
		if len(f.replaced) > 0 {
			in := off % f.block
			n = int(min(int64(n), f.block-in))
			b := uint64(off / f.block)
			if to, ok := f.replaced[b]; ok {
				at = int64(to)*f.block + in
			}
			if f.unescape[b] && in < 4 {
				n = min(n, int(4-in))
				copy(p[:n], magic[in:])
				p, off = p[n:], off+int64(n)
				continue
			}
		}
		if at < 0 || int64(n) > f.size-at {
			return guestfs.Corrupt("%d bytes at %d reach beyond the file system", n, at)
		}
		if got, err := f.r.ReadAt(p[:n], at); got < n {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readBlock reads a block by its number.
func (f *FS) readBlock(n uint64) ([]byte, error) {
	if n >= uint64(f.size/f.block) {
		return nil, guestfs.Corrupt("block %d is beyond the file system", n)
	}
	p := make([]byte, f.block)
	return p, f.readAt(p, int64(n)*f.block)
}

// descriptor returns where the inode table of a group begins.
func (f *FS) inodeTable(group uint32) (uint64, error) {
	perBlock := uint32(f.block / f.descSize)
	at := (f.firstData+1)*uint64(f.block) + uint64(group)*uint64(f.descSize)
	if meta := group / perBlock; f.incompat&featMetaBG != 0 && meta >= f.firstMeta {
		first := meta * perBlock // the group whose first block holds them, behind a superblock's copy
		b := f.firstData + uint64(first)*uint64(f.blkGroup)
		if f.hasSuper(first) {
			b++
		}
		at = b*uint64(f.block) + uint64(group%perBlock)*uint64(f.descSize)
	}
	d := make([]byte, f.descSize)
	if err := f.readAt(d, int64(at)); err != nil {
		return 0, err
	}
	t := uint64(le.Uint32(d[8:]))
	if f.descSize >= 64 {
		t |= uint64(le.Uint32(d[0x28:])) << 32
	}
	return t, nil
}

func (f *FS) hasSuper(group uint32) bool {
	if f.compat&0x200 != 0 { // sparse_super2
		return group == 0 || group == f.backGroups[0] || group == f.backGroups[1]
	}
	if group <= 1 || f.roCompat&1 == 0 { // without sparse_super every group has one
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < uint64(group) {
			n *= base
		}
		if n == uint64(group) {
			return true
		}
	}
	return false
}

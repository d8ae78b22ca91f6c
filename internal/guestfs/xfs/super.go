package xfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Incompatible features of version 5 (sb_features_incompat): ftype, sparse
// inodes, metadata UUID, bigtime, needsrepair, large extent counters, atomic
// exchange and parent pointers.
const (
	featBigtime = 0x8
	featRepair  = 0x10
	featNrext64 = 0x20
	known       = 0x1 | 0x2 | 0x4 | featBigtime | featRepair | featNrext64 | 0x40 | 0x80
)

var be = binary.BigEndian

// FS is a file system. It is safe for concurrent use.
type FS struct {
	// Label and UUID name it, as fstab does.
	Label, UUID string
	// Note says in what way the reader knows less than the guest would.
	Note string

	r         io.ReaderAt
	size      int64
	block     int64
	dirBlock  int64
	agBlocks  uint64
	agCount   uint64
	agLog     uint
	inodeSize int64
	perLog    uint // inodes a block, as a power of two
	root      uint64
	v5, ftype bool
	incompat  uint32
}

// Is reports whether a volume begins with an XFS superblock.
func Is(super []byte) bool { return len(super) >= 4 && string(super[:4]) == "XFSB" }

// Open reads the superblock of a file system of size bytes.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	s, err := guestfs.ReadFull(r, 0, 512)
	if err != nil {
		return nil, err
	}
	if !Is(s) {
		return nil, guestfs.Corrupt("no XFS file system")
	}
	f := &FS{
		r: r, size: size, block: int64(be.Uint32(s[4:])), root: be.Uint64(s[56:]),
		agBlocks: uint64(be.Uint32(s[84:])), agCount: uint64(be.Uint32(s[88:])), agLog: uint(s[124]),
		inodeSize: int64(be.Uint16(s[104:])), perLog: uint(s[123]),
	}
	version := be.Uint16(s[100:]) & 15
	f.v5 = version == 5
	f.ftype = be.Uint32(s[200:])&0x200 != 0
	if f.v5 {
		f.incompat = be.Uint32(s[216:])
		f.ftype = f.incompat&1 != 0
	}
	dirLog := s[192]
	f.dirBlock = f.block << (dirLog & 15)
	f.Label = strings.TrimRight(string(s[108:120]), "\x00")
	f.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", s[32:36], s[36:38], s[38:40], s[40:42], s[42:48])
	pow := func(n, from, to int64) bool { return n >= from && n <= to && n&(n-1) == 0 }
	switch {
	case version != 4 && version != 5:
		return nil, guestfs.Unsupported("XFS version %d", version)
	case f.incompat&^known != 0:
		return nil, guestfs.Unsupported("XFS features %#x", f.incompat&^known)
	case !pow(f.block, 512, 65536), dirLog > 7, !pow(f.dirBlock, 512, 65536):
		return nil, guestfs.Corrupt("blocks of %d bytes, of folders %d", f.block, f.dirBlock)
	case !pow(f.inodeSize, 256, 2048), f.inodeSize > f.block, f.inodeSize<<(f.perLog&31) != f.block:
		return nil, guestfs.Corrupt("inodes of %d bytes, %d a block", f.inodeSize, 1<<(f.perLog&31))
	case f.agBlocks == 0, f.agCount == 0, f.agLog > 31, f.agBlocks > 1<<f.agLog:
		return nil, guestfs.Corrupt("%d groups of %d blocks", f.agCount, f.agBlocks)
	}
	if f.incompat&featRepair != 0 {
		f.Note = "the file system asks for a repair"
	}
	return f, nil
}

// LogDirty makes FS.Note say that the log was not played back, if there is
// something in it. It costs a read of a part of the log.
func (f *FS) LogDirty() error {
	s, err := guestfs.ReadFull(f.r, 0, 512)
	if err != nil {
		return err
	}
	start, blocks := be.Uint64(s[48:]), int64(be.Uint32(s[96:]))
	if start == 0 { // on another device
		f.Note = "the log is on another device: the last changes may be missing"
		return nil
	}
	at, err := f.offset(start)
	if err != nil {
		return err
	}
	if blocks*f.block > f.size-at {
		return guestfs.Corrupt("a log of %d blocks", blocks)
	}
	clean, err := f.clean(at, blocks*f.block)
	if err == nil && !clean {
		f.Note = "its log was not played back: the last changes before the moment of the point may be missing"
	}
	return err
}

// offset is where a block is, told as group and number within.
func (f *FS) offset(b uint64) (int64, error) {
	group, in := b>>f.agLog, b&(1<<f.agLog-1)
	if group >= f.agCount || in >= f.agBlocks {
		return 0, guestfs.Corrupt("block %d of group %d", in, group)
	}
	at := group*f.agBlocks + in
	if at >= uint64(f.size/f.block) {
		return 0, guestfs.Corrupt("block %d is beyond the file system", at)
	}
	return int64(at) * f.block, nil
}

// readAt reads all of p from block b on, at the given offset.
func (f *FS) readAt(p []byte, b uint64, in int64) error {
	at, err := f.offset(b)
	if err != nil {
		return err
	}
	if int64(len(p)) > f.size-at-in {
		return guestfs.Corrupt("%d bytes at %d reach beyond the file system", len(p), at+in)
	}
	if n, err := f.r.ReadAt(p, at+in); n < len(p) {
		return err
	}
	return nil
}

package ext4

import (
	"bytes"
	"io/fs"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Flags of an inode.
const (
	flagEncrypt = 0x800
	flagExtents = 0x80000
	flagInline  = 0x10000000
)

// Root is the root folder.
func (f *FS) Root() (guestfs.Node, error) { return f.Node(rootInode) }

// FoldsCase says no: ext4 can a folder at a time, which no distribution sets up.
func (f *FS) FoldsCase() bool { return false }

// Node reads an inode.
func (f *FS) Node(id uint64) (guestfs.Node, error) {
	n, err := f.inode(id)
	if err != nil {
		return nil, err
	}
	return n, nil
}

type node struct {
	f     *FS
	id    uint64
	raw   []byte
	flags uint32
	info  guestfs.Info
}

func (f *FS) inode(id uint64) (*node, error) {
	if id == 0 || id > uint64(f.inodes) {
		return nil, guestfs.Corrupt("inode %d of %d", id, f.inodes)
	}
	group, index := uint32(id-1)/f.perGroup, uint32(id-1)%f.perGroup
	table, err := f.inodeTable(group)
	if err != nil {
		return nil, err
	}
	if table >= uint64(f.size/f.block) {
		return nil, guestfs.Corrupt("inode table of group %d at block %d", group, table)
	}
	raw := make([]byte, f.inodeSize)
	if err := f.readAt(raw, int64(table)*f.block+int64(index)*f.inodeSize); err != nil {
		return nil, err
	}
	mode := le.Uint16(raw)
	n := &node{f: f, id: id, raw: raw, flags: le.Uint32(raw[0x20:])}
	n.info = guestfs.Info{
		Mode:    guestfs.UnixMode(uint32(mode)),
		Size:    int64(le.Uint32(raw[4:])),
		ModTime: time.Unix(int64(int32(le.Uint32(raw[0x10:]))), 0).UTC(),
	}
	if m := n.info.Mode; m.IsRegular() || m.IsDir() {
		n.info.Size |= int64(le.Uint32(raw[0x6c:])) << 32
	}
	if mode == 0 || n.info.Size < 0 {
		return nil, guestfs.Corrupt("inode %d: mode %#x, size %d", id, mode, n.info.Size)
	}
	return n, nil
}

func (n *node) Info() guestfs.Info { return n.info }

func (n *node) ReadAt(p []byte, off int64) (int, error) {
	if n.flags&flagEncrypt != 0 {
		return 0, guestfs.Unsupported("inode %d is encrypted", n.id)
	}
	if n.flags&flagInline != 0 {
		whole := n.inline()
		return guestfs.ReadPieces(p, off, n.info.Size, func(p []byte, off int64) (int, error) {
			if off >= int64(len(whole)) {
				return 0, guestfs.Corrupt("inode %d: %d bytes within the inode, of %d", n.id, len(whole), n.info.Size)
			}
			return copy(p, whole[off:]), nil
		})
	}
	return guestfs.ReadPieces(p, off, n.info.Size, func(p []byte, off int64) (int, error) {
		return n.piece(p, off)
	})
}

// piece reads what lies in one run of blocks.
func (n *node) piece(p []byte, off int64) (int, error) {
	e, err := n.run(uint64(off / n.f.block))
	if err != nil {
		return 0, err
	}
	in := off - int64(e.logical)*n.f.block
	p = p[:min(int64(len(p)), int64(e.count)*n.f.block-in)]
	if e.hole {
		clear(p)
		return len(p), nil
	}
	if e.physical+e.count < e.physical || e.physical+e.count > uint64(n.f.size/n.f.block) {
		return 0, guestfs.Corrupt("inode %d: block %d is beyond the file system", n.id, e.physical)
	}
	return len(p), n.f.readAt(p, int64(e.physical)*n.f.block+in)
}

// inline is what is kept within the inode: 60 bytes, and the value of the
// extended attribute system.data.
func (n *node) inline() []byte {
	data := n.raw[0x28:0x64]
	if len(n.raw) < 0x84 {
		return data
	}
	start := 0x80 + int(le.Uint16(n.raw[0x80:]))
	if start+4 > len(n.raw) || le.Uint32(n.raw[start:]) != 0xea020000 {
		return data
	}
	ea := n.raw[start+4:]
	for e := ea; len(e) >= 16 && le.Uint32(e) != 0; {
		name, index := int(e[0]), e[1]
		at, size := int(le.Uint16(e[2:])), uint64(le.Uint32(e[8:]))
		next := (16 + name + 3) &^ 3
		if 16+name > len(e) || next > len(e) {
			break
		}
		if index == 7 && string(e[16:16+name]) == "data" && uint64(at)+size <= uint64(len(ea)) && le.Uint32(e[4:]) == 0 {
			return append(bytes.Clone(data), ea[at:at+int(size)]...)
		}
		e = e[next:]
	}
	return data
}

// Link is where a symbolic link points to.
func (n *node) Link() (string, error) {
	if n.info.Mode&fs.ModeSymlink == 0 || n.info.Size > 4096 {
		return "", guestfs.Corrupt("inode %d is no symbolic link", n.id)
	}
	if n.flags&flagEncrypt != 0 {
		return "", guestfs.Unsupported("inode %d is encrypted", n.id)
	}
	// A short one is in the inode, in place of the blocks' numbers.
	if n.flags&(flagInline|flagExtents) == 0 && n.info.Size < 60 {
		return string(n.raw[0x28 : 0x28+n.info.Size]), nil
	}
	p := make([]byte, n.info.Size)
	_, err := n.ReadAt(p, 0)
	return string(p), err
}

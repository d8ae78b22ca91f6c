package xfs

import (
	"io/fs"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Forms of what an inode holds.
const (
	formLocal   = 1
	formExtents = 2
	formTree    = 3
)

type node struct {
	f    *FS
	id   uint64
	info guestfs.Info
	form byte
	n    uint64 // extents
	fork []byte // the data fork, as it is in the inode
}

// Root is the root folder.
func (f *FS) Root() (guestfs.Node, error) { return f.Node(f.root) }

// FoldsCase says no: an option could, which no distribution sets.
func (f *FS) FoldsCase() bool { return false }

// Node reads an inode.
func (f *FS) Node(id uint64) (guestfs.Node, error) {
	n, err := f.inode(id)
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (f *FS) inode(id uint64) (*node, error) {
	raw := make([]byte, f.inodeSize)
	if err := f.readAt(raw, id>>f.perLog, int64(id&(1<<f.perLog-1))*f.inodeSize); err != nil {
		return nil, err
	}
	core := 100
	if raw[4] == 3 {
		core = 176
	}
	if string(raw[:2]) != "IN" || raw[4] < 2 || raw[4] > 3 {
		return nil, guestfs.Corrupt("no inode %d", id)
	}
	n := &node{f: f, id: id, form: raw[5], n: uint64(be.Uint32(raw[76:]))}
	n.info = guestfs.Info{Mode: guestfs.UnixMode(uint32(be.Uint16(raw[2:]))), Size: int64(be.Uint64(raw[56:]))}
	flags := uint64(0)
	if raw[4] == 3 {
		flags = be.Uint64(raw[120:])
	}
	if flags&0x10 != 0 { // large extent counters
		n.n = be.Uint64(raw[24:])
	}
	if flags&0x8 != 0 { // bigtime: nanoseconds since the earliest 32-bit time
		t := be.Uint64(raw[40:])
		n.info.ModTime = time.Unix(int64(t/1e9)-1<<31, int64(t%1e9)).UTC()
	} else {
		n.info.ModTime = time.Unix(int64(int32(be.Uint32(raw[40:]))), int64(be.Uint32(raw[44:]))).UTC()
	}
	n.fork = raw[core:]
	if forkoff := int(raw[82]) * 8; forkoff > 0 {
		if forkoff > len(n.fork) {
			return nil, guestfs.Corrupt("inode %d: attributes at %d", id, forkoff)
		}
		n.fork = n.fork[:forkoff]
	}
	if be.Uint16(raw[2:]) == 0 || n.info.Size < 0 {
		return nil, guestfs.Corrupt("inode %d: mode %v, size %d", id, n.info.Mode, n.info.Size)
	}
	return n, nil
}

func (n *node) Info() guestfs.Info { return n.info }

func (n *node) ReadAt(p []byte, off int64) (int, error) {
	return guestfs.ReadPieces(p, off, n.info.Size, n.piece)
}

// piece reads what lies in one extent.
func (n *node) piece(p []byte, off int64) (int, error) {
	e, err := n.extent(uint64(off / n.f.block))
	if err != nil {
		return 0, err
	}
	in := off - int64(e.logical)*n.f.block
	p = p[:min(int64(len(p)), int64(e.count)*n.f.block-in)]
	if e.hole {
		clear(p)
		return len(p), nil
	}
	return len(p), n.f.readAt(p, e.physical, in)
}

// Link is where a symbolic link points to.
func (n *node) Link() (string, error) {
	size := n.info.Size
	if n.info.Mode&fs.ModeSymlink == 0 || size > 4096 {
		return "", guestfs.Corrupt("inode %d is no symbolic link", n.id)
	}
	if n.form == formLocal {
		if size > int64(len(n.fork)) {
			return "", guestfs.Corrupt("inode %d: a link of %d bytes", n.id, size)
		}
		return string(n.fork[:size]), nil
	}
	header := int64(0)
	if n.f.v5 {
		header = 56 // of each extent
	}
	var to []byte
	for b := uint64(0); int64(len(to)) < size; {
		e, err := n.extent(b)
		if err != nil {
			return "", err
		}
		if e.hole || e.logical != b {
			return "", guestfs.Corrupt("inode %d: a link with a hole", n.id)
		}
		p := make([]byte, min(int64(e.count)*n.f.block, size-int64(len(to))+header))
		if err := n.f.readAt(p, e.physical, 0); err != nil {
			return "", err
		}
		if n.f.v5 && (int64(len(p)) <= header || string(p[:4]) != "XSLM") {
			return "", guestfs.Corrupt("inode %d: no link in its blocks", n.id)
		}
		to = append(to, p[header:]...)
		b += e.count
	}
	return string(to[:size]), nil
}

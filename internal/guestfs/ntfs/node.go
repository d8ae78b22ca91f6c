package ntfs

import (
	"io/fs"
	"iter"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

type node struct {
	f       *FS
	id      uint64
	info    guestfs.Info
	attrs   []attribute
	reparse bool
}

// Root is the root folder.
func (f *FS) Root() (guestfs.Node, error) { return f.Node(rootRecord) }

// FoldsCase says yes: names differ by more than case.
func (f *FS) FoldsCase() bool { return true }

// Node reads a file's records.
func (f *FS) Node(id uint64) (guestfs.Node, error) {
	n, err := f.node(id)
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (f *FS) node(id uint64) (*node, error) {
	raw, attrs, err := f.collect(id)
	if err != nil {
		return nil, err
	}
	n := &node{f: f, id: id, attrs: attrs}
	n.info.Mode = 0o444
	if le.Uint16(raw[22:])&2 != 0 {
		n.info.Mode = fs.ModeDir | 0o555
	}
	for _, a := range attrs {
		switch {
		case a.kind == attrStandard && a.resident && len(a.value) >= 16:
			// Intervals of 100 ns since 1601.
			t := le.Uint64(a.value[8:])
			n.info.ModTime = time.Unix(int64(t/1e7)-11_644_473_600, int64(t%1e7)*100).UTC()
		case a.kind == attrReparse:
			n.info.Mode, n.reparse = fs.ModeIrregular|0o444, true
		case a.kind == attrData && a.name == "" && a.resident:
			n.info.Size = int64(len(a.value))
		case a.kind == attrData && a.name == "" && a.first == 0:
			n.info.Size = max(0, int64(le.Uint64(a.raw[48:])))
		}
	}
	return n, nil
}

func (n *node) Info() guestfs.Info { return n.info }

// open finds an attribute by type and name.
func (n *node) open(kind uint32, name string) (stream, error) {
	var parts []attribute
	for _, a := range n.attrs {
		if a.kind == kind && a.name == name {
			parts = append(parts, a)
		}
	}
	return n.f.stream(parts)
}

func (n *node) ReadAt(p []byte, off int64) (int, error) {
	if n.reparse {
		return 0, guestfs.Unsupported("a reparse point")
	}
	s, err := n.open(attrData, "")
	if err != nil {
		return 0, err
	}
	return s.ReadAt(p, off)
}

// Link: what Unix calls a symbolic link is a reparse point, which is not read.
func (n *node) Link() (string, error) {
	return "", guestfs.Unsupported("a reparse point")
}

// Entries lists a folder: the names in its root node, and in the blocks of
// the tree below. All are walked, in the order in which they are stored.
func (n *node) Entries() iter.Seq2[guestfs.Entry, error] {
	return func(yield func(guestfs.Entry, error) bool) {
		if err := n.entries(yield); err != nil {
			yield(guestfs.Entry{}, err)
		}
	}
}

func (n *node) entries(yield func(guestfs.Entry, error) bool) error {
	if !n.info.Mode.IsDir() {
		return guestfs.Corrupt("record %d is no folder", n.id)
	}
	root, err := n.open(attrRoot, "$I30")
	if err != nil {
		return err
	}
	if len(root.value) < 32 {
		return guestfs.Corrupt("record %d: no root of names", n.id)
	}
	block := int64(le.Uint32(root.value[8:]))
	todo, goOn, err := n.names(root.value[16:], yield)
	if err != nil || !goOn || len(todo) == 0 {
		return err
	}
	if block < 512 || block > 65536 || block&(block-1) != 0 {
		return guestfs.Corrupt("record %d: blocks of names of %d bytes", n.id, block)
	}
	index, err := n.open(attrIndex, "$I30")
	if err != nil {
		return err
	}
	unit := n.f.cluster // what a block's number counts
	if n.f.cluster > block {
		unit = 512
	}
	seen := map[uint64]bool{}
	b := make([]byte, block)
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[v] || v > uint64(index.size/unit) {
			return guestfs.Corrupt("record %d: block %d of names twice, or beyond the end", n.id, v)
		}
		seen[v] = true
		if k, err := index.ReadAt(b, int64(v)*unit); k < len(b) {
			return err
		}
		if err := n.f.fixup(b, "INDX"); err != nil {
			return err
		}
		more, goOn, err := n.names(b[24:], yield)
		if err != nil || !goOn {
			return err
		}
		todo = append(todo, more...)
	}
	return nil
}

// names yields those of one node of the tree, and returns the nodes below.
func (n *node) names(b []byte, yield func(guestfs.Entry, error) bool) (below []uint64, goOn bool, err error) {
	at, end := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
	if end > uint64(len(b)) || at > end {
		return nil, false, guestfs.Corrupt("record %d: names from %d to %d", n.id, at, end)
	}
	for b = b[at:end]; len(b) >= 16; {
		size, key, flags := int(le.Uint16(b[8:])), int(le.Uint16(b[10:])), le.Uint16(b[12:])
		if size < 16 || size > len(b) || 16+key > size || flags&1 != 0 && size < 24 {
			return nil, false, guestfs.Corrupt("record %d: an entry of %d bytes", n.id, size)
		}
		if flags&1 != 0 {
			below = append(below, le.Uint64(b[size-8:]))
		}
		if flags&2 != 0 {
			break
		}
		k := b[16 : 16+key]
		if len(k) < 66 || 66+2*int(k[64]) > len(k) {
			return nil, false, guestfs.Corrupt("record %d: a name of %d bytes", n.id, len(k))
		}
		const dos = 2 // the short name beside a long one
		if name := text(k[66 : 66+2*int(k[64])]); k[65] != dos && name != "." {
			e := guestfs.Entry{Name: name, ID: le.Uint64(b) & (1<<48 - 1)}
			switch f := le.Uint32(k[56:]); {
			case f&0x400 != 0:
				e.Type = fs.ModeIrregular
			case f&0x10000000 != 0:
				e.Type = fs.ModeDir
			}
			if !yield(e, nil) {
				return nil, false, nil
			}
		}
		b = b[size:]
	}
	return below, true, nil
}

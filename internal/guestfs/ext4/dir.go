package ext4

import (
	"io/fs"
	"iter"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Entries lists a folder. The index of a large folder looks like unused
// entries, so the blocks are read one after the other.
func (n *node) Entries() iter.Seq2[guestfs.Entry, error] {
	return func(yield func(guestfs.Entry, error) bool) {
		if !n.info.Mode.IsDir() {
			yield(guestfs.Entry{}, guestfs.Corrupt("inode %d is no folder", n.id))
			return
		}
		if n.flags&flagEncrypt != 0 {
			yield(guestfs.Entry{}, guestfs.Unsupported("inode %d is encrypted", n.id))
			return
		}
		if n.flags&flagInline != 0 {
			whole := n.inline()
			// The parent's number stands in place of "." and "..".
			if n.entries(whole[4:60], yield) {
				n.entries(whole[60:], yield)
			}
			return
		}
		b := make([]byte, n.f.block)
		for off := int64(0); off < n.info.Size; off += n.f.block {
			e, err := n.run(uint64(off / n.f.block))
			if err == nil && e.hole {
				err = guestfs.Corrupt("inode %d: a folder with a hole", n.id)
			}
			if err == nil {
				_, err = n.piece(b, off)
			}
			if err != nil {
				yield(guestfs.Entry{}, err)
				return
			}
			if !n.entries(b, yield) {
				return
			}
		}
	}
}

// entries yields those of one block, and reports whether to go on.
func (n *node) entries(b []byte, yield func(guestfs.Entry, error) bool) bool {
	types := [8]fs.FileMode{fs.ModeIrregular, 0, fs.ModeDir, fs.ModeDevice | fs.ModeCharDevice, fs.ModeDevice, fs.ModeNamedPipe, fs.ModeSocket, fs.ModeSymlink}
	for len(b) >= 8 {
		id, size, name, kind := le.Uint32(b), int(le.Uint16(b[4:])), int(b[6]), b[7]
		if n.f.block >= 65536 { // 65536 does not fit
			switch size &= 0xffff; {
			case size == 0 || size == 65535:
				size = len(b)
			default:
				size = size&0xfffc | size&3<<16
			}
		}
		if n.f.incompat&featFiletype == 0 {
			kind = 0
		}
		if size < 8 || size > len(b) || id != 0 && 8+name > size {
			yield(guestfs.Entry{}, guestfs.Corrupt("inode %d: an entry of %d bytes, its name of %d", n.id, size, name))
			return false
		}
		if s := string(b[8 : 8+min(name, size-8)]); id != 0 && s != "." && s != ".." {
			e := guestfs.Entry{Name: s, ID: uint64(id), Type: types[kind&7]}
			if !yield(e, nil) {
				return false
			}
		}
		b = b[size:]
	}
	return true
}

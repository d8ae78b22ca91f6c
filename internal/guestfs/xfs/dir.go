package xfs

import (
	"io/fs"
	"iter"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// leafOffset is where the names' index begins in a folder's address space.
const leafOffset = 1 << 35

var kinds = [8]fs.FileMode{fs.ModeIrregular, 0, fs.ModeDir, fs.ModeDevice | fs.ModeCharDevice, fs.ModeDevice, fs.ModeNamedPipe, fs.ModeSocket, fs.ModeSymlink}

// Entries lists a folder: from the inode, or from the blocks of names that
// lie before the index.
func (n *node) Entries() iter.Seq2[guestfs.Entry, error] {
	return func(yield func(guestfs.Entry, error) bool) {
		if !n.info.Mode.IsDir() {
			yield(guestfs.Entry{}, guestfs.Corrupt("inode %d is no folder", n.id))
			return
		}
		if n.form == formLocal {
			n.short(yield)
			return
		}
		b := make([]byte, n.f.dirBlock)
		for off := int64(0); off < min(n.info.Size, leafOffset); off += n.f.dirBlock {
			e, err := n.extent(uint64(off / n.f.block))
			if err == nil && e.hole { // a block of names that were all deleted
				end := int64(e.logical+e.count) * n.f.block
				off = max(off, end/n.f.dirBlock*n.f.dirBlock-n.f.dirBlock)
				continue
			}
			for at := 0; err == nil && at < len(b); {
				var k int
				k, err = n.piece(b[at:], off+int64(at))
				at += k
			}
			if err != nil {
				yield(guestfs.Entry{}, err)
				return
			}
			if !n.block(b, yield) {
				return
			}
		}
	}
}

// short yields the names that are kept within the inode.
func (n *node) short(yield func(guestfs.Entry, error) bool) {
	b := n.fork[:min(n.info.Size, int64(len(n.fork)))]
	bad := func() { yield(guestfs.Entry{}, guestfs.Corrupt("inode %d: names within", n.id)) }
	if len(b) < 6 {
		bad()
		return
	}
	count, wide := int(b[0]), 4
	if b[1] > 0 { // numbers of eight bytes
		count, wide = int(max(b[0], b[1])), 8
	}
	b = b[min(len(b), 2+wide):]
	for range count {
		if len(b) < 3 {
			bad()
			return
		}
		size := 3 + int(b[0]) + wide
		if n.f.ftype {
			size++
		}
		if size > len(b) {
			bad()
			return
		}
		e := guestfs.Entry{Name: string(b[3 : 3+b[0]]), Type: fs.ModeIrregular}
		if n.f.ftype {
			e.Type = kinds[b[3+b[0]]&7]
		}
		if wide == 8 {
			e.ID = be.Uint64(b[size-8:])
		} else {
			e.ID = uint64(be.Uint32(b[size-4:]))
		}
		if !yield(e, nil) {
			return
		}
		b = b[size:]
	}
}

// block yields the names of one block, and reports whether to go on.
func (n *node) block(b []byte, yield func(guestfs.Entry, error) bool) bool {
	bad := func(what string) bool {
		yield(guestfs.Entry{}, guestfs.Corrupt("inode %d: %s", n.id, what))
		return false
	}
	header := 16
	if n.f.v5 {
		header = 64
	}
	end := len(b)
	switch string(b[:4]) {
	case "XD2D", "XDD3":
	case "XD2B", "XDB3": // the only block: the index is at its end
		index := uint64(be.Uint32(b[len(b)-8:])) * 8
		if index > uint64(len(b)-8-header) {
			return bad("an index larger than its block")
		}
		end = len(b) - 8 - int(index)
	default:
		return bad("a block without names")
	}
	for b = b[header:end]; len(b) >= 16; {
		if be.Uint16(b) == 0xffff { // free
			size := int(be.Uint16(b[2:]))
			if size < 8 || size > len(b) {
				return bad("free space of a wrong size")
			}
			b = b[size:]
			continue
		}
		name := int(b[8])
		size := 9 + name + 2
		if n.f.ftype {
			size++
		}
		size = (size + 7) &^ 7
		if name == 0 || size > len(b) {
			return bad("a name longer than its block")
		}
		e := guestfs.Entry{Name: string(b[9 : 9+name]), ID: be.Uint64(b), Type: fs.ModeIrregular}
		if n.f.ftype {
			e.Type = kinds[b[9+name]&7]
		}
		if e.Name != "." && e.Name != ".." && !yield(e, nil) {
			return false
		}
		b = b[size:]
	}
	return true
}

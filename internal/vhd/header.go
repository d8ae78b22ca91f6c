package vhd

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode/utf16"

	"github.com/google/uuid"
)

// Offsets in the dynamic header, whose numbers are big-endian.
const (
	offNext       = 8 // reserved for a further header: all ones
	offTable      = 16
	offHeaderV    = 24
	offEntries    = 28
	offBlockSize  = 32
	offHeaderSum  = 36
	offParentID   = 40
	offParentTime = 56
	offParentName = 64 // UTF-16, big-endian
	offLocators   = 576

	headerSize   = 1024
	headerCookie = "cxsparse"
	nameSize     = 512
	locators     = 8
	locatorSize  = 24
)

// maxPath is the longest path that a locator may hold, in bytes: what Windows
// allows, 32,767 units of UTF-16.
const maxPath = 2 * 32767

// Locator says where a differencing disk's parent is, and which one it is. Its
// names are foreign text: a path in it is a claim of whoever wrote the image, and
// to open it as it is gives that file's content to whoever reads the disk.
type Locator struct {
	ID   uuid.UUID // of the parent
	Time time.Time // when the parent's file was written last; zero: unknown
	Name string    // of the parent's file, without a folder
	// Relative and Absolute are paths in the form of Windows, "" where the image
	// has none. Relative is so to the child's folder.
	Relative, Absolute string
}

// Codes of locators, of which an image may have others too.
const (
	codeRelative = "W2ru" // UTF-16, little-endian
	codeAbsolute = "W2ku"
)

// header is the dynamic header, as far as it is used.
type header struct {
	table   int64 // where the block allocation table is
	entries uint32
	block   uint32 // bytes
	parent  Locator
	places  [locators]place
}

// place is where a parent's locator is in the file.
type place struct {
	code   string // "" for an empty one
	off    int64
	length uint32 // bytes of the path
	space  int64  // bytes that are its own
}

func (h header) bytes() []byte {
	b := make([]byte, headerSize)
	copy(b, headerCookie)
	be.PutUint64(b[offNext:], noData)
	be.PutUint64(b[offTable:], uint64(h.table))
	be.PutUint32(b[offHeaderV:], version)
	be.PutUint32(b[offEntries:], h.entries)
	be.PutUint32(b[offBlockSize:], h.block)
	copy(b[offParentID:], h.parent.ID[:])
	be.PutUint32(b[offParentTime:], stamp(h.parent.Time))
	for i, u := range utf16.Encode([]rune(h.parent.Name)) {
		be.PutUint16(b[offParentName+2*i:], u)
	}
	for i, p := range h.places {
		l := b[offLocators+i*locatorSize:]
		copy(l, p.code)
		be.PutUint32(l[4:], uint32(p.space/sector))
		be.PutUint32(l[8:], p.length)
		be.PutUint64(l[16:], uint64(p.off))
	}
	be.PutUint32(b[offHeaderSum:], checksum(b, offHeaderSum))
	return b
}

// parseHeader reads the header that stands at off of a file of so many bytes.
// What it says of regions lies within the file.
func parseHeader(b []byte, off, size int64) (header, error) {
	switch {
	case string(b[:8]) != headerCookie:
		return header{}, corrupt(off, "no cookie %q", headerCookie)
	case be.Uint32(b[offHeaderSum:]) != checksum(b, offHeaderSum):
		return header{}, corrupt(off, "the dynamic header's checksum does not match")
	case be.Uint32(b[offHeaderV:])>>16 != version>>16:
		return header{}, unsupported("a dynamic header of version %#x", be.Uint32(b[offHeaderV:]))
	}
	h := header{entries: be.Uint32(b[offEntries:]), block: be.Uint32(b[offBlockSize:])}
	if err := checkBlock(h.block); err != nil {
		return header{}, err
	}
	table := be.Uint64(b[offTable:])
	if table%sector != 0 || !within(table, tableBytes(h.entries), size) {
		return header{}, corrupt(off+offTable, "a table of %d entries at %d in a file of %d bytes", h.entries, table, size)
	}
	h.table = int64(table)
	copy(h.parent.ID[:], b[offParentID:])
	if s := be.Uint32(b[offParentTime:]); s != 0 {
		h.parent.Time = stamped(s)
	}
	h.parent.Name = text(b[offParentName:offParentName+nameSize], be)
	for i := range h.places {
		at := offLocators + i*locatorSize
		l := b[at : at+locatorSize]
		if be.Uint32(l) == 0 {
			continue
		}
		p := place{code: string(l[:4]), length: be.Uint32(l[8:]), space: int64(be.Uint32(l[4:]))}
		// The space is in sectors, but some writers give it in bytes.
		if p.space < sector {
			p.space *= sector
		}
		p.space = max(p.space, int64(p.length))
		where := be.Uint64(l[16:])
		if !within(where, p.space, size) {
			return header{}, corrupt(off+int64(at), "a locator of %d bytes at %d in a file of %d bytes", p.space, where, size)
		}
		p.off = int64(where)
		h.places[i] = p
	}
	return h, nil
}

// checkBlock refuses sizes of blocks that are none, and some that nobody uses.
func checkBlock(n uint32) error {
	if n < minBlock || n > maxBlock || n&(n-1) != 0 {
		return unsupported("blocks of %d bytes: want a power of two from %d to %d", n, minBlock, maxBlock)
	}
	return nil
}

// within tells whether [off, off+n) lies in a file of so many bytes.
func within(off uint64, n, size int64) bool {
	return off <= math.MaxInt64 && n >= 0 && int64(off) <= size && n <= size-int64(off)
}

// text is UTF-16 up to a zero.
func text(b []byte, order binary.ByteOrder) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := order.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// littleEndian is the form of a path behind a locator.
func littleEndian(path string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(path)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// readPaths reads the paths of a differencing disk's parent.
func (h *header) readPaths(f File) error {
	for _, p := range h.places {
		var to *string
		switch p.code {
		case codeRelative:
			to = &h.parent.Relative
		case codeAbsolute:
			to = &h.parent.Absolute
		default:
			continue
		}
		if p.length > maxPath {
			return corrupt(p.off, "a parent's path of %d bytes", p.length)
		}
		b := make([]byte, p.length)
		if err := readFull(f, b, p.off); err != nil {
			return err
		}
		*to = text(b, binary.LittleEndian)
	}
	return nil
}

// setPaths plans where the parent's paths go, from off on, and returns them and
// where they end.
func (h *header) setPaths(off int64) (paths map[int64][]byte, end int64, err error) {
	if n := len(utf16.Encode([]rune(h.parent.Name))); n > nameSize/2-1 {
		return nil, 0, unsupported("a parent's name of %d characters", n)
	}
	paths = map[int64][]byte{}
	i := 0
	for _, l := range []struct{ code, path string }{{codeRelative, h.parent.Relative}, {codeAbsolute, h.parent.Absolute}} {
		b := littleEndian(l.path)
		if len(b) > maxPath {
			return nil, 0, unsupported("a parent's path of %d bytes", len(b))
		}
		if len(b) == 0 {
			continue
		}
		p := place{code: l.code, off: off, length: uint32(len(b)), space: roundUp(int64(len(b)), sector)}
		paths[off] = append(b, make([]byte, p.space-int64(len(b)))...)
		h.places[i] = p
		off += p.space
		i++
	}
	return paths, off, nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// describe is for errors.
func (l Locator) describe() string {
	return fmt.Sprintf("%.200q (%s)", l.Name, l.ID)
}

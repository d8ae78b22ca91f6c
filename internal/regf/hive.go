package regf

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"unicode/utf16"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	base       = 4096 // bytes before the first bin
	maxCell    = 1 << 20
	maxData    = 16 << 20
	maxSubkeys = 1 << 20
	maxValues  = 1 << 16
)

var le = binary.LittleEndian

// Hive is an open hive. It is safe for concurrent use if its reader is.
type Hive struct {
	r    io.ReaderAt
	size int64 // of the bins
	root uint32
	// Dirty: Windows had not finished writing it. What is in its logs comes
	// on top when the guest starts.
	Dirty bool
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: hive: %s", dr.ErrCorrupt, fmt.Sprintf(format, args...))
}

// Open reads the header of a hive of size bytes.
func Open(r io.ReaderAt, size int64) (*Hive, error) {
	var b [512]byte
	if n, err := r.ReadAt(b[:], 0); n < len(b) {
		if err == nil || err == io.EOF {
			err = corrupt("%d bytes are too few", size)
		}
		return nil, err
	}
	if string(b[:4]) != "regf" {
		return nil, corrupt("no header")
	}
	if major := le.Uint32(b[20:]); major != 1 {
		return nil, fmt.Errorf("%w: hive of version %d", dr.ErrUnsupported, major)
	}
	sum := uint32(0)
	for i := 0; i < 508; i += 4 {
		sum ^= le.Uint32(b[i:])
	}
	switch sum {
	case 0:
		sum = 1
	case 0xffffffff:
		sum = 0xfffffffe
	}
	h := &Hive{r: r, root: le.Uint32(b[36:]), size: min(int64(le.Uint32(b[40:])), size-base)}
	h.Dirty = le.Uint32(b[4:]) != le.Uint32(b[8:]) || le.Uint32(b[508:]) != sum
	return h, nil
}

// cell reads an allocated cell, at least n bytes of it.
func (h *Hive) cell(at uint32, n int) ([]byte, error) {
	if int64(at) > h.size-4 {
		return nil, corrupt("cell at %d is beyond the end", at)
	}
	var head [4]byte
	if k, err := h.r.ReadAt(head[:], base+int64(at)); k < 4 {
		return nil, err
	}
	size := -int64(int32(le.Uint32(head[:]))) - 4
	if size < int64(n) || size > maxCell || size > h.size-4-int64(at) {
		return nil, corrupt("cell at %d has %d bytes", at, size)
	}
	b := make([]byte, size)
	if k, err := h.r.ReadAt(b, base+int64(at)+4); k < len(b) {
		return nil, err
	}
	return b, nil
}

// Key is a key of a hive.
type Key struct {
	h    *Hive
	Name string
	b    []byte
}

// Root is the hive's topmost key.
func (h *Hive) Root() (*Key, error) { return h.key(h.root) }

func (h *Hive) key(at uint32) (*Key, error) {
	b, err := h.cell(at, 76)
	if err != nil {
		return nil, err
	}
	n := int(le.Uint16(b[72:]))
	if string(b[:2]) != "nk" || 76+n > len(b) {
		return nil, corrupt("no key at %d", at)
	}
	return &Key{h, name(b[76:76+n], le.Uint16(b[2:])&0x20 != 0), b}, nil
}

// name is Latin-1 or UTF-16.
func name(b []byte, latin bool) string {
	if !latin {
		return text(b)
	}
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func text(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// Key finds a key below the root by its path, such as `Select` or
// `ControlSet001\Services\vmbus`, without regard to case. fs.ErrNotExist:
// there is none.
func (h *Hive) Key(path string) (*Key, error) {
	k, err := h.Root()
	for part := range strings.SplitSeq(path, `\`) {
		if err != nil {
			return nil, err
		}
		k, err = k.child(part)
	}
	return k, err
}

func (k *Key) child(name string) (*Key, error) {
	for c, err := range k.Keys() {
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(c.Name, name) {
			return c, nil
		}
	}
	return nil, fs.ErrNotExist
}

// Keys yields the keys below. An error ends the sequence.
func (k *Key) Keys() iter.Seq2[*Key, error] {
	return func(yield func(*Key, error) bool) {
		if n := le.Uint32(k.b[20:]); n > maxSubkeys {
			yield(nil, corrupt("key %q has %d keys", k.Name, n))
		} else if n > 0 {
			left := int(n)
			k.list(le.Uint32(k.b[28:]), 0, &left, yield)
		}
	}
}

// list yields what a list of keys names, and reports whether to go on.
func (k *Key) list(at uint32, depth int, left *int, yield func(*Key, error) bool) bool {
	b, err := k.h.cell(at, 4)
	if err != nil {
		yield(nil, err)
		return false
	}
	step := 8
	switch string(b[:2]) {
	case "lf", "lh":
	case "li":
		step = 4
	case "ri":
		step = 4
		if depth > 0 {
			yield(nil, corrupt("lists of lists of keys"))
			return false
		}
	default:
		yield(nil, corrupt("no list of keys at %d", at))
		return false
	}
	n := int(le.Uint16(b[2:]))
	if 4+n*step > len(b) {
		yield(nil, corrupt("list of %d keys at %d", n, at))
		return false
	}
	for i := range n {
		to := le.Uint32(b[4+i*step:])
		if string(b[:2]) == "ri" {
			if !k.list(to, depth+1, left, yield) {
				return false
			}
			continue
		}
		if *left--; *left < 0 {
			yield(nil, corrupt("key %q has more keys than it says", k.Name))
			return false
		}
		c, err := k.h.key(to)
		if !yield(c, err) || err != nil {
			return false
		}
	}
	return true
}

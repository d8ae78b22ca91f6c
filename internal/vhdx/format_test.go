package vhdx

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// bend opens an image after fn changed its bytes; checksums of headers and
// region tables are made right again.
func bend(t testing.TB, image []byte, fn func(b []byte), readOnly bool) error {
	t.Helper()
	b := bytes.Clone(image)
	fn(b)
	for off, n := range map[int]int{headerAt0: headerSize, headerAt1: headerSize, regionAt0: regionTableSize, regionAt1: regionTableSize} {
		if len(b) >= off+n {
			seal(b[off:][:n])
		}
	}
	f := &memFile{}
	_, err := f.WriteAt(b, 0)
	require.NoError(t, err)
	d, err := Open(f, OpenOptions{ReadOnly: readOnly})
	if err == nil {
		_ = d.Close()
	}
	return err
}

// Each lie is refused, by its kind.
func TestRefused(t *testing.T) {
	plain, child, dirty := small(t, false, false), small(t, true, false), small(t, false, true)
	both := func(off int, b []byte, put func(b []byte)) {
		put(b[headerAt0+off:])
		put(b[headerAt1+off:])
	}
	u16 := func(v uint16) func([]byte) { return func(b []byte) { le.PutUint16(b, v) } }
	u32 := func(v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b, v) } }
	u64 := func(v uint64) func([]byte) { return func(b []byte) { le.PutUint64(b, v) } }
	regions := func(off int, b []byte, put func(b []byte)) {
		put(b[regionAt0+off:])
		put(b[regionAt1+off:])
	}
	row := func(n int) int { return createMetadataAt + 32 + 32*n } // of the metadata table
	const items = createMetadataAt + metadataTableSize
	locator := func(b []byte) []byte { return b[items+48:] }
	first := entry(le.Uint64(plain[createBATAt:])).off()
	require.NotZero(t, first)
	childBlock := entry(le.Uint64(child[createBATAt:]))
	require.Equal(t, statePartial, childBlock.state())
	logAt := createLogAt

	for _, c := range []struct {
		name  string
		image []byte
		fn    func(b []byte)
		kind  error
	}{
		{"signature", plain, func(b []byte) { b[0] ^= 1 }, ErrFormat},
		{"both headers", plain, func(b []byte) { both(0, b, u32(0)) }, ErrFormat},
		{"the same sequence twice", plain, func(b []byte) { both(8, b, u64(7)); b[headerAt0+100] ^= 1 }, ErrCorrupt},
		{"version", plain, func(b []byte) { both(66, b, u16(2)) }, ErrUnsupported},
		{"log version", dirty, func(b []byte) { both(64, b, u16(1)) }, ErrUnsupported},
		{"log size", plain, func(b []byte) { both(68, b, u32(4096)) }, ErrCorrupt},
		{"huge log", plain, func(b []byte) { both(68, b, u32(512*mib)) }, ErrUnsupported},
		{"log behind the end", plain, func(b []byte) { both(72, b, u64(64*mib)) }, ErrCorrupt},
		{"log far behind the end", plain, func(b []byte) { both(72, b, u64(1<<63)) }, ErrCorrupt},
		{"log over the headers", plain, func(b []byte) { both(72, b, u64(0)) }, ErrCorrupt},
		{"region tables", plain, func(b []byte) { regions(0, b, u32(0)) }, ErrCorrupt},
		{"region count", plain, func(b []byte) { regions(8, b, u32(3000)) }, ErrCorrupt},
		{"no metadata region", plain, func(b []byte) { regions(8, b, u32(1)) }, ErrCorrupt},
		{"unknown region", plain, func(b []byte) { regions(16, b, u32(1)) }, ErrUnsupported},
		{"region behind the end", plain, func(b []byte) { regions(16+16, b, u64(1<<40)) }, ErrCorrupt},
		{"region out of place", plain, func(b []byte) { regions(16+16, b, u64(createBATAt+512)) }, ErrCorrupt},
		{"regions overlap", plain, func(b []byte) { regions(16+16, b, u64(createMetadataAt)) }, ErrCorrupt},
		{"region over the log", plain, func(b []byte) { regions(16+16, b, u64(createLogAt)) }, ErrCorrupt},
		{"region of nothing", plain, func(b []byte) { regions(16+24, b, u32(0)) }, ErrCorrupt},
		{"region twice", plain, func(b []byte) { copy(b[regionAt0+48:], b[regionAt0+16:][:16]) }, ErrCorrupt},
		{"metadata signature", plain, func(b []byte) { b[createMetadataAt] ^= 1 }, ErrCorrupt},
		{"metadata count", plain, func(b []byte) { le.PutUint16(b[createMetadataAt+10:], 3000) }, ErrCorrupt},
		{"metadata missing", plain, func(b []byte) { le.PutUint16(b[createMetadataAt+10:], 4) }, ErrCorrupt},
		{"unknown metadata", plain, func(b []byte) { b[row(4)] ^= 1 }, ErrUnsupported},
		{"unknown user metadata", plain, func(b []byte) { le.PutUint32(b[row(4)+24:], flagUser|flagRequired) }, ErrUnsupported},
		{"metadata before its place", plain, func(b []byte) { le.PutUint32(b[row(1)+16:], 16) }, ErrCorrupt},
		{"metadata behind its region", plain, func(b []byte) { le.PutUint32(b[row(1)+16:], mib-4) }, ErrCorrupt},
		{"metadata length", plain, func(b []byte) { le.PutUint32(b[row(1)+20:], 4) }, ErrCorrupt},
		{"metadata overlaps", plain, func(b []byte) { le.PutUint32(b[row(1)+16:], metadataTableSize) }, ErrCorrupt},
		{"metadata twice", plain, func(b []byte) { copy(b[row(3):], b[row(4):][:16]) }, ErrCorrupt},
		{"block size", plain, func(b []byte) { le.PutUint32(b[items:], 3*mib) }, ErrCorrupt},
		{"block size 0", plain, func(b []byte) { le.PutUint32(b[items:], 0) }, ErrCorrupt},
		{"disk size", plain, func(b []byte) { le.PutUint64(b[items+8:], 1<<62) }, ErrCorrupt},
		{"disk size 0", plain, func(b []byte) { le.PutUint64(b[items+8:], 0) }, ErrCorrupt},
		{"disk of half a sector", plain, func(b []byte) { le.PutUint64(b[items+8:], 3*mib+256) }, ErrCorrupt},
		{"BAT too short", plain, func(b []byte) { le.PutUint64(b[items+8:], 1<<40) }, ErrCorrupt},
		{"logical sector", plain, func(b []byte) { le.PutUint32(b[items+32:], 1024) }, ErrCorrupt},
		{"physical sector", plain, func(b []byte) { le.PutUint32(b[items+40:], 0) }, ErrCorrupt},
		{"parent without locator", plain, func(b []byte) { b[items+4] |= paramParent }, ErrCorrupt},
		{"locator type", child, func(b []byte) { locator(b)[0] ^= 1 }, ErrUnsupported},
		{"locator entries", child, func(b []byte) { le.PutUint16(locator(b)[18:], 1000) }, ErrCorrupt},
		{"locator key", child, func(b []byte) { le.PutUint32(locator(b)[20:], 1<<31) }, ErrCorrupt},
		{"locator without linkage", child, func(b []byte) { locator(b)[20+24] ^= 1 }, ErrCorrupt},
		{"state of a block", plain, func(b []byte) { b[createBATAt] = 5 }, ErrCorrupt},
		{"partial without a parent", plain, func(b []byte) { b[createBATAt] |= statePartial }, ErrCorrupt},
		{"block behind the end", plain, func(b []byte) { le.PutUint64(b[createBATAt:], uint64(makeEntry(stateFull, 1<<40))) }, ErrCorrupt},
		{"block far behind the end", plain, func(b []byte) { le.PutUint64(b[createBATAt:], 1<<64-2) }, ErrCorrupt},
		{"block over the headers", plain, func(b []byte) { le.PutUint64(b[createBATAt:], stateFull) }, ErrCorrupt},
		{"block over the log", plain, func(b []byte) { le.PutUint64(b[createBATAt:], uint64(makeEntry(stateFull, createLogAt))) }, ErrCorrupt},
		{"block over the BAT", plain, func(b []byte) { le.PutUint64(b[createBATAt:], uint64(makeEntry(stateFull, createBATAt))) }, ErrCorrupt},
		{"two blocks at a place", plain, func(b []byte) { copy(b[createBATAt+8:], b[createBATAt:][:8]) }, ErrCorrupt},
		{"partial without a bitmap", child, func(b []byte) { clear(b[createBATAt+8*4096:][:8]) }, ErrCorrupt},
		{"state of a bitmap", child, func(b []byte) { b[createBATAt+8*4096] = stateZero }, ErrCorrupt},
		{"bitmap over its block", child, func(b []byte) { le.PutUint64(b[createBATAt+8*4096:], uint64(childBlock&^7|stateFull)) }, ErrCorrupt},
		{"log without an entry", dirty, func(b []byte) { clear(b[logAt:][:page]) }, ErrCorrupt},
		{"torn log", dirty, func(b []byte) { b[logAt+page+50] ^= 1 }, ErrCorrupt},
		{"log of another disk", dirty, func(b []byte) { both(48, b, u64(1)) }, ErrCorrupt},
		{"log knows a longer file", dirty, func(b []byte) { le.PutUint64(b[logAt+48:], 1<<30); seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"log knows a huge file", dirty, func(b []byte) { le.PutUint64(b[logAt+56:], 1<<62); seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"log changes the headers", dirty, func(b []byte) { le.PutUint64(b[logAt+64+16:], headerAt0); seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"log changes itself", dirty, func(b []byte) { le.PutUint64(b[logAt+64+16:], createLogAt+page); seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"log changes what isn't there", dirty, func(b []byte) { le.PutUint64(b[logAt+64+16:], 1<<40); seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"log changes half a page", dirty, func(b []byte) { le.PutUint64(b[logAt+64+16:], createBATAt+512); seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"descriptor of another entry", dirty, func(b []byte) { le.PutUint64(b[logAt+64+24:], 9); seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"data of another entry", dirty, func(b []byte) { b[logAt+page+4] = 9; seal(b[logAt:][:2*page]) }, ErrCorrupt},
		{"tail in nothing", dirty, func(b []byte) { le.PutUint32(b[logAt+12:], 16*page); seal(b[logAt:][:2*page]) }, ErrCorrupt},
	} {
		for _, readOnly := range []bool{true, false} {
			require.NoError(t, bend(t, c.image, func([]byte) {}, readOnly), c.name)
			err := bend(t, c.image, c.fn, readOnly)
			require.ErrorIs(t, err, c.kind, "%s, only to be read: %v", c.name, readOnly)
		}
	}
	for _, n := range []int{0, 10, 64 * kib, mib - 1, mib, 3 * mib, len(plain) - 1} {
		f := &memFile{}
		_, err := f.WriteAt(plain[:n], 0)
		require.NoError(t, err)
		_, err = Open(f, OpenOptions{ReadOnly: true})
		require.Error(t, err, "%d bytes", n)
		requireKind(t, err)
	}
}

// One good header, and one good region table, are enough.
func TestOneOfTwo(t *testing.T) {
	image := small(t, false, false)
	for _, broken := range []int{headerAt0, headerAt1, regionAt0, regionAt1} {
		f := &memFile{}
		b := bytes.Clone(image)
		b[broken+40] ^= 0x10
		_, err := f.WriteAt(b, 0)
		require.NoError(t, err)
		d, err := Open(f, OpenOptions{})
		require.NoError(t, err, "%d", broken)
		got := make([]byte, 10)
		_, err = d.ReadAt(got, 700_000)
		require.NoError(t, err)
		require.Equal(t, "some bytes", string(got))
	}
}

// A log of several entries that goes round its end, with zeros in it, is replayed
// in its order; what was torn behind its head, and what is older than its tail,
// is not.
func TestLogOfManyEntries(t *testing.T) {
	image := small(t, false, false)
	image = append(image, make([]byte, 4*mib)...)
	where := int64(len(image)) - 3*mib // behind everything: what is put there shows what was replayed
	fill := func(v byte) *[page]byte {
		p := new([page]byte)
		for i := range p {
			p[i] = v
		}
		return p
	}
	id := NewGUID()
	size := int64(len(image))
	put := func(at int64, raw []byte) int64 {
		for i, c := range raw {
			image[createLogAt+(at+int64(i))%mib] = c
		}
		return (at + int64(len(raw))) % mib
	}
	tail := int64(mib - 5*page)
	old := encodeEntry(id, 5, uint32(tail-4*page), size, []change{{where + 5*page, fill(5)}})
	put(tail-int64(len(old)), old) // before the tail
	at := put(tail, encodeEntry(id, 6, uint32(tail), size, []change{{where, fill(1)}, {where + page, fill(2)}}))
	zero := encodeEntry(id, 7, uint32(tail), size, []change{{where + page, fill(0)}})
	copy(zero[logHeader:], "zero")
	le.PutUint64(zero[logHeader+8:], 2*page)
	le.PutUint32(zero[8:], page) // no data
	zero = zero[:page]
	seal(zero)
	at = put(at, zero)
	at = put(at, encodeEntry(id, 8, uint32(tail), size, []change{{where + 2*page, fill(3)}, {where + 3*page, fill(4)}}))
	torn := encodeEntry(id, 9, uint32(tail), size, []change{{where, fill(9)}})
	torn[page+9] ^= 1
	at = put(at, torn)
	// And one behind the torn one, that is whole but relies on it.
	put(at, encodeEntry(id, 10, uint32(tail), size, []change{{where, fill(9)}}))

	for _, readOnly := range []bool{true, false} {
		f := &memFile{}
		b := bytes.Clone(image)
		h, slot, err := readHeader(ReaderFile(byteReader(b), size))
		require.NoError(t, err)
		h.logGUID = id
		copy(b[headerAt0+slot*headerAt0:], h.encode())
		_, err = f.WriteAt(b, 0)
		require.NoError(t, err)
		d, err := Open(f, OpenOptions{ReadOnly: readOnly})
		require.NoError(t, err)
		got := make([]byte, 6*page)
		require.NoError(t, d.medium.read(got, where))
		for i, v := range []byte{1, 0, 3, 4, 0, 0} {
			require.Equal(t, bytes.Repeat([]byte{v}, page), got[i*page:][:page], "page %d, read only %v", i, readOnly)
		}
		if !readOnly {
			h, _, err := readHeader(f)
			require.NoError(t, err)
			require.Equal(t, GUID{}, h.logGUID)
		}
	}
}

func TestGUID(t *testing.T) {
	g, err := ParseGUID("{2dc27766-F623-4200-9D64-115E9BFD4A08}")
	require.NoError(t, err)
	require.Equal(t, regionBAT, g)
	require.Equal(t, "2DC27766-F623-4200-9D64-115E9BFD4A08", g.String())
	require.Equal(t, byte(0x66), g[0])
	for range 100 {
		g := NewGUID()
		back, err := ParseGUID(g.String())
		require.NoError(t, err)
		require.Equal(t, g, back)
	}
	for _, s := range []string{"", "{}", "2dc27766F62342009D64115E9BFD4A08", "{2dc27766-F623-4200-9D64-115E9BFD4A0}",
		"2dc27766-F623-4200-9D64-115E9BFD4AXX", "2dc27766-F623-42009D64--115E9BFD4A08"} {
		_, err := ParseGUID(s)
		require.Error(t, err, "%q", s)
	}
}

func TestLocatorText(t *testing.T) {
	l := Locator{Linkage: NewGUID(), Linkage2: NewGUID(), Relative: `.\Über disk.vhdx`, Absolute: `C:\disks\😀.vhdx`,
		Volume: `\\?\Volume{x}\b.vhdx`, others: [][2]string{{"of somebody", "else"}}}
	raw, err := l.encode()
	require.NoError(t, err)
	back, err := parseLocator(raw, 0)
	require.NoError(t, err)
	require.Equal(t, l, back)
	l.Relative = string(make([]byte, 40_000))
	_, err = l.encode()
	require.Error(t, err)
	_, err = parseLocator(nil, 0)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestGeometry(t *testing.T) {
	for _, c := range []struct {
		geometry
		blocks, chunk, entries int64
	}{
		{geometry{100 * mib, 32 * mib, 512, false}, 4, 128, 4},
		{geometry{100 * mib, 2 * mib, 512, true}, 50, 2048, 2049},
		{geometry{4096*mib + 512, mib, 512, false}, 4097, 4096, 4098},
		{geometry{4096 * mib, mib, 512, false}, 4096, 4096, 4096},
		{geometry{MaxSize, mib, 512, true}, 64 * mib, 4096, 64*mib + 16384},
		{geometry{MaxSize, 256 * mib, 4096, true}, 256 * kib, 128, 256*kib + 2048},
	} {
		name := fmt.Sprintf("%+v", c.geometry)
		require.Equal(t, c.blocks, c.geometry.blocks(), name)
		require.Equal(t, c.chunk, c.geometry.chunk(), name)
		require.Equal(t, c.entries, c.geometry.entries(), name)
	}
}

var _ io.ReaderAt = (*Disk)(nil)
var _ io.WriterAt = (*Disk)(nil)

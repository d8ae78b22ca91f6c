package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zlib"
	"github.com/stretchr/testify/require"
)

// stream makes images by hand, broken ones mostly.
type stream struct {
	b      bytes.Buffer
	h      header
	table  [tableEntries]uint32
	tables []uint32
}

func begin(capacity uint64, change func(h *header)) *stream {
	s := &stream{h: header{
		version: 3, flags: flagNewlines | flagCompressed | flagMarkers, capacity: capacity, grain: 128,
		tableEntries: tableEntries, directoryAt: directoryAtEnd, before: 2, compression: deflate,
	}}
	if change != nil {
		change(&s.h)
	}
	s.b.Write(s.h.append(nil))
	for s.b.Len() < int(s.h.before)*sector {
		s.b.WriteByte(0)
	}
	return s
}

func (s *stream) sector() uint32 { return uint32(s.b.Len() / sector) }

func (s *stream) pad() {
	s.b.Write(make([]byte, sectors(int64(s.b.Len()))*sector-int64(s.b.Len())))
}

func (s *stream) marker(length uint64, kind uint32, data ...byte) *stream {
	var m [sector]byte
	binary.LittleEndian.PutUint64(m[:], length)
	binary.LittleEndian.PutUint32(m[12:], kind)
	s.b.Write(m[:])
	s.b.Write(data)
	s.pad()
	return s
}

func (s *stream) raw(lba uint64, packed []byte) *stream {
	s.table[lba/s.h.grain%tableEntries] = s.sector()
	var head [grainHeader]byte
	binary.LittleEndian.PutUint64(head[:], lba)
	binary.LittleEndian.PutUint32(head[8:], uint32(len(packed)))
	s.b.Write(head[:])
	s.b.Write(packed)
	s.pad()
	return s
}

func packed(p []byte) []byte {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(p)
	w.Close()
	return z.Bytes()
}

func (s *stream) grain(lba uint64, length int) *stream {
	return s.raw(lba, packed(bytes.Repeat([]byte{'x'}, length)))
}

func (s *stream) closeTable() *stream {
	s.tables = append(s.tables, s.sector()+1)
	var b []byte
	for _, at := range s.table {
		b = binary.LittleEndian.AppendUint32(b, at)
	}
	return s.marker(4, markTable, b...)
}

func (s *stream) directory() *stream {
	var b []byte
	for i := range s.h.tables() {
		at := uint32(0)
		if int(i) < len(s.tables) {
			at = s.tables[i]
		}
		b = binary.LittleEndian.AppendUint32(b, at)
	}
	s.h.directoryAt = uint64(s.sector() + 1)
	return s.marker(uint64(s.h.directorySectors()), markDirectory, b...)
}

func (s *stream) footer() *stream { return s.marker(1, markFooter, s.h.append(nil)...) }
func (s *stream) end() *stream    { return s.marker(0, markEnd) }

// finish is what follows the grains of an image.
func (s *stream) finish() *stream { return s.closeTable().directory().footer().end() }

const g = grainBytes

func TestAcceptsWhatOthersMayWrite(t *testing.T) {
	for name, s := range map[string]*stream{
		"as it should be":                 begin(256, nil).grain(0, g).grain(128, g).finish(),
		"progress markers":                begin(256, nil).marker(0, markProgress).grain(128, g).marker(0, markProgress).finish(),
		"a last grain that is cut":        begin(129, nil).grain(0, g).grain(128, sector).finish(),
		"a last grain that is long":       begin(129, nil).grain(0, g).grain(128, g).finish(),
		"small grains":                    begin(64, func(h *header) { h.grain = 8 }).grain(0, 4096).finish(),
		"large grains":                    begin(4096, func(h *header) { h.grain = 2048 }).grain(2048, 1<<20).finish(),
		"nothing":                         begin(256, nil).directory().footer().end(),
		"an empty table":                  begin(256, nil).closeTable().directory().footer().end(),
		"no capacity":                     begin(0, nil).directory().footer().end(),
		"no capacity, as qemu-img has it": begin(0, func(h *header) { h.before, h.directoryAt = 4, 1 }),
		"version 1, other newlines":       begin(1, func(h *header) { h.version, h.flags = 1, flagCompressed|flagMarkers }).finish(),
		"bytes behind a zlib stream": begin(128, nil).raw(0, append(packed(make([]byte, g)), "more"...)).
			finish(),
		"a directory ahead that can't be followed, and an end": begin(128, func(h *header) { h.before, h.directoryAt = 9, 2 }).grain(0, g).end(),
	} {
		t.Run(name, func(t *testing.T) {
			_, r, err := read(bytes.NewReader(s.b.Bytes()))
			require.NoError(t, err)
			require.EqualValues(t, s.b.Len(), r.Consumed())
		})
	}
}

func TestRefuses(t *testing.T) {
	flipped := packed(bytes.Repeat([]byte("ab"), g/2))
	flipped[len(flipped)-1] ^= 1 // of the checksum
	lost := func() *stream {     // a grain that the table names doesn't come
		s := begin(256, nil).grain(0, g)
		s.table[1] = s.sector()
		return s.finish()
	}
	moved := func() *stream {
		s := begin(256, nil).grain(0, g)
		s.table[0]++
		return s.finish()
	}
	footer := func(change func(h *header)) *stream {
		s := begin(256, nil).grain(0, g).closeTable().directory()
		change(&s.h)
		return s.footer().end()
	}
	descriptor := func(text string) *stream {
		s := begin(0, func(h *header) { h.descriptorAt, h.descriptorSize, h.before = 1, 1, 2 })
		copy(s.b.Bytes()[sector:], text)
		return s.directory().footer().end()
	}
	headed := func(change func(h *header)) *stream { return begin(256, change) }
	for _, c := range []struct {
		name, says string
		s          *stream
	}{
		{"a grain beyond the disk", "sector 256 of a disk of 256", begin(256, nil).grain(256, g).finish()},
		{"a grain far beyond", "of a disk of 256", begin(256, nil).grain(1<<63, g).finish()},
		{"a grain inside another", "inside another", begin(256, nil).grain(1, g).finish()},
		{"a grain twice", "after one at or behind it", begin(256, nil).grain(0, g).grain(0, g).finish()},
		{"descending grains", "after one at or behind it", begin(256, nil).grain(128, g).grain(0, g).finish()},
		{"a short grain", "has 65024 bytes only", begin(256, nil).grain(0, g-sector).finish()},
		{"a last grain too short", "has 512 bytes only", begin(130, nil).grain(128, sector).finish()},
		{"a long grain", "more than 65536 bytes", begin(256, nil).grain(0, g+1).finish()},
		{"a bomb", "more than 65536 bytes", begin(256, nil).grain(0, 64<<20).finish()},
		{"a grain of 4 GiB compressed", "4294967295 bytes compressed", func() *stream {
			s := begin(256, nil).end()
			binary.LittleEndian.PutUint32(s.b.Bytes()[2*sector+8:], 1<<32-1)
			return s
		}()},
		{"no zlib", "sector 0 of the disk: ", begin(256, nil).raw(0, []byte("not zlib")).finish()},
		{"a zlib stream that is cut", "sector 0 of the disk: ", begin(256, nil).raw(0, flipped[:20]).finish()},
		{"a wrong checksum", "checksum", begin(256, nil).raw(0, flipped).finish()},
		{"a lost grain", "lacks 1 of the grains that its tables name", lost()},
		{"a grain without a table", "tables lack 1 of the grains", begin(256, nil).grain(0, g).directory().footer().end()},
		{"a grain elsewhere", "other grains", moved()},
		{"a lost table", "lacks 1 of the tables", func() *stream {
			s := begin(256, nil)
			s.tables = []uint32{2}
			return s.directory().footer().end()
		}()},
		{"a table nowhere", "table at sector 4000", func() *stream {
			s := begin(256, nil)
			s.tables = []uint32{4000}
			return s.directory().footer().end()
		}()},
		{"a table of other length", "table of 5 sectors", begin(256, nil).marker(5, markTable, make([]byte, 5*sector)...)},
		{"a directory of other length", "directory of 4294967296 sectors", begin(256, nil).marker(1<<32, markDirectory)},
		{"two directories", "type 2 and length 1 after one of type 2", begin(256, nil).directory().directory()},
		{"a grain after the directory", "after the directory", begin(256, nil).directory().grain(0, g)},
		{"a table after the directory", "type 1", begin(256, nil).directory().closeTable()},
		{"a footer without directory", "type 3", begin(256, nil).footer()},
		{"a footer of two sectors", "footer of 2", begin(256, nil).directory().marker(2, markFooter)},
		{"a footer that is none", "footer: ", begin(256, nil).directory().marker(1, markFooter, make([]byte, sector)...)},
		{"a footer of another size", "capacity 128", footer(func(h *header) { h.capacity = 128 })},
		{"a footer with a directory elsewhere", "directory at 3", footer(func(h *header) { h.directoryAt = 3 })},
		{"an end without a footer", "type 0", begin(256, nil).grain(0, g).end()},
		{"an end after the directory", "type 0", begin(256, nil).directory().end()},
		{"an end with a length", "length 1", begin(256, nil).directory().footer().marker(1, markEnd)},
		{"an unknown marker", "type 5", begin(256, nil).marker(0, 5)},
		{"a progress marker with data", "type 4", begin(256, nil).marker(1, markProgress)},
		{"a parent", `parent is "cafe"`, descriptor("CID=1\nparentCID=cafe\n")},
		{"another version", "version 4", headed(func(h *header) { h.version = 4 })},
		{"no compression", "compression 0", headed(func(h *header) { h.compression = 0 })},
		{"no markers", "flags 0x1,", headed(func(h *header) { h.flags = 1 })},
		{"an absurd capacity", "capacity of", begin(MaxCapacity/sector+1, nil)},
		{"absurd grains", "grains of 4096 ", headed(func(h *header) { h.grain = 4096 })},
		{"odd grains", "grains of 100 ", headed(func(h *header) { h.grain = 100 })},
		{"no grains", "grains of 0 ", headed(func(h *header) { h.grain = 0 })},
		{"small tables", "tables of 4 ", headed(func(h *header) { h.tableEntries = 4 })},
		{"no room for itself", "first grain is at sector 0", headed(func(h *header) { h.before = 0 })},
		{"an absurd descriptor", "descriptor of 129", headed(func(h *header) { h.before, h.descriptorAt, h.descriptorSize = 500, 1, 129 })},
		{"a descriptor among the grains", "descriptor of 4 sectors", headed(func(h *header) { h.descriptorAt, h.descriptorSize = 1, 4 })},
		{"another file", `begins with "QFI`, func() *stream { s := &stream{}; s.b.WriteString("QFI\xfb" + string(make([]byte, 508))); return s }()},
		{"changed newlines", "as text", func() *stream { s := headed(nil); s.b.Bytes()[75] = '\n'; return s }()},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, r, err := read(bytes.NewReader(c.s.b.Bytes()))
			require.ErrorIs(t, err, ErrFormat)
			require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
			require.ErrorContains(t, err, c.says)
			require.Regexp(t, `before byte \d+ of the stream`, err.Error())
			if r != nil { // an error stays
				for _, again := range r.Extents() {
					require.Equal(t, err, again)
				}
			}
		})
	}
}

// Every prefix of an image is an error, and says that it is one.
func TestCutShort(t *testing.T) {
	whole := begin(300, nil).grain(0, g).grain(128, g).finish().b.Bytes()
	for n := 0; n < len(whole); n += 1 + (n+7)%sector/8 {
		_, _, err := read(bytes.NewReader(whole[:n]))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d of %d", n, len(whole))
	}
	_, _, err := read(bytes.NewReader(whole))
	require.NoError(t, err)
}

// One flipped bit is an error or changes nothing that is read.
func TestFlippedBits(t *testing.T) {
	plain := bytes.Repeat([]byte("some text. "), 2*g/11+1)[:2*g]
	whole := image(t, plain, Options{})
	for i := range whole {
		if i > 3*sector && i < grainBytes && i%997 > 0 || testing.Short() && i%29 > 0 { // zeros after the descriptor
			continue
		}
		bad := bytes.Clone(whole)
		bad[i] ^= 1 << (i % 8)
		if got, _, err := read(bytes.NewReader(bad)); err == nil {
			require.True(t, bytes.Equal(plain, got), "byte %d of the stream", i)
		}
	}
}

func TestErrorsOfTheStreamAreGivenOn(t *testing.T) {
	broken := errors.New("connection reset")
	whole := begin(300, nil).grain(0, g).grain(128, g).finish().b.Bytes()
	for n := 0; n < len(whole); n += 100 {
		_, _, err := read(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken)))
		require.ErrorIs(t, err, broken)
		require.NotErrorIs(t, err, ErrFormat)
	}
	_, _, err := read(iotest.OneByteReader(iotest.DataErrReader(bytes.NewReader(whole))))
	require.NoError(t, err)
}

func TestExtentsGoOnAfterABreak(t *testing.T) {
	plain := make([]byte, 5*g+sector)
	copy(plain[g:], bytes.Repeat([]byte{1}, g))
	copy(plain[3*g:], bytes.Repeat([]byte{2}, 2*g))
	r, err := NewReader(bytes.NewReader(image(t, plain, Options{})))
	require.NoError(t, err)
	var got []string
	for range 100 {
		for e, err := range r.Extents() {
			require.NoError(t, err)
			got = append(got, fmt.Sprint(e.Off/sector, "+", e.Len/sector, " ", e.Data != nil))
			break
		}
	}
	require.Equal(t, []string{"0+128 false", "128+128 true", "256+128 false", "384+128 true", "512+128 true", "640+1 false"}, got)
}

// Memory doesn't depend on what a header claims, nor on the disk.
func TestMemoryIsBounded(t *testing.T) {
	allocated := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	hostile := (&header{
		version: 3, flags: flagCompressed | flagMarkers, capacity: MaxCapacity / sector, grain: MaxGrain / sector,
		descriptorAt: 1, descriptorSize: maxDescriptor, tableEntries: tableEntries, directoryAt: 200, before: 1 << 32, compression: deflate,
	}).append(nil)
	require.Less(t, allocated(func() {
		_, _, err := read(bytes.NewReader(hostile))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}), uint64(256<<10))

	small, large := image(t, disk(1, 2<<20), Options{}), image(t, disk(1, 12<<20), Options{})
	drain := func(b []byte) func() {
		return func() {
			r, err := NewReader(bytes.NewReader(b))
			require.NoError(t, err)
			for _, err := range r.Extents() {
				require.NoError(t, err)
			}
		}
	}
	require.Less(t, allocated(drain(large)), allocated(drain(small))+128<<10)
}

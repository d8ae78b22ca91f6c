package vhd

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// sample is a dynamic image of four small blocks, of which two are there.
func sample(t testing.TB) []byte {
	f := newMemory(nil)
	d := create(t, f, Options{Size: 4 * minBlock, BlockSize: minBlock, ID: uuid.UUID{1}})
	write(t, d, []byte("first"), 0)
	write(t, d, []byte("third"), 2*minBlock)
	require.NoError(t, d.Close())
	return f.bytes()
}

// sampleChild is a child of such an image.
func sampleChild(t testing.TB) []byte {
	f := newMemory(nil)
	p := open(t, newMemory(sample(t)), OpenOptions{ReadOnly: true})
	d := create(t, f, Options{Parent: p, BlockSize: minBlock, ID: uuid.UUID{2}, ParentRelative: `.\p.vhd`, ParentAbsolute: `C:\p.vhd`})
	write(t, d, []byte("child"), 100)
	require.NoError(t, d.Close())
	return f.bytes()
}

// Where things are in the sample.
const (
	headerAt = sector
	tableAt  = sector + headerSize
)

// sums makes the checksums right again after an edit.
func sums(b []byte) []byte {
	foots := [][]byte{b[:FooterSize]}
	if len(b) >= 2*FooterSize {
		foots = append(foots, b[len(b)-FooterSize:])
	}
	for _, f := range foots {
		if string(f[:8]) == cookie {
			be.PutUint32(f[offChecksum:], checksum(f, offChecksum))
		}
	}
	for at := 0; at+headerSize <= len(b); at += sector {
		if h := b[at : at+headerSize]; string(h[:8]) == headerCookie {
			be.PutUint32(h[offHeaderSum:], checksum(h, offHeaderSum))
		}
	}
	return b
}

// both edits the footer and its copy.
func both(b []byte, edit func(foot []byte)) {
	edit(b[:FooterSize])
	edit(b[len(b)-FooterSize:])
}

func TestBrokenImagesAreRefused(t *testing.T) {
	size := uint64(len(sample(t)))
	for name, c := range map[string]struct {
		edit func(b []byte)
		want error
	}{
		"a type that there is not": {func(b []byte) { both(b, func(f []byte) { be.PutUint32(f[offType:], 5) }) }, ErrFormat},
		"version 2":                {func(b []byte) { both(b, func(f []byte) { be.PutUint32(f[offVersion:], 0x20000) }) }, ErrFormat},
		"no byte":                  {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offCurrent:], 0) }) }, ErrFormat},
		"half a sector":            {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offCurrent:], 100) }) }, ErrFormat},
		"8 EiB":                    {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offCurrent:], 1<<63) }) }, ErrFormat},
		"more blocks than entries": {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offCurrent:], 5*minBlock) }) }, ErrCorrupt},
		"too large for the kind":   {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offCurrent:], MaxDynamic+512) }) }, ErrUnsupported},
		"too many blocks":          {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offCurrent:], MaxDynamic) }) }, ErrUnsupported},
		"a copy of another disk":   {func(b []byte) { b[offID]++ }, ErrCorrupt},
		"a copy of another size":   {func(b []byte) { be.PutUint64(b[offCurrent:], 2*minBlock) }, ErrCorrupt},
		"a copy of another kind":   {func(b []byte) { be.PutUint32(b[offType:], uint32(Differencing)) }, ErrCorrupt},
		"a fixed one that is cut": {func(b []byte) {
			f := b[len(b)-FooterSize:]
			be.PutUint32(f[offType:], 2)
			be.PutUint64(f[offCurrent:], size)
		}, ErrCorrupt},
		"only the copy, of a fixed one":     {func(b []byte) { clear(b[len(b)-FooterSize:]); be.PutUint32(b[offType:], 2) }, ErrFormat},
		"a header in the footer":            {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offData:], 0) }) }, ErrCorrupt},
		"a header behind the end":           {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offData:], size-600) }) }, ErrCorrupt},
		"a header nowhere":                  {func(b []byte) { both(b, func(f []byte) { be.PutUint64(f[offData:], noData) }) }, ErrCorrupt},
		"no header":                         {func(b []byte) { b[headerAt]++ }, ErrCorrupt},
		"a header of version 2":             {func(b []byte) { be.PutUint32(b[headerAt+offHeaderV:], 0x20000) }, ErrUnsupported},
		"a table behind the end":            {func(b []byte) { be.PutUint64(b[headerAt+offTable:], size) }, ErrCorrupt},
		"a table nowhere":                   {func(b []byte) { be.PutUint64(b[headerAt+offTable:], math.MaxUint64-511) }, ErrCorrupt},
		"a table beside the sectors":        {func(b []byte) { be.PutUint64(b[headerAt+offTable:], tableAt+4) }, ErrCorrupt},
		"a table in the header":             {func(b []byte) { be.PutUint64(b[headerAt+offTable:], headerAt+512) }, ErrCorrupt},
		"a table in a block":                {func(b []byte) { be.PutUint32(b[headerAt+offEntries:], 129) }, ErrCorrupt},
		"a table that no file has room for": {func(b []byte) { be.PutUint32(b[headerAt+offEntries:], math.MaxUint32) }, ErrCorrupt},
		"blocks of no bytes":                {func(b []byte) { be.PutUint32(b[headerAt+offBlockSize:], 0) }, ErrUnsupported},
		"blocks of a sector and a half":     {func(b []byte) { be.PutUint32(b[headerAt+offBlockSize:], 3<<20) }, ErrUnsupported},
		"blocks of 2 GiB":                   {func(b []byte) { be.PutUint32(b[headerAt+offBlockSize:], 1<<31) }, ErrUnsupported},
		"a block in the footer":             {func(b []byte) { be.PutUint32(b[tableAt:], 0) }, ErrCorrupt},
		"a block in the table":              {func(b []byte) { be.PutUint32(b[tableAt:], tableAt/sector) }, ErrCorrupt},
		"a block behind the end":            {func(b []byte) { be.PutUint32(b[tableAt:], unused-1) }, ErrCorrupt},
		"a block that the file cuts":        {func(b []byte) { be.PutUint32(b[tableAt:], be.Uint32(b[tableAt+8:])+1) }, ErrCorrupt},
		"a block twice":                     {func(b []byte) { copy(b[tableAt:], b[tableAt+8:tableAt+12]) }, ErrCorrupt},
		"two blocks that overlap":           {func(b []byte) { be.PutUint32(b[tableAt+4:], be.Uint32(b[tableAt:])+1) }, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b := sample(t)
			c.edit(b)
			_, err := Open(newMemory(sums(b)), OpenOptions{})
			require.ErrorIs(t, err, c.want)
		})
	}
}

func TestBrokenChildrenAreRefused(t *testing.T) {
	size := uint64(len(sampleChild(t)))
	parent := open(t, newMemory(sample(t)), OpenOptions{})
	locator := func(b []byte, i int) []byte { return b[headerAt+offLocators+i*locatorSize:] }
	for name, c := range map[string]struct {
		edit func(b []byte)
		want error
	}{
		"nothing":                    {func([]byte) {}, nil},
		"room in bytes":              {func(b []byte) { be.PutUint32(locator(b, 0)[4:], 512) }, nil},
		"a path behind the end":      {func(b []byte) { be.PutUint64(locator(b, 0)[16:], size-10) }, ErrCorrupt},
		"a path nowhere":             {func(b []byte) { be.PutUint64(locator(b, 0)[16:], noData) }, ErrCorrupt},
		"a path that has no end":     {func(b []byte) { be.PutUint32(locator(b, 0)[8:], math.MaxUint32) }, ErrCorrupt},
		"a path in the table":        {func(b []byte) { be.PutUint64(locator(b, 0)[16:], tableAt) }, ErrCorrupt},
		"two paths in one place":     {func(b []byte) { copy(locator(b, 0)[16:24], locator(b, 1)[16:24]) }, ErrCorrupt},
		"another parent":             {func(b []byte) { b[headerAt+offParentID]++ }, ErrParentChanged},
		"a block in a path":          {func(b []byte) { be.PutUint32(b[tableAt+4:], uint32(be.Uint64(locator(b, 0)[16:])/sector)) }, ErrCorrupt},
		"a code that nobody knows":   {func(b []byte) { copy(locator(b, 0), "Mac ") }, nil},
		"a suspended machine's disk": {func(b []byte) { both(b, func(f []byte) { f[offSaved] = 1 }) }, ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			b := sampleChild(t)
			c.edit(b)
			_, err := Open(newMemory(sums(b)), OpenOptions{Parent: with(parent)})
			require.ErrorIs(t, err, c.want)
		})
	}
}

// What the machine of a saved state relies on can be read.
func TestASavedStateIsRead(t *testing.T) {
	b := sample(t)
	both(b, func(f []byte) { f[offSaved] = 1 })
	open(t, newMemory(sums(b)), OpenOptions{ReadOnly: true})
}

// A torn footer is made anew, whichever it is, and only in a file that may be
// written.
func TestOneFooterIsEnough(t *testing.T) {
	whole := sample(t)
	want := content(t, open(t, newMemory(whole), OpenOptions{}))
	for name, edit := range map[string]func(b []byte) []byte{
		"end torn":       func(b []byte) []byte { b[len(b)-100]++; return b },
		"end cut":        func(b []byte) []byte { return b[:len(b)-FooterSize] },
		"end cut in two": func(b []byte) []byte { return b[:len(b)-300] },
		"copy torn":      func(b []byte) []byte { b[300]++; return b },
		"copy gone":      func(b []byte) []byte { clear(b[:FooterSize]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			b := edit(bytes.Clone(whole))
			f := newMemory(b)
			requireContent(t, want, open(t, f, OpenOptions{ReadOnly: true}), "to read")
			require.Equal(t, b, f.bytes())
			d := open(t, f, OpenOptions{})
			requireContent(t, want, d, "to write")
			got := f.bytes()
			require.Equal(t, whole[:FooterSize], got[:FooterSize])
			require.Equal(t, whole[:FooterSize], got[len(got)-FooterSize:])
			require.Zero(t, len(got)%sector)
			write(t, d, []byte("more"), minBlock)
			require.NoError(t, d.Close())
			open(t, f, OpenOptions{})
		})
	}
}

// The guest of a fixed disk may write a dynamic image into its disk; the disk
// stays what it is.
func TestAFixedDisksGuestCantChangeItsKind(t *testing.T) {
	f := newMemory(nil)
	d := create(t, f, Options{Size: 64 << 10, Fixed: true})
	forged := sample(t)
	write(t, d, forged, 0)
	require.NoError(t, d.Close())
	d = open(t, f, OpenOptions{ReadOnly: true})
	require.Equal(t, Fixed, d.Kind())
	require.Equal(t, forged, content(t, d)[:len(forged)])
}

// A bit that isn't set is a sector of zeros, whatever lies there.
func TestABitmapIsObeyed(t *testing.T) {
	b := sample(t)
	at := int64(be.Uint32(b[tableAt:])) * sector
	clear(b[at : at+sector])
	d := open(t, newMemory(b), OpenOptions{})
	require.Equal(t, make([]byte, minBlock), content(t, d)[:minBlock])
	write(t, d, []byte("x"), 1000)
	want := make([]byte, minBlock)
	want[1000] = 'x'
	require.Equal(t, want, content(t, d)[:minBlock])
	require.NoError(t, d.Close())
}

func TestAnEmptyFileIsNoImage(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 4096} {
		_, err := Open(newMemory(make([]byte, n)), OpenOptions{})
		require.ErrorIs(t, err, ErrFormat)
	}
}

// FuzzOpen reads and writes whatever opens.
func FuzzOpen(f *testing.F) {
	f.Add(sample(f), false)
	f.Add(sampleChild(f), true)
	fixed := newMemory(nil)
	require.NoError(f, create(f, fixed, Options{Size: 4096, Fixed: true}).Close())
	f.Add(fixed.bytes(), false)
	f.Add([]byte(cookie), true)
	parent := sample(f)
	f.Fuzz(func(t *testing.T, b []byte, resum bool) {
		if resum {
			// Else hardly any change gets past the checksums.
			b = bytes.Clone(b)
			if len(b) >= FooterSize {
				sums(b)
			}
		}
		m := newMemory(b)
		o := OpenOptions{Parent: func(Locator) (*Disk, error) { return Open(newMemory(parent), OpenOptions{ReadOnly: true}) }}
		d, err := Open(m, o)
		if err != nil {
			for _, known := range []error{ErrFormat, ErrCorrupt, ErrUnsupported, ErrParentChanged, ErrNoParent, io.ErrUnexpectedEOF} {
				if errors.Is(err, known) {
					return
				}
			}
			require.NoError(t, err)
		}
		n := min(d.Size(), 1<<20)
		want := make([]byte, n)
		_, err = d.ReadAt(want, 0)
		require.NoError(t, err)
		for _, off := range []int64{0, n / 2, d.Size() - 1} {
			write(t, d, []byte{1}, off)
			if off < n {
				want[off] = 1
			}
		}
		require.NoError(t, d.Zero(n/3, n/3))
		clear(want[n/3 : n/3+n/3])
		require.NoError(t, d.Close())
		d = open(t, m, o)
		got := make([]byte, n)
		_, err = d.ReadAt(got, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	})
}

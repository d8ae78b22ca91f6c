package vhdx

import (
	"errors"
	"io"
	"testing"
)

// small is an image that fuzzing starts from: the first bytes of one, as the
// rest may be zeros.
func small(t testing.TB, diff, dirty bool) []byte {
	t.Helper()
	var f, base memFile
	o := Options{Size: 3 * mib, BlockSize: mib}
	if diff {
		parent, err := Create(&base, o)
		if err != nil {
			t.Fatal(err)
		}
		o.Parent, o.ParentRelative = parent, "base.vhdx"
	}
	d, err := Create(&f, o)
	if err == nil {
		_, err = d.WriteAt([]byte("some bytes"), 700_000)
	}
	if err == nil {
		err = d.Flush()
	}
	if err == nil && !dirty {
		err = d.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, f.size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// parts are the parts of a file that matter, which is what a fuzzer can change
// at once. Checksums are made right.
type parts struct {
	header, region, log, meta, items, bat []byte
}

var partPlaces = []struct{ off, len int64 }{
	{headerAt0, 96}, {regionAt0, 112}, {createLogAt, 4 * page}, {createMetadataAt, 32 * 7},
	{createMetadataAt + metadataTableSize, 400}, {createBATAt, 64},
}

func (p *parts) list() []*[]byte {
	return []*[]byte{&p.header, &p.region, &p.log, &p.meta, &p.items, &p.bat}
}

func take(image []byte) (p parts) {
	for i, b := range p.list() {
		*b = image[partPlaces[i].off:][:partPlaces[i].len]
	}
	return p
}

// put makes a sparse file of size bytes.
func (p parts) put(size int64) *memFile {
	f := &memFile{}
	write := func(b []byte, off int64) { _, _ = f.WriteAt(b, off) }
	write(identifier(), 0)
	for i, b := range p.list() {
		write((*b)[:min(len(*b), int(4*partPlaces[i].len))], partPlaces[i].off)
	}
	for off, n := range map[int64]int64{headerAt0: headerSize, regionAt0: regionTableSize} {
		b := make([]byte, n)
		_, _ = f.ReadAt(b, off)
		seal(b)
		write(b, off)
	}
	// Each log entry that names its length.
	log := make([]byte, 64*kib)
	_, _ = f.ReadAt(log, createLogAt)
	for at := int64(0); at < int64(len(log)); at += page {
		if n := int64(le.Uint32(log[at+8:])); string(log[at:][:4]) == "loge" && n >= logHeader && n <= int64(len(log))-at {
			seal(log[at:][:n])
		}
	}
	write(log, createLogAt)
	_ = f.Truncate(size)
	return f
}

// FuzzOpen: any file is an error of a kind that says why, or a disk whose bytes
// can all be asked for, and written.
func FuzzOpen(f *testing.F) {
	for _, diff := range []bool{false, true} {
		for _, dirty := range []bool{false, true} {
			b := small(f, diff, dirty)
			p := take(b)
			f.Add(p.header, p.region, p.log, p.meta, p.items, p.bat, uint32(len(b)))
		}
	}
	f.Fuzz(func(t *testing.T, header, region, log, meta, items, bat []byte, size uint32) {
		p := parts{header, region, log, meta, items, bat}
		size %= 64 * mib
		for _, readOnly := range []bool{true, false} {
			d, err := Open(p.put(int64(size)), OpenOptions{ReadOnly: readOnly})
			if err != nil {
				requireKind(t, err)
				continue
			}
			exercise(t, d)
		}
	})
}

func requireKind(t *testing.T, err error) {
	t.Helper()
	for _, kind := range []error{ErrFormat, ErrUnsupported, ErrCorrupt, ErrNoParent} {
		if errors.Is(err, kind) {
			return
		}
	}
	t.Fatal("an error of no kind:", err)
}

// exercise asks for what a disk has, without going over terabytes of nothing.
func exercise(t *testing.T, d *Disk) {
	buf := make([]byte, 100_000)
	at := int64(0)
	for r, err := range d.Allocated(0, min(d.Size(), 1<<30)) {
		if err != nil {
			requireKind(t, err)
			return
		}
		if r.Off != at || r.Len <= 0 {
			t.Fatal("a gap or overlap at", at)
		}
		at += r.Len
		n, err := d.ReadAt(buf[:min(r.Len, int64(len(buf)))], r.Off)
		if err != nil {
			requireKind(t, err)
		} else if n == 0 {
			t.Fatal("read nothing at", r.Off)
		}
	}
	if _, err := d.ReadAt(buf, d.Size()-1); err != io.EOF && err != nil {
		requireKind(t, err)
	}
	if d.readOnly {
		return
	}
	for _, off := range []int64{0, d.Size() / 2, d.Size() - 10} {
		want := []byte("0123456789")
		if _, err := d.WriteAt(want, off); err != nil {
			requireKind(t, err)
			continue
		}
		got := make([]byte, 10)
		if _, err := d.ReadAt(got, off); err != nil || string(got) != string(want) {
			t.Fatalf("%q at %d: %v", got, off, err)
		}
	}
	if err := d.Close(); err != nil {
		requireKind(t, err)
		return
	}
	if _, err := Open(d.medium.File, OpenOptions{}); err != nil {
		t.Fatal("what was written doesn't open:", err)
	}
}

// FuzzLog: whatever a log holds is replayed in memory or refused.
func FuzzLog(f *testing.F) {
	b := small(f, false, true)
	h, _, err := readHeader(ReaderFile(byteReader(b), int64(len(b))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[createLogAt:][:3*page], uint8(0))
	two := append(append([]byte{}, b[createLogAt:][:2*page]...), encodeEntry(h.logGUID, 2, 0, 0, []change{{createBATAt, new([page]byte)}})...)
	f.Add(two, uint8(1))
	f.Fuzz(func(t *testing.T, log []byte, turn uint8) {
		raw := make([]byte, mib)
		// Turned, so that entries go round the end.
		at := mib - int64(turn)*page
		for i, c := range log[:min(len(log), len(raw))] {
			raw[(at+int64(i))%mib] = c
		}
		whole := append(raw[at%mib:len(raw):len(raw)], raw[:at%mib]...)
		for i := int64(0); i+logHeader <= int64(len(whole)); i += page {
			if n := int64(le.Uint32(whole[i+8:])); string(whole[i:][:4]) == "loge" && n >= logHeader && n <= int64(len(whole))-i {
				seal(whole[i:][:n])
			}
		}
		for i := range whole {
			raw[(at+int64(i))%mib] = whole[i]
		}
		file := &memFile{}
		_, _ = file.WriteAt(b, 0)
		_, _ = file.WriteAt(raw, h.logAt)
		d, err := Open(file, OpenOptions{ReadOnly: true})
		if err != nil {
			requireKind(t, err)
			return
		}
		exercise(t, d)
	})
}

type byteReader []byte

func (b byteReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

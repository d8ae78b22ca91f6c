package vmdk

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzReader: any bytes are an error that says why, or a whole disk, whose extents
// pass checks.
func FuzzReader(f *testing.F) {
	f.Add(begin(256, nil).marker(0, markProgress).grain(0, g).finish().b.Bytes())
	f.Add(begin(8, func(h *header) { h.grain = 8 }).grain(0, 4096).finish().b.Bytes())
	f.Add(begin(0, nil).directory().footer().end().b.Bytes())
	// As qemu-img has it: the directory and its tables ahead, no end.
	ahead := begin(128, func(h *header) { h.before, h.directoryAt = 8, 1 })
	ahead.b.Bytes()[sector] = 2
	ahead.b.Bytes()[2*sector] = 8
	f.Add(ahead.grain(0, g).b.Bytes())
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := pass(bytes.NewReader(p), func(*Reader, Extent) {})
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal("an error of no kind:", err)
		}
		if r != nil && r.Consumed() > int64(len(p)) {
			t.Fatal(r.Consumed(), "of", len(p))
		}
	})
}

// FuzzWriter: whatever is written in whatever pieces is read again.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("some bytes"), uint32(5), uint16(3))
	f.Add(bytes.Repeat([]byte("ab"), 50_000), uint32(2*g-9), uint16(40_000))
	f.Fuzz(func(t *testing.T, p []byte, off uint32, cut uint16) {
		off %= 40 << 20
		p = p[:min(len(p), 1<<20)]
		want := make([]byte, (int(off)+len(p)+sector-1)/sector*sector)
		copy(want[off:], p)
		var b bytes.Buffer
		w, err := NewWriter(&b, Options{Capacity: int64(len(want))})
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(p); {
			n := min(len(p)-at, int(cut)+1)
			if _, err := w.WriteAt(p[at:][:n], int64(off)+int64(at)); err != nil {
				t.Fatal(err)
			}
			at += n
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		requireDisk(t, want, b.Bytes())
	})
}

package vhdx

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// layer is one file of a chain and what its disk must show.
type layer struct {
	file  File
	model []byte
	disk  *Disk
}

// history does random things to a chain of disks and to plain bytes.
type history struct {
	t       *testing.T
	rng     *rand.Rand
	layers  []*layer // the base first
	newFile func() File
}

func (h *history) top() *layer { return h.layers[len(h.layers)-1] }

func (h *history) create(o Options) {
	l := &layer{file: h.newFile(), model: make([]byte, o.Size)}
	if o.Parent != nil {
		l.model = bytes.Clone(h.top().model)
		l.model = append(l.model, make([]byte, max(0, int(o.Size)-len(l.model)))...)
	}
	var err error
	l.disk, err = Create(l.file, o)
	require.NoError(h.t, err)
	h.layers = append(h.layers, l)
}

func (h *history) reopen() {
	for i := len(h.layers) - 1; i >= 0; i-- {
		require.NoError(h.t, h.layers[i].disk.Close())
	}
	h.open()
}

func (h *history) open() {
	for i, l := range h.layers {
		o := OpenOptions{ReadOnly: i < len(h.layers)-1 && h.rng.IntN(2) == 0}
		if i > 0 {
			o.Parent = func(Locator) (*Disk, error) { return h.layers[i-1].disk, nil }
		}
		var err error
		l.disk, err = Open(l.file, o)
		require.NoError(h.t, err, "layer %d", i)
	}
}

// somewhere is a range of the disk: a few bytes or sectors, or many blocks.
func (h *history) somewhere(size int64) (off, n int64) {
	off = h.rng.Int64N(size)
	switch h.rng.IntN(4) {
	case 0:
		n = 1 + h.rng.Int64N(600)
	case 1:
		off = off / 4096 * 4096
		n = 4096 * (1 + h.rng.Int64N(16))
	case 2:
		n = 1 + h.rng.Int64N(300_000)
	case 3:
		off = off / mib * mib
		n = mib * (1 + h.rng.Int64N(2))
	}
	return off, min(n, size-off)
}

func (h *history) write() string {
	l := h.top()
	off, n := h.somewhere(int64(len(l.model)))
	if h.rng.IntN(4) == 0 {
		require.NoError(h.t, l.disk.Zero(off, n))
		clear(l.model[off:][:n])
		return fmt.Sprintf("zero %d at %d", n, off)
	}
	p := noise(h.rng, n)
	m, err := l.disk.WriteAt(p, off)
	require.NoError(h.t, err)
	require.EqualValues(h.t, n, m)
	copy(l.model[off:], p)
	return fmt.Sprintf("write %d at %d", n, off)
}

func noise(rng *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	v := rng.Uint64() | 1
	for i := range p {
		v = v*6364136223846793005 + 1442695040888963407
		p[i] = byte(v >> 56)
	}
	return p
}

func (h *history) check(what string) {
	for i, l := range h.layers {
		require.EqualValues(h.t, len(l.model), l.disk.Size(), what)
		requireShows(h.t, l.disk, l.model, "layer %d after %s", i, what)
	}
}

func requireShows(t testing.TB, d *Disk, want []byte, format string, args ...any) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := d.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	if i := differs(got, want); i >= 0 {
		t.Fatalf("byte %d of the disk: %s", i, fmt.Sprintf(format, args...))
	}
}

func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func TestRandomHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	for run := range 5 {
		h := &history{t: t, rng: rand.New(rand.NewPCG(seed, uint64(run))), newFile: func() File { return &memFile{} }}
		o := Options{BlockSize: mib << h.rng.IntN(3), LogicalSector: []uint32{512, 4096}[h.rng.IntN(2)], Fixed: h.rng.IntN(4) == 0}
		o.Size = mib*(1+h.rng.Int64N(5)) + 4096*h.rng.Int64N(300)
		h.create(o)
		for range 40 {
			what := ""
			switch h.rng.IntN(12) {
			case 0:
				what = "reopen"
				h.reopen()
			case 1:
				what = "flush"
				require.NoError(t, h.top().disk.Flush())
			case 2:
				if len(h.layers) < 4 {
					what = "child"
					o := Options{Parent: h.top().disk, BlockSize: mib << h.rng.IntN(3)}
					if h.rng.IntN(2) == 0 {
						o.Size = int64(len(h.top().model)) + 4096*h.rng.Int64N(300)
					}
					h.create(o)
				}
			case 3:
				l := h.top()
				size := int64(len(l.model)) + 4096*h.rng.Int64N(300)
				what = fmt.Sprintf("grow to %d", size)
				require.NoError(t, l.disk.Grow(size))
				l.model = append(l.model, make([]byte, size-int64(len(l.model)))...)
			case 4:
				if n := len(h.layers); n > 1 && !h.layers[n-2].disk.readOnly {
					what = "merge"
					require.NoError(t, h.top().disk.Merge())
					h.layers[n-2].model = bytes.Clone(h.top().model)
					h.check("merge, both still there")
					require.NoError(t, h.top().disk.Close())
					h.layers = h.layers[:n-1]
				}
			default:
				what = h.write()
			}
			h.check(what)
		}
	}
}

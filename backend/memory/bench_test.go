package memory_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A capture costs the map of what was written, whatever the disk's size.
func BenchmarkCapture(b *testing.B) {
	for _, pages := range []int64{16, 4096} {
		b.Run(fmt.Sprintf("1TiB/%d pages", pages), func(b *testing.B) {
			p := memory.New(memory.Options{})
			require.NoError(b, p.Add(machine("big", 1<<40)))
			for i := range pages {
				require.NoError(b, p.Write("big", "d0", []byte{1}, i*(1<<40/pages)))
			}
			b.ReportAllocs()
			for b.Loop() {
				img, err := p.Capture(b.Context(), "big", "p", dr.CrashConsistent)
				require.NoError(b, err)
				require.NoError(b, img.Close())
				require.NoError(b, p.Release(b.Context(), "big", "p"))
			}
		})
	}
}

func BenchmarkDraftWriteAt(b *testing.B) {
	const size = 64 << 20
	p := memory.New(memory.Options{})
	r, err := p.Prepare(b.Context(), backend.Placement{Key: "k", Machine: machine("m", size)})
	require.NoError(b, err)
	d, err := p.Draft(b.Context(), r.ID, dr.Point{ID: "p"})
	require.NoError(b, err)
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i) | 1
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		_, err := d.WriteAt(b.Context(), "d0", buf, off)
		require.NoError(b, err)
		off = (off + int64(len(buf))) % size
	}
}

func BenchmarkImageReadAt(b *testing.B) {
	const size = 64 << 20
	p := memory.New(memory.Options{})
	require.NoError(b, p.Add(machine("m", size)))
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = 1
	}
	for off := int64(0); off < size; off += int64(len(buf)) {
		require.NoError(b, p.Write("m", "d0", buf, off))
	}
	img, err := p.Capture(b.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(b, err)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		_, err := img.ReadAt(b.Context(), "d0", buf, off)
		require.NoError(b, err)
		off = (off + int64(len(buf))) % size
	}
}

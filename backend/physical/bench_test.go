package physical

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

const benchSize = 256 << 20

func benchHost(b *testing.B) *Host {
	b.Helper()
	dir := b.TempDir()
	path := filepath.Join(dir, "disk.raw")
	f, err := os.Create(path)
	require.NoError(b, err)
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for off := int64(0); off < benchSize; off += int64(len(p)) {
		_, err := f.WriteAt(p, off)
		require.NoError(b, err)
	}
	require.NoError(b, f.Sync())
	require.NoError(b, f.Close())
	h, err := Open(Config{Root: filepath.Join(dir, "root"), Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{{ID: "d", Path: path}}}}})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, h.Close()) })
	return h
}

func BenchmarkSums(b *testing.B) {
	img, err := benchHost(b).Capture(b.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(b, err)
	defer img.Close()
	sums := make([]dr.Sum, benchSize/dr.SumBlock)
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, img.(dr.Summer).Sums(b.Context(), "d", 0, sums))
	}
}

func BenchmarkRead(b *testing.B) {
	img, err := benchHost(b).Capture(b.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(b, err)
	defer img.Close()
	p := fsys.Aligned(1 << 20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		_, err := img.ReadAt(b.Context(), "d", p, off)
		require.NoError(b, err)
		off = (off + int64(len(p))) % benchSize
	}
}

func BenchmarkWrite(b *testing.B) {
	d, err := benchHost(b).Draft(b.Context(), "m", dr.Point{ID: "p"})
	require.NoError(b, err)
	defer d.Close()
	p := fsys.Aligned(1 << 20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		_, err := d.WriteAt(b.Context(), "d", p, off)
		require.NoError(b, err)
		off = (off + int64(len(p))) % benchSize
	}
}

func BenchmarkMark(b *testing.B) {
	t := NewBitmapTracker(0)
	_, err := t.Cut(b.Context(), "m")
	require.NoError(b, err)
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		t.Mark("m", "d", off, 4096)
		off = (off + 1<<20) % (1 << 40)
	}
}

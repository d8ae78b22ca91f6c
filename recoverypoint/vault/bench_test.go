package vault

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

const benchSize = 256 << 20

// benchDisk is 40 % zeros, 30 % log lines and 30 % random, a MiB each at a
// time.
func benchDisk() []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 4096)
	for i := range words {
		b := make([]byte, 3+rng.IntN(9))
		for k := range b {
			b[k] = 'a' + byte(rng.IntN(26))
		}
		words[i] = string(b)
	}
	disk := make([]byte, benchSize)
	for off := 0; off < len(disk); off += 1 << 20 {
		part := disk[off : off+1<<20]
		switch k := rng.IntN(10); {
		case k < 3:
			for len(part) >= 8 {
				binary.LittleEndian.PutUint64(part, rng.Uint64())
				part = part[8:]
			}
		case k < 6:
			for len(part) > 0 {
				line := fmt.Appendf(nil, "%d INFO id=%x", 1_700_000_000+off, rng.Uint64())
				for range 12 {
					r := rng.Float64()
					line = append(append(line, ' '), words[int(r*r*4095)]...)
				}
				part = part[copy(part, append(line, '\n')):]
			}
		}
	}
	return disk
}

// each calls f for every MiB, from eight goroutines, as replication.Copy does.
func each(extents []dr.Extent, f func(e dr.Extent) error) error {
	work := make(chan dr.Extent)
	errs := make(chan error, 8)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for e := range work {
				if err := f(e); err != nil {
					errs <- err
					for range work { // let the others end
					}
					return
				}
			}
		})
	}
	for _, e := range extents {
		work <- e
	}
	close(work)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func mebibytes(size int64) (all []dr.Extent) {
	for off := int64(0); off < size; off += 1 << 20 {
		all = append(all, dr.Extent{Off: off, Len: min(1<<20, size-off)})
	}
	return all
}

func benchPoint(id, parent dr.PointID, size int64) dr.Point {
	return dr.Point{ID: id, Parent: parent, Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: size}}}}
}

func benchAdd(b testing.TB, v *Store, p dr.Point, extents []dr.Extent, data []byte) {
	d, err := v.Create(b.Context(), p)
	require.NoError(b, err)
	require.NoError(b, each(extents, func(e dr.Extent) error {
		_, err := d.WriteAt(b.Context(), "d", data[e.Off:e.End()], e.Off)
		return err
	}))
	require.NoError(b, d.Commit(b.Context(), p))
	require.NoError(b, d.Close())
}

func benchVault(b testing.TB, o Options) *Store {
	v, err := Open(b.Context(), NewDir(fsys.OS(), b.TempDir()), o)
	require.NoError(b, err)
	return v
}

// scatter changes pct percent of a disk's chunks.
func scatter(data []byte, rng *rand.Rand, pct int) (extents []dr.Extent) {
	n := len(data) / chunkSize
	for _, c := range rng.Perm(n)[:max(1, n*pct/100)] {
		e := dr.Extent{Off: int64(c) * chunkSize, Len: chunkSize}
		binary.LittleEndian.PutUint64(data[e.Off+100:], rng.Uint64())
		extents = append(extents, e)
	}
	return extents
}

func BenchmarkAdd(b *testing.B) {
	data := benchDisk()
	for name, o := range map[string]Options{"zstd": {}, "s2": {Codec: S2}, "raw": {NoCompression: true}, "zstd-aes": {Keys: benchKey{}}} {
		b.Run("full/"+name, func(b *testing.B) {
			v := benchVault(b, o)
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				benchAdd(b, v, benchPoint(dr.PointID(fmt.Sprint(i)), "", benchSize), mebibytes(benchSize), data)
			}
		})
	}
	b.Run("next/changes-1pct", func(b *testing.B) {
		v, rng := benchVault(b, Options{}), rand.New(rand.NewPCG(1, 3))
		benchAdd(b, v, benchPoint("0", "", benchSize), mebibytes(benchSize), data)
		b.SetBytes(benchSize / 100)
		b.ReportAllocs()
		for i := 1; b.Loop(); i++ {
			benchAdd(b, v, benchPoint(dr.PointID(fmt.Sprint(i)), dr.PointID(fmt.Sprint(i-1)), benchSize), scatter(data, rng, 1), data)
		}
	})
	b.Run("next/scan-1pct", func(b *testing.B) {
		v, rng := benchVault(b, Options{}), rand.New(rand.NewPCG(1, 4))
		benchAdd(b, v, benchPoint("0", "", benchSize), mebibytes(benchSize), data)
		b.SetBytes(benchSize)
		b.ReportAllocs()
		for i := 1; b.Loop(); i++ {
			scatter(data, rng, 1)
			benchAdd(b, v, benchPoint(dr.PointID(fmt.Sprint(i)), dr.PointID(fmt.Sprint(i-1)), benchSize), mebibytes(benchSize), data)
		}
	})
}

type benchKey struct{}

func (benchKey) Wrap(_ context.Context, key []byte) ([]byte, error) { return key, nil }
func (benchKey) Unwrap(_ context.Context, w []byte) ([]byte, error) { return w, nil }

func BenchmarkRead(b *testing.B) {
	data := benchDisk()
	for name, o := range map[string]Options{"zstd": {}, "zstd-aes": {Keys: benchKey{}}} {
		v := benchVault(b, o)
		benchAdd(b, v, benchPoint("p", "", benchSize), mebibytes(benchSize), data)
		img, err := v.Open(b.Context(), "m", "p")
		require.NoError(b, err)
		b.Run("whole/"+name, func(b *testing.B) {
			bufs := fsys.NewPool(1<<20, 8)
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, each(mebibytes(benchSize), func(e dr.Extent) error {
					p := bufs.Get()
					defer bufs.Put(p)
					_, err := img.ReadAt(b.Context(), "d", p[:e.Len], e.Off)
					return err
				}))
			}
		})
		b.Run("random4k/"+name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 5))
			p := make([]byte, 4096)
			b.SetBytes(4096)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := img.ReadAt(b.Context(), "d", p, rng.Int64N(benchSize/4096)*4096); err != nil && err != io.EOF {
					b.Fatal(err)
				}
			}
		})
		require.NoError(b, img.Close())
	}
}

// tebibyte makes points of a 1 TiB disk whose maps have every page, each with
// an eighth of its references; no data is behind them.
func tebibyte(b testing.TB, v *Store, points int) {
	const size = 1 << 40
	rng := rand.New(rand.NewPCG(1, 6))
	var parent dr.PointID
	for i := range points {
		p := benchPoint(dr.PointID(fmt.Sprintf("p%04d", i)), parent, size)
		d, err := v.Create(b.Context(), p)
		require.NoError(b, err)
		m := d.(*draft).maps
		set := func(chunk int64) {
			r := ref{off: 64 + uint32(rng.IntN(30<<20)), len: makeCodecLen(Zstd, 30_000)}
			binary.LittleEndian.PutUint64(r.sum[:], rng.Uint64()|1)
			binary.LittleEndian.PutUint64(r.seg[:], uint64(chunk>>10))
			require.NoError(b, m.set(b.Context(), m.disks[0], chunk, r))
		}
		if i == 0 {
			for chunk := int64(0); chunk < size/chunkSize; chunk += 8 {
				set(chunk)
			}
		}
		for range 16 {
			set(rng.Int64N(size / chunkSize))
		}
		require.NoError(b, d.Commit(b.Context(), p))
		require.NoError(b, d.Close())
		parent = p.ID
	}
}

func BenchmarkTebibyte(b *testing.B) {
	dir := b.TempDir()
	v, err := Open(b.Context(), NewDir(fsys.OS(), dir), Options{})
	require.NoError(b, err)
	const points = 1000
	tebibyte(b, v, points)
	rng := rand.New(rand.NewPCG(1, 7))
	any := func() dr.PointID { return dr.PointID(fmt.Sprintf("p%04d", rng.IntN(points))) }
	b.Run("open", func(b *testing.B) { // a new process: nothing is cached but the vault itself
		b.ReportAllocs()
		sums := make([]dr.Sum, 1)
		for b.Loop() {
			v, err := Open(b.Context(), NewDir(fsys.OS(), dir), Options{})
			require.NoError(b, err)
			img, err := v.Open(b.Context(), "m", any())
			require.NoError(b, err)
			require.NoError(b, img.(dr.Summer).Sums(b.Context(), "d", rng.Int64N(1<<24)*chunkSize, sums))
			require.NoError(b, img.Close())
		}
	})
	b.Run("diff", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			img, err := v.Open(b.Context(), "m", any())
			require.NoError(b, err)
			n := 0
			for _, err := range img.(dr.ChangeTracker).Changes(b.Context(), "d", dr.Point{ID: any()}) {
				require.NoError(b, err)
				n++
			}
			b.ReportMetric(float64(n), "extents")
			require.NoError(b, img.Close())
		}
	})
	b.Run("list", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for _, err := range v.List(b.Context(), "m") {
				require.NoError(b, err)
				n++
			}
			require.Equal(b, points, n)
		}
	})
}

func BenchmarkPrune(b *testing.B) {
	data := benchDisk()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		v, rng := benchVault(b, Options{}), rand.New(rand.NewPCG(1, 8))
		benchAdd(b, v, benchPoint("0", "", benchSize), mebibytes(benchSize), data)
		for i := 1; i < 10; i++ {
			benchAdd(b, v, benchPoint(dr.PointID(fmt.Sprint(i)), dr.PointID(fmt.Sprint(i-1)), benchSize), scatter(data, rng, 10), data)
			require.NoError(b, v.Delete(b.Context(), "m", dr.PointID(fmt.Sprint(i-1))))
		}
		b.StartTimer()
		_, err := v.Prune(b.Context())
		require.NoError(b, err)
	}
}

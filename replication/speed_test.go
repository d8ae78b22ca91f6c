package replication_test

import (
	"context"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// vast is an image of one disk, of any size, that costs nothing: it tells what
// the copy itself costs. Data is at every stride, grain bytes of it.
type vast struct{ size, stride, grain int64 }

func (v vast) Point() dr.Point {
	return dr.Point{ID: "now", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: v.size}}}}
}

func (v vast) ReadAt(_ context.Context, _ dr.DiskID, p []byte, off int64) (int, error) {
	for i := int64(0); i < int64(len(p)); i += 512 {
		p[i] = byte(off>>9) | 1 // no sector is zero
	}
	return len(p), nil
}

func (v vast) Close() error { return nil }

func (v vast) Changes(context.Context, dr.DiskID, dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for off := int64(0); off < v.size; off += v.stride {
			if !yield(dr.Extent{Off: off, Len: v.grain}, nil) {
				return
			}
		}
	}
}

func (v vast) Extents(context.Context, dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for off := int64(0); off < v.size; off += v.stride {
			if !yield(dr.Extent{Off: off, Len: v.grain}, nil) {
				return
			}
			if v.grain < v.stride && !yield(dr.Extent{Off: off + v.grain, Len: v.stride - v.grain, Zero: true}, nil) {
				return
			}
		}
	}
}

// void is a draft that takes everything and keeps nothing.
type void struct{}

func (void) WriteAt(_ context.Context, _ dr.DiskID, p []byte, _ int64) (int, error) {
	return len(p), nil
}
func (void) Zero(context.Context, dr.DiskID, int64, int64) error { return nil }
func (void) Commit(context.Context, dr.Point) error              { return nil }
func (void) Close() error                                        { return nil }

// TestAllocations: memory for a hundred times the extents is that for one.
func TestAllocations(t *testing.T) {
	point := func(v vast) dr.Point { p := v.Point(); p.ID = "common"; return p }
	for name, o := range map[string]func(vast) replication.CopyOptions{
		"changes": func(v vast) replication.CopyOptions {
			return replication.CopyOptions{Have: replication.History{Common: point(v)}}
		},
		"both sides": func(v vast) replication.CopyOptions {
			return replication.CopyOptions{Have: replication.History{Common: point(v), Theirs: vast{v.size, v.stride, 512}}}
		},
		"blank": func(vast) replication.CopyOptions {
			return replication.CopyOptions{Have: replication.History{Blank: true}}
		},
		"progress": func(v vast) replication.CopyOptions {
			return replication.CopyOptions{Have: replication.History{Common: point(v)}, Progress: func(dr.Progress) {}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			allocs := func(extents int64) float64 {
				v := vast{extents << 17, 1 << 17, 4096}
				return testing.AllocsPerRun(3, func() {
					_, err := replication.Copy(t.Context(), void{}, v, o(v))
					require.NoError(t, err)
				})
			}
			few, many := allocs(500), allocs(50_000)
			// Workers that never had a turn have no buffer yet, goroutines
			// are reused or not: a constant, not a share of the extents.
			require.Less(t, many, few+100, "%v allocations for 500 extents, %v for 50,000", few, many)
		})
	}
}

// BenchmarkCopy is the copy's own part in moving bytes: reading costs a touch
// of each sector, writing nothing.
func BenchmarkCopy(b *testing.B) {
	v := vast{1 << 30, 1 << 20, 1 << 20}
	b.SetBytes(v.size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := replication.Copy(b.Context(), void{}, v, replication.CopyOptions{Have: replication.History{Blank: true}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExtents is what one small changed extent costs, scattered over a
// disk of 1 TiB so that none can be merged.
func BenchmarkExtents(b *testing.B) {
	common := dr.Point{ID: "common", Machine: vast{size: 1 << 40}.Point().Machine}
	for name, theirs := range map[string]dr.Image{"one side": nil, "both sides": vast{1 << 40, 1 << 40 / 70_000, 512}} {
		b.Run(name, func(b *testing.B) {
			v := vast{1 << 40, 1 << 40 / 100_000, 4096}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := replication.Copy(b.Context(), void{}, v, replication.CopyOptions{Have: replication.History{Common: common, Theirs: theirs}}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "extents/s")
		})
	}
}

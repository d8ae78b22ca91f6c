package replication_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// flat is an image of one disk in memory.
type flat struct {
	point dr.Point
	b     []byte
}

func (f flat) Point() dr.Point { return f.point }
func (f flat) Close() error    { return nil }
func (f flat) ReadAt(_ context.Context, _ dr.DiskID, p []byte, off int64) (int, error) {
	return copy(p, f.b[off:]), nil
}

func TestCopyTellsTextTurnedToNoise(t *testing.T) {
	s, err := vault.OpenDir(t.TempDir(), vault.Options{})
	require.NoError(t, err)
	defer s.Close()
	const blocks = 40
	b := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog\n"), blocks*blk/44+1)[:blocks*blk]
	clear(b[30*blk:])
	m := dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: int64(len(b))}}}
	put := func(id, parent dr.PointID, measure bool) dr.Point {
		p := dr.Point{ID: id, Parent: parent, Machine: m}
		d, err := s.Create(t.Context(), p)
		require.NoError(t, err)
		r, err := replication.Copy(t.Context(), d, flat{p, b}, replication.CopyOptions{Have: replication.History{Blank: parent == ""}, Full: parent != "", Measure: measure})
		require.NoError(t, err)
		require.NoError(t, d.Close())
		return r.Point
	}
	first := put("1", "", true).Changes
	require.True(t, first.Complete)
	require.EqualValues(t, 30, first.Blocks)
	require.Zero(t, first.Dense)

	noise := rand.NewChaCha8([32]byte{5})
	noise.Read(b[:7*blk])          // over text
	noise.Read(b[30*blk : 33*blk]) // over zeros
	second := put("2", "1", true).Changes
	require.EqualValues(t, 33, second.Blocks)
	require.EqualValues(t, 10, second.Dense)
	require.EqualValues(t, 3, second.Fresh)
	require.EqualValues(t, 30, second.Over)
	require.EqualValues(t, 7, second.Turned)
	require.Greater(t, second.Grown, int64(7*blk*9/10))
	require.Zero(t, second.Shrunk)
	for p := range s.List(t.Context(), "m") {
		if p.ID == "2" {
			require.Equal(t, second, p.Changes, "what the store has")
		}
	}
	require.Zero(t, put("3", "2", false).Changes, "not asked for")
}

// BenchmarkMeasure is what statistics cost beside a copy into a vault: the
// median of ratios of pairs, each run in the other order than the one before,
// so that neither order nor what else the machine does counts much.
func BenchmarkMeasure(b *testing.B) {
	v := make([]byte, 64<<20)
	noise := rand.NewChaCha8([32]byte{1})
	words := bytes.Repeat([]byte("2024-05-06T07:08:09 host app: request took 12345 us "), 1<<11)
	for off := 0; off < len(v); off += 1 << 20 {
		if off>>20%2 == 0 {
			noise.Read(v[off : off+1<<20])
		} else {
			for i := 0; i < 1<<20; i += 53 {
				copy(v[off+i:off+1<<20], words[noise.Uint64()%(1<<10):][:53])
			}
		}
	}
	took := func(measure bool) time.Duration {
		s, err := vault.OpenDir(b.TempDir(), vault.Options{})
		require.NoError(b, err)
		p := dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: int64(len(v))}}}}
		d, err := s.Create(b.Context(), p)
		require.NoError(b, err)
		start := time.Now()
		_, err = replication.Copy(b.Context(), d, flat{p, v}, replication.CopyOptions{Have: replication.History{Blank: true}, Measure: measure})
		span := time.Since(start)
		require.NoError(b, err)
		require.NoError(b, d.Close())
		require.NoError(b, s.Close())
		return span
	}
	var ratios []float64
	for first := true; b.Loop(); first = !first {
		one, other := took(first), took(!first)
		if !first {
			one, other = other, one
		}
		ratios = append(ratios, float64(one)/float64(other))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "with/without")
	b.ReportMetric(ratios[len(ratios)/4], "quartile1")
	b.ReportMetric(ratios[len(ratios)*3/4], "quartile3")
}

// BenchmarkSample is the sampling alone, in bytes copied a second.
func BenchmarkSample(b *testing.B) {
	v := vast{1 << 30, 1 << 20, 1 << 20}
	for name, measure := range map[string]bool{"without": false, "with": true} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(v.size)
			for b.Loop() {
				_, err := replication.Copy(b.Context(), void{}, v, replication.CopyOptions{Have: replication.History{Blank: true}, Measure: measure})
				require.NoError(b, err)
			}
		})
	}
}

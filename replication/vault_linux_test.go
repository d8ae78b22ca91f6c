package replication_test

import (
	"context"
	"encoding/binary"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// scattered is a machine with one sparse disk of 1 TiB, which holds some data
// at every stride; what is there depends on the place and the version. It
// counts what was read.
type scattered struct {
	point   dr.Point
	version func(i int64) uint64 // of the i-th piece
	changed func(i int64) bool
	read    atomic.Int64
}

const (
	scatteredSize   = int64(1) << 40
	scatteredPieces = 20_000
	scatteredStride = scatteredSize / scatteredPieces / 4096 * 4096
	scatteredGrain  = 4096 // a hole's granularity on common file systems
)

func (s *scattered) Point() dr.Point { return s.point }
func (s *scattered) Close() error    { return nil }

func (s *scattered) ReadAt(_ context.Context, _ dr.DiskID, p []byte, off int64) (int, error) {
	s.read.Add(int64(len(p)))
	s.fill(p, off)
	return len(p), nil
}

// fill is the disk's content.
func (s *scattered) fill(p []byte, off int64) {
	clear(p)
	for i := off / scatteredStride; i < scatteredPieces && i*scatteredStride < off+int64(len(p)); i++ {
		for at := max(0, off-i*scatteredStride) &^ 7; at < scatteredGrain; at += 8 {
			in := i*scatteredStride + at - off
			if in+8 > int64(len(p)) {
				break
			}
			if in >= 0 {
				binary.LittleEndian.PutUint64(p[in:], (uint64(i)<<20+uint64(at)+1)*0x9e3779b97f4a7c15*s.version(i))
			}
		}
	}
}

func (s *scattered) Extents(context.Context, dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		var at int64
		for i := range int64(scatteredPieces) {
			e := dr.Extent{Off: i * scatteredStride, Len: scatteredGrain}
			if e.Off > at && !yield(dr.Extent{Off: at, Len: e.Off - at, Zero: true}, nil) || !yield(e, nil) {
				return
			}
			at = e.End()
		}
		yield(dr.Extent{Off: at, Len: scatteredSize - at, Zero: true}, nil)
	}
}

func (s *scattered) Changes(context.Context, dr.DiskID, dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for i := range int64(scatteredPieces) {
			if s.changed(i) && !yield(dr.Extent{Off: i * scatteredStride, Len: scatteredGrain}, nil) {
				return
			}
		}
	}
}

// TestVaultMemory keeps a sparse disk of 1 TiB with data scattered over it in
// a vault: a first copy, what changed, and a few places read back.
func TestVaultMemory(t *testing.T) {
	inChild(t, func(t *testing.T) {
		store, err := vault.OpenDir(t.TempDir(), vault.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, store.Close()) }()
		m := dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: scatteredSize}}}
		first := &scattered{
			point:   dr.Point{ID: "first", Machine: m, Time: time.Unix(1, 0).UTC()},
			version: func(int64) uint64 { return 1 },
		}
		second := &scattered{
			point:   dr.Point{ID: "second", Machine: m, Time: time.Unix(2, 0).UTC(), Parent: "first"},
			changed: func(i int64) bool { return i%4 == 1 },
		}
		second.version = func(i int64) uint64 {
			if second.changed(i) {
				return 3
			}
			return 1
		}
		for _, c := range []struct {
			img  *scattered
			have replication.History
			most int64 // bytes that may be read
		}{
			{first, replication.History{Blank: true}, scatteredPieces * 2 * dr.SumBlock},
			{second, replication.History{Common: first.point}, scatteredPieces / 4 * 2 * dr.SumBlock},
		} {
			d, err := store.Create(t.Context(), c.img.point)
			require.NoError(t, err)
			_, err = replication.Copy(t.Context(), d, c.img, replication.CopyOptions{Have: c.have})
			require.NoError(t, err)
			require.NoError(t, d.Close())
			require.LessOrEqual(t, c.img.read.Load(), c.most)
		}
		for _, want := range []*scattered{first, second} {
			img, err := store.Open(t.Context(), "m", want.point.ID)
			require.NoError(t, err)
			got, expected := make([]byte, 1<<20), make([]byte, 1<<20)
			for i := int64(0); i < scatteredPieces; i += scatteredPieces/50 + 1 {
				off := max(0, i*scatteredStride-512)
				_, err := img.ReadAt(t.Context(), "a", got, off)
				require.NoError(t, err)
				want.fill(expected, off)
				require.True(t, string(expected) == string(got), "point %s at %d", want.point.ID, off)
			}
			require.NoError(t, img.Close())
		}
	})
}

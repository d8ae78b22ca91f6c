package memstore_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
)

func choose(t *testing.T, s *memstore.Store, o recoverypoint.Option) (dr.Point, error) {
	c := recoverypoint.Choice{Option: o}
	if c.NeedsProcessing() {
		require.NoError(t, s.Process(t.Context(), "m"))
	}
	var points []dr.Point
	for p, err := range s.List(t.Context(), "m") {
		require.NoError(t, err)
		points = append(points, p)
	}
	return recoverypoint.Choose(points, c)
}

func TestLatestAndLatestProcessedDiffer(t *testing.T) {
	s := memstore.New(memstore.Options{Deferred: true})
	add := func(id, parent dr.PointID, b byte) {
		p := dr.Point{ID: id, Parent: parent, Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: 512}}}}
		d, err := s.Create(t.Context(), p)
		require.NoError(t, err)
		_, err = d.WriteAt(t.Context(), "d", []byte{b}, int64(b))
		require.NoError(t, err)
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
	}
	add("one", "", 1)
	_, err := choose(t, s, recoverypoint.LatestProcessed)
	require.ErrorIs(t, err, dr.ErrNoPoint, "received is not processed")
	_, err = s.Open(t.Context(), "m", "one")
	require.ErrorIs(t, err, dr.ErrNotFound)

	p, err := choose(t, s, recoverypoint.Latest)
	require.NoError(t, err)
	require.EqualValues(t, "one", p.ID)
	add("two", "one", 2)
	add("three", "two", 3) // over a point that is not processed yet
	p, err = choose(t, s, recoverypoint.LatestProcessed)
	require.NoError(t, err)
	require.EqualValues(t, "one", p.ID)
	p, err = choose(t, s, recoverypoint.Latest)
	require.NoError(t, err)
	require.EqualValues(t, "three", p.ID)

	img, err := s.Open(t.Context(), "m", "three")
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = img.ReadAt(t.Context(), "d", got, 0)
	require.NoError(t, err)
	require.Equal(t, []byte{0, 1, 2, 3}, got)
}

func TestCrashFencesOpenDrafts(t *testing.T) {
	s := memstore.New(memstore.Options{})
	p := dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: 1 << 17}}}}
	old, err := s.Create(t.Context(), p)
	require.NoError(t, err)
	_, err = old.WriteAt(t.Context(), "d", make([]byte, 1<<16), 0)
	require.NoError(t, err)
	s.Crash()

	_, err = old.WriteAt(t.Context(), "d", []byte{1}, 0)
	require.ErrorIs(t, err, dr.ErrFenced)
	require.ErrorIs(t, old.Commit(t.Context(), p), dr.ErrFenced)
	again, err := s.Create(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, old.Close())
	var durable []dr.Extent
	for e, err := range again.(dr.Resumer).Durable(t.Context(), "d") {
		require.NoError(t, err)
		durable = append(durable, e)
	}
	require.Equal(t, []dr.Extent{{Off: 0, Len: 1 << 16}}, durable)
	_, err = s.Create(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrBusy, "closing the old handle did not free the machine")
	require.NoError(t, again.Commit(t.Context(), p))
}

func BenchmarkWriteAndCommit(b *testing.B) {
	const size = 64 << 20
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i) | 1
	}
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		s := memstore.New(memstore.Options{})
		p := dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: size}}}}
		d, err := s.Create(context.Background(), p)
		require.NoError(b, err)
		for off := int64(0); off < size; off += int64(len(buf)) {
			_, err = d.WriteAt(context.Background(), "d", buf, off)
			require.NoError(b, err)
		}
		require.NoError(b, d.Commit(context.Background(), p))
	}
}

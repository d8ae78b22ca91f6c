package physical

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
)

func TestMarkOfAPoint(t *testing.T) {
	r := &record{}
	r.name("p", "1")
	r.name("q", "2")
	r.name("p", "3") // the name was captured again
	for _, tc := range []struct {
		point  dr.PointID
		cursor dr.Cursor
		want   dr.Cursor
	}{
		{"p", "1", "1"},
		{"p", "3", "3"},
		{"p", "", "1"},        // which of the two isn't known: the older says more
		{"p", "foreign", "1"}, // a draft's point has another platform's cursors
		{"p", "2", "1"},
		{"q", "", "2"},
		{"r", "2", ""},
	} {
		got, ok := r.mark(dr.Point{ID: tc.point, Cursors: map[dr.DiskID]dr.Cursor{"d": tc.cursor}}, "d")
		require.Equal(t, tc.want, got, "%+v", tc)
		require.Equal(t, tc.want != "", ok)
	}
	// What is forgotten is forgotten whole.
	for i := range maxEpochs {
		r.name(dr.PointID(fmt.Sprint("n", i)), dr.Cursor(fmt.Sprint("m", i)))
	}
	require.LessOrEqual(t, len(r.Epochs), maxEpochs)
	_, ok := r.mark(dr.Point{ID: "p", Cursors: map[dr.DiskID]dr.Cursor{"d": "3"}}, "d")
	require.False(t, ok)
}

// What a replica lost when its disk was cut no tracker saw: it must not be
// taken for unchanged once the disk is as large as before.
func TestDiskThatWasCutAndGrewAgain(t *testing.T) {
	ctx := t.Context()
	h, _ := running(t, func(c *Config) { c.Tracker = NewBitmapTracker(0) })
	point := func(id dr.PointID, size int64) dr.Point {
		return dr.Point{ID: id, Machine: dr.Machine{ID: "x", Disks: []dr.Disk{{ID: "d", Size: size}}}}
	}
	var id dr.MachineID
	hold := func(p dr.Point) {
		r, err := h.Prepare(ctx, backend.Placement{Key: "k", Machine: p.Machine})
		require.NoError(t, err)
		id = r.ID
		d, err := h.Draft(ctx, id, p)
		require.NoError(t, err)
		m, err := h.Machine(ctx, id)
		require.NoError(t, err)
		require.Equal(t, p.Machine.Disks[0].Size, m.Disks[0].Size)
		_, err = d.WriteAt(ctx, "d", []byte{1}, p.Machine.Disks[0].Size-1)
		require.NoError(t, err)
		require.NoError(t, d.Commit(ctx, p))
		require.NoError(t, d.Close())
	}
	large := point("large", 1<<20)
	hold(large)
	hold(point("small", 1<<16))
	hold(point("grown", 1<<20))
	img, err := h.Capture(ctx, id, "q", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	for _, err := range img.(dr.ChangeTracker).Changes(ctx, "d", large) {
		require.ErrorIs(t, err, dr.ErrChangesLost)
	}
	for e, err := range img.(dr.ChangeTracker).Changes(ctx, "d", point("small", 1<<16)) {
		if !errors.Is(err, dr.ErrChangesLost) {
			require.NoError(t, err)
			require.GreaterOrEqual(t, e.End(), int64(1<<20))
		}
	}
}

// A replica that has become somebody's machine is treated as one: a draft
// never cuts or deletes a disk of it.
func TestDraftOfAReplicaThatIsAnOriginal(t *testing.T) {
	h, err := Open(Config{Root: "/root", FS: crashfs.New(1)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	a, b := dr.Disk{ID: "a", Size: 8 << 10}, dr.Disk{ID: "b", Size: 4 << 10}
	both := dr.Machine{ID: "m", Disks: []dr.Disk{a, b}}
	r, err := h.Prepare(t.Context(), backend.Placement{Key: "k", Machine: both})
	require.NoError(t, err)
	_, err = h.Prepare(t.Context(), backend.Placement{Original: r.ID, Machine: both})
	require.NoError(t, err)
	d, err := h.Draft(t.Context(), r.ID, dr.Point{ID: "p", Machine: dr.Machine{Disks: []dr.Disk{a}}})
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p"}))
	require.NoError(t, d.Close())
	m, err := h.Machine(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, []dr.Disk{a, b}, m.Disks)
	a.Size = 4 << 10
	_, err = h.Draft(t.Context(), r.ID, dr.Point{ID: "p", Machine: dr.Machine{Disks: []dr.Disk{a}}})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

package hyperv

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// blind are disks whose tracker sees nothing that is written.
type blind struct{ host.Disks }

func (b blind) Open(ctx context.Context, path string, write bool) (host.Disk, error) {
	d, err := b.Disks.Open(ctx, path, write)
	return blindDisk{d}, err
}

type blindDisk struct{ host.Disk }

func (d blindDisk) Changes(ctx context.Context, since string) iter.Seq2[host.Range, error] {
	return func(yield func(host.Range, error) bool) {
		for _, err := range d.Disk.Changes(ctx, since) {
			if err != nil && !yield(host.Range{}, err) {
				return
			}
		}
	}
}

// staleCheckpoint writes p2 over a machine whose checkpoint p1b is from before,
// and lets that go then.
func staleCheckpoint(t *testing.T, see func(host.Disks) host.Disks) *world {
	ctx := t.Context()
	w := newWorld(t, errand{name: "let go of a checkpoint from before a draft", stage: func(w *world) { w.original() }}, way{}, -1)
	require.NoError(t, w.capture(ctx, w.id, "p1b", dr.CrashConsistent, "", w.now))
	for _, n := range w.v.nodes {
		n.disks = see(n.disks)
	}
	require.NoError(t, w.fill(ctx, w.elsewhere("p2", w.pattern(2))))
	require.NoError(t, w.v.Release(ctx, w.id, "p1b"))
	w.once(0)
	return w
}

// A checkpoint that is let go of only after a draft was committed is older than
// what that commit made: it must not count as the newest moment, for which the
// others are given up while disks are merged.
func TestStaleCheckpointIsNotTheNewestMoment(t *testing.T) {
	w := staleCheckpoint(t, func(d host.Disks) host.Disks { return d })
	m, err := w.v.find(t.Context(), w.id)
	require.NoError(t, err)
	require.Equal(t, dr.PointID("p2"), m.record.Epochs[len(m.record.Epochs)-1].Point)
	w.holds(w.points["p2"])
	w.filled() // and changes are told since
}

// Where the tracker isn't known to have seen what a draft wrote, no moment from
// before is believed, however late its checkpoint is let go of.
func TestStaleCheckpointIsNotBelieved(t *testing.T) {
	w := staleCheckpoint(t, func(d host.Disks) host.Disks { return blind{d} })
	ctx := t.Context()
	require.NoError(t, w.v.Start(ctx, w.id))
	img, err := w.v.Capture(ctx, w.id, "p3", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	for _, d := range w.disks {
		lost := false
		for _, err := range img.(dr.ChangeTracker).Changes(ctx, d.ID, w.points["p1b"].Point) {
			lost = lost || errors.Is(err, dr.ErrChangesLost)
		}
		require.True(t, lost, "what the draft wrote is left out")
	}
	// Nor by a cursor of before, whatever the host still knows of it.
	m, err := w.v.find(ctx, w.id)
	require.NoError(t, err)
	require.NotZero(t, m.record.Distrusted)
	now := img.Point()
	for id, c := range now.Cursors {
		_, uuid, moment := parseCursor(c)
		now.Cursors[id] = cursorOf(m.record.Distrusted, uuid, moment)
	}
	now.ID = "nobody-knows-it"
	for _, d := range w.disks {
		lost := false
		for _, err := range img.(dr.ChangeTracker).Changes(ctx, d.ID, now) {
			lost = lost || errors.Is(err, dr.ErrChangesLost)
		}
		require.True(t, lost, "a cursor from before the draft is believed")
	}
	_ = img.Close()
	require.NoError(t, w.v.Release(ctx, w.id, "p3"))
}

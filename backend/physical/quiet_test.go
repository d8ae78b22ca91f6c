package physical

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
)

func settleAll(t *testing.T, img dr.Image) {
	t.Helper()
	for more := true; more; {
		var err error
		more, err = img.(dr.Settler).Settle(t.Context())
		require.NoError(t, err)
	}
}

// The state file may lie on a disk of the machine: nothing is written to it while
// a Quiesce holds that still, as the write would wait for the thaw, and the
// thaw of the group for it. After the thaw it is written.
func TestNothingIsWrittenWhileQuiet(t *testing.T) {
	tracker := NewBitmapTracker(0)
	var cfg Config
	h, mem := running(t, func(c *Config) {
		c.Tracker = tracker
		c.Hooks.Freeze = func(context.Context, Event) error { return nil }
		c.Hooks.Thaw = c.Hooks.Freeze
		cfg = *c
	})
	img, err := h.Capture(t.Context(), "m", "p", dr.FileSystemConsistent)
	require.NoError(t, err)
	var quiet atomic.Bool
	var written atomic.Int32
	mem.(*crashfs.FS).Trace(func(o crashfs.Op) {
		if quiet.Load() && crashfs.Mutating(o) {
			written.Add(1)
		}
	})
	_, thaw, err := quiesceOf(t, h)(t.Context(), "m", dr.FileSystemConsistent)
	require.NoError(t, err)
	quiet.Store(true)
	settleAll(t, img)
	point := img.Point()
	require.Len(t, point.Cursors, 2)
	require.NoError(t, img.Close())
	quiet.Store(false)
	require.Zero(t, written.Load(), "it would hang")
	require.NoError(t, thaw(t.Context()))

	require.NoError(t, h.Close())
	h, err = Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	img, err = h.Capture(t.Context(), "m", "q", dr.FileSystemConsistent)
	require.NoError(t, err)
	sum, err := changed(t, img, "a", point)
	require.NoError(t, err, "the mark is lost")
	require.Zero(t, sum)
	require.NoError(t, img.Close())
}

// What a thaw hook takes back of the consistency is no longer said of a point;
// where it was said already the moment is lost.
func TestThawThatLowers(t *testing.T) {
	lowers := func(c *Config) {
		c.Freezes = dr.ApplicationConsistent
		c.Hooks.Freeze = func(context.Context, Event) error { return nil }
		c.Hooks.Thaw = func(_ context.Context, e Event) error {
			e.Reached(dr.FileSystemConsistent)
			return nil
		}
	}
	t.Run("passes", func(t *testing.T) {
		h, _ := running(t, lowers)
		img, err := h.Capture(t.Context(), "m", "p", dr.ApplicationConsistent)
		require.NoError(t, err)
		settleAll(t, img)
		require.Equal(t, dr.FileSystemConsistent, img.Point().Consistency)
		require.NoError(t, img.Close())
	})
	t.Run("copies", func(t *testing.T) {
		h, _ := running(t, func(c *Config) {
			lowers(c)
			c.Snapshots = copier{fs: c.FS, calls: new(atomic.Int32)}
		})
		for range 2 { // made and found
			img, err := h.Capture(t.Context(), "m", "p", dr.ApplicationConsistent)
			require.NoError(t, err)
			require.Equal(t, dr.FileSystemConsistent, img.Point().Consistency)
			require.NoError(t, img.Close())
		}
	})
	t.Run("quiesced", func(t *testing.T) {
		h, _ := running(t, lowers)
		got, thaw, err := quiesceOf(t, h)(t.Context(), "m", dr.ApplicationConsistent)
		require.NoError(t, err)
		require.Equal(t, dr.ApplicationConsistent, got)
		err = thaw(t.Context())
		require.ErrorIs(t, err, dr.ErrNotConsistent)
		require.True(t, strings.Contains(err.Error(), "thaw hook") && !errors.Is(err, dr.ErrBusy))
	})
}

func quiesceOf(t *testing.T, h *Host) func(context.Context, dr.MachineID, dr.Consistency) (dr.Consistency, func(context.Context) error, error) {
	t.Helper()
	q, ok := dr.As[backend.Quiescer](h)
	require.True(t, ok)
	return q.Quiesce
}

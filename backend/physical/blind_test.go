package physical

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// halfBlind is a tracker that knows nothing of disk b.
type halfBlind struct{ *BitmapTracker }

func (h halfBlind) Since(ctx context.Context, m dr.MachineID, d dr.DiskID, mark dr.Cursor) iter.Seq2[dr.Extent, error] {
	if d != "b" {
		return h.BitmapTracker.Since(ctx, m, d, mark)
	}
	return func(yield func(dr.Extent, error) bool) {
		yield(dr.Extent{}, fmt.Errorf("it is a volume: %w", dr.ErrChangesLost))
	}
}

// What isn't known of one disk takes nothing from what is known of another:
// the machine is frozen for that disk alone, and not after many passes that
// can't learn more.
func TestOneDiskThatIsNotTracked(t *testing.T) {
	tracker := halfBlind{NewBitmapTracker(0)}
	freezes := 0
	h, _ := running(t, func(c *Config) {
		c.Tracker = tracker
		c.Hooks.Freeze = func(context.Context, Event) error { freezes++; return nil }
		c.Hooks.Thaw = func(context.Context, Event) error { return nil }
	})
	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	passes := 1
	for {
		tracker.Mark("m", "a", 0, 1)
		more, err := img.(dr.Settler).Settle(t.Context())
		require.NoError(t, err)
		if !more {
			break
		}
		passes++
		var a []dr.Extent
		for e, err := range img.(dr.ChangeTracker).Changes(t.Context(), "a", dr.Point{}) {
			require.NoError(t, err, "pass %d", passes)
			a = append(a, e)
		}
		require.Equal(t, []dr.Extent{{Len: 64 << 10}}, a, "pass %d", passes)
		for _, err := range img.(dr.ChangeTracker).Changes(t.Context(), "b", dr.Point{}) {
			require.ErrorIs(t, err, dr.ErrChangesLost)
		}
	}
	require.Equal(t, 1, freezes)
	require.LessOrEqual(t, passes, 3)
}

// Without freezing there is no moment for such a disk, which two passes show as
// well as eight.
func TestADiskThatIsNotTrackedHasNoQuietPass(t *testing.T) {
	h, _ := running(t, func(c *Config) { c.Tracker = halfBlind{NewBitmapTracker(0)} })
	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	more, err := img.(dr.Settler).Settle(t.Context())
	require.NoError(t, err)
	require.True(t, more, "it may have been lost once only")
	_, err = img.(dr.Settler).Settle(t.Context())
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorContains(t, err, "disk b")
	require.ErrorContains(t, err, noQuiet)
}

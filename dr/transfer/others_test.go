package transfer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// TestAnotherRecordMeanwhile: somebody protects the machine anew in the new place
// while its record is on its way. That one is not written over.
func TestAnotherRecordMeanwhile(t *testing.T) {
	here, there := inMemory(), inMemory()
	from := Leaving(here)
	p := save(t, from, dr.Protection{ID: "a", Name: "mine"})
	for range 5 {
		p = save(t, from, p)
	}
	other := dr.Protection{ID: "a", Name: "another"}
	errHold := errors.New("it doesn't stop")
	o := Options{To: "new", Hold: func(context.Context, dr.ProtectionID) error { return errHold }}
	_, err := Move(t.Context(), from, there, o)
	require.ErrorIs(t, err, errHold)
	other = save(t, there, other)
	o.Hold = nil
	_, err = Move(t.Context(), from, there, o)
	require.ErrorIs(t, err, dr.ErrExists)
	got, err := there.Load(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, other, got)
	require.NoError(t, Abort(t.Context(), from))
	p, err = from.Load(t.Context(), "a")
	require.NoError(t, err)
	require.Empty(t, p.Run, "it goes on here")

	// The same behind the last mark.
	p.Run = "moved:new"
	save(t, here, p)
	_, err = Move(t.Context(), from, there, o)
	require.ErrorIs(t, err, dr.ErrExists)
	got, err = there.Load(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, other, got)
}

// TestMovedElsewhere: what has moved to another place, or is about to, is not
// waited for.
func TestMovedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, mark := range []dr.RunID{"moved:old", "moving:old"} {
			here, there := inMemory(), inMemory()
			save(t, here, dr.Protection{ID: "a", Run: mark})
			save(t, here, dr.Protection{ID: "b"})
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			r, err := Move(ctx, Leaving(here), there, Options{To: "new", Wait: time.Minute})
			require.ErrorIs(t, err, dr.ErrBusy)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, string(mark))
			require.Equal(t, 1, r.Moved)
		}
	})
}

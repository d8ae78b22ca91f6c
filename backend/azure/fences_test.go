package azure_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const claim = "protection/web"

// under is a context of the claim's holder.
func (e *errand) under(epoch uint64) context.Context {
	return dr.WithFences(e.t.Context(), map[string]uint64{claim: epoch})
}

// A draft that was passed over writes to no disk any more once the next one was
// begun, also to those that the next one leaves alone.
func TestPassedOverDraftWritesNothing(t *testing.T) {
	e := newErrand(t, t.Name())
	require.NoError(t, e.prepare("")(t.Context()))
	p := dr.Point{ID: "p1", Machine: e.like}
	first, err := e.a.Draft(t.Context(), e.id, p)
	require.NoError(t, err)
	for _, d := range e.disks {
		_, err = first.WriteAt(t.Context(), d.ID, e.want[d.ID], 0)
		require.NoError(t, err)
	}
	require.NoError(t, first.Close())

	old, err := e.a.Draft(e.under(1), e.id, p)
	require.NoError(t, err)
	for _, d := range e.disks {
		_, err = old.WriteAt(e.under(1), d.ID, e.want[d.ID][:512], 0)
		require.NoError(t, err)
	}
	e.begin()
	next, err := e.a.Draft(e.under(2), e.id, p)
	require.NoError(t, err)
	_, err = old.WriteAt(e.under(1), "data", []byte("late"), 0)
	require.ErrorIs(t, err, dr.ErrFenced)
	require.NoError(t, next.Commit(e.under(2), p))
	require.NoError(t, next.Close())
	_, err = old.WriteAt(e.under(1), "os", []byte("late"), 0)
	require.ErrorIs(t, err, dr.ErrFenced)
	require.ErrorIs(t, old.Commit(e.under(1), p), dr.ErrFenced)
	e.same()
	require.NoError(t, old.Close())
}

package remote

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// brittle panics in some calls.
type brittle struct{ *well }

func (brittle) Stop(context.Context, dr.MachineID) error { panic("out of its depth") }

func (brittle) Draft(context.Context, dr.MachineID, dr.Point) (dr.Draft, error) {
	return brittleDraft{}, nil
}

type brittleDraft struct{ sink }

func (brittleDraft) WriteAt(context.Context, dr.DiskID, []byte, int64) (int, error) {
	panic("out of its depth")
}

// A panic is its call's end, as it is an action's, and not that of what all clients
// have open. It isn't repeated.
func TestAPanicEndsItsCallOnly(t *testing.T) {
	var log journal
	a := serve(t, brittle{&well{noise: noise()}}, ServeOptions{Log: log.logger()})
	c, other := a.dial(DialOptions{}), a.dial(DialOptions{})
	img, err := other.Capture(t.Context(), "m", "p", 0)
	require.NoError(t, err)
	err = c.Stop(t.Context(), "m")
	require.ErrorContains(t, err, "out of its depth")
	require.True(t, dr.IsPermanent(err))
	require.Contains(t, log.String(), "panic_test.go", "where it was")
	d, err := c.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "a", make([]byte, 4096), 0)
	require.ErrorContains(t, err, "out of its depth")
	require.NoError(t, d.Close())
	_, err = img.ReadAt(t.Context(), "a", make([]byte, 4096), 0)
	require.NoError(t, err)
}

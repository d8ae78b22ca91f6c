package cleanroom_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/cleanroom"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
)

// store has n points; those from bad on hold an X.
func store(t testing.TB, n, bad int) recoverypoint.PointStore {
	s := memstore.New(memstore.Options{})
	parent := dr.PointID("")
	for i := range n {
		p := dr.Point{ID: dr.PointID(fmt.Sprintf("p%02d", i)), Parent: parent, Time: time.Unix(int64(i), 0), Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: 512}}}}
		d, err := s.Create(t.Context(), p)
		require.NoError(t, err)
		if i >= bad {
			_, err = d.WriteAt(t.Context(), "d", []byte("X"), 0)
			require.NoError(t, err)
		}
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
		parent = p.ID
	}
	return s
}

func scan(ctx context.Context, img dr.Image) (bool, []string, error) {
	b := make([]byte, 1)
	if _, err := img.ReadAt(ctx, "d", b, 0); err != nil {
		return false, nil, err
	}
	if b[0] == 'X' {
		return false, []string{"a ransom note"}, nil
	}
	return true, nil, nil
}

func TestFindWalksBackToTheNewestCleanPoint(t *testing.T) {
	for bad := 1; bad <= 20; bad++ {
		for _, mono := range []bool{false, true} {
			r, err := cleanroom.Find(t.Context(), store(t, 20, bad), "m", scan, cleanroom.Options{Monotonic: mono})
			require.NoError(t, err)
			require.Equal(t, dr.PointID(fmt.Sprintf("p%02d", bad-1)), r.Point.ID)
			if mono {
				require.LessOrEqual(t, len(r.Evidence), 6)
			} else {
				require.Len(t, r.Evidence, 20-bad+1)
			}
		}
	}
}

func TestFindTellsWhatItCouldNotTell(t *testing.T) {
	r, err := cleanroom.Find(t.Context(), store(t, 3, 0), "m", scan, cleanroom.Options{})
	require.ErrorIs(t, err, dr.ErrNoPoint)
	require.Len(t, r.Evidence, 3)
	require.Equal(t, []string{"a ransom note"}, r.Evidence[0].Findings)

	r, err = cleanroom.Find(t.Context(), store(t, 3, 3), "m", func(context.Context, dr.Image) (bool, []string, error) {
		return true, nil, errors.New("no file system")
	}, cleanroom.Options{Most: 2})
	require.ErrorIs(t, err, dr.ErrNoPoint)
	require.Len(t, r.Evidence, 2)
	require.False(t, r.Evidence[0].Clean)
	require.Equal(t, "no file system", r.Evidence[0].Error)

	ctx, cancel := context.WithCancel(t.Context())
	_, err = cleanroom.Find(ctx, store(t, 3, 3), "m", func(context.Context, dr.Image) (bool, []string, error) {
		cancel()
		return false, nil, nil
	}, cleanroom.Options{})
	require.ErrorIs(t, err, context.Canceled)
}

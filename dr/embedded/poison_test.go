package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A step that takes the process with it fails in the end, and takes none with
// it that were only under way beside it, in however many lives.
func TestPoisonHarmsNobodyElse(t *testing.T) {
	path := journal(t)
	dead := errors.New("dead")
	const innocents = 8
	ids := []dr.RunID{"poison"}
	for i := range innocents {
		ids = append(ids, dr.RunID(fmt.Sprint("innocent", i)))
	}
	var s dr.Status
	for lives := 1; ; lives++ {
		require.Less(t, lives, 500)
		var killed atomic.Bool
		gone := make(chan struct{})
		e, err := Open(path, Options{BackoffFirst: time.Millisecond, BackoffMost: 20 * time.Millisecond, Intercept: func(Write) error {
			if killed.Load() {
				return dead
			}
			return nil
		}})
		require.NoError(t, err)
		for _, id := range ids {
			err := e.Start(t.Context(), id, one(dr.Step{ID: "a", Action: string(id)[:4]}))
			if !errors.Is(err, dr.ErrRunExists) {
				require.NoError(t, err)
			}
		}
		acts := dr.Actions{
			"pois": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
				killed.Store(true)
				close(gone)
				<-ctx.Done()
				return nil, ctx.Err()
			},
			"inno": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
				select {
				case <-time.After(20 * time.Millisecond):
					return nil, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			},
		}
		stop := serve(t, e, acts)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s, err = dr.Wait(t.Context(), e, "poison", nil)
		}()
		select {
		case <-gone:
			_ = e.Release(t.Context(), "any", "body") // it is the write that dies
			<-ended
			stop()
			_ = e.Close()
			continue
		case <-ended:
		}
		require.NoError(t, err)
		require.Equal(t, dr.RunFailed, s.State)
		require.Contains(t, s.Reason, "the process died")
		for _, id := range ids[1:] {
			require.Equal(t, dr.RunDone, wait(t, e, id).State, "%s", id)
		}
		t.Logf("%d lives", lives)
		return
	}
}

package keyed

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOneAtATime(t *testing.T) {
	var k Locks[string]
	var wg sync.WaitGroup
	n := 0
	for range 50 {
		wg.Go(func() {
			unlock, err := k.Lock(context.Background(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			n++
			unlock()
			unlock()
		})
	}
	wg.Wait()
	require.Equal(t, 50, n)
	require.Empty(t, k.locks, "nothing is kept")
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	var k Locks[int]
	unlock, err := k.Lock(t.Context(), 1)
	require.NoError(t, err)
	defer unlock()
	other, err := k.Lock(t.Context(), 2)
	require.NoError(t, err, "other names are other locks")
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = k.Lock(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
}

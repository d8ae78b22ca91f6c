package keyed

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

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
	require.Empty(t, k.waiting, "nothing is kept")
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

func TestFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k Locks[string]
		unlock, err := k.Lock(t.Context(), "a")
		require.NoError(t, err)
		var order []int
		var wg sync.WaitGroup
		cancelled, cancel := context.WithCancel(t.Context())
		for i := range 5 {
			ctx := t.Context()
			if i == 2 {
				ctx = cancelled
			}
			wg.Go(func() {
				unlock, err := k.Lock(ctx, "a")
				if err == nil {
					order = append(order, i)
					unlock()
				}
			})
			synctest.Wait() // it waits now
		}
		cancel()
		synctest.Wait()
		unlock()
		wg.Wait()
		require.Equal(t, []int{0, 1, 3, 4}, order, "in their order, without who gave up")
		require.Empty(t, k.waiting)
	})
}

func TestGivingUpAsTheLockComes(t *testing.T) {
	var k Locks[string]
	for range 2000 {
		unlock, err := k.Lock(t.Context(), "a")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if unlock, err := k.Lock(ctx, "a"); err == nil {
				unlock()
			}
		}()
		go cancel()
		unlock()
		<-done
		cancel()
	}
	require.Empty(t, k.waiting, "no lock is lost between handing over and giving up")
}

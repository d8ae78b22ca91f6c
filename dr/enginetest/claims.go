package enginetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Claims tests that claims keep their promises. open returns claims in which
// nothing is held and nothing ever was. Abilities that they have are tested, too.
func Claims(t *testing.T, open func(t T) dr.Claims) {
	for _, p := range slices.Concat(claimPromises, claimAbilities) {
		t.Run(p.name, func(t *testing.T) { p.check(t, open(t)) })
	}
}

type claimPromise struct {
	name  string
	check func(T, dr.Claims)
}

var claimPromises = []claimPromise{
	{"a claim keeps others out, and names its holder", func(t T, c dr.Claims) {
		_, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		_, err = c.Acquire(t.Context(), "m", "bob")
		require.ErrorIs(t, err, dr.ErrBusy)
		require.ErrorContains(t, err, "alice")
		_, err = c.Acquire(t.Context(), "n", "bob")
		require.NoError(t, err, "another resource is free")
	}},
	{"who holds it gets the same epoch again", func(t T, c dr.Claims) {
		first, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		again, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.NotZero(t, first, "zero is what a record has that no run has saved")
	}},
	{"epochs rise with each new holding", func(t T, c dr.Claims) {
		var last uint64
		for i := range 5 {
			owner := fmt.Sprint("owner", i%2)
			epoch, err := c.Acquire(t.Context(), "m", owner)
			require.NoError(t, err)
			require.Greater(t, epoch, last)
			last = epoch
			require.NoError(t, c.Release(t.Context(), "m", owner))
		}
	}},
	{"epochs rise though the place of claims be lost", func(t T, c dr.Claims) {
		// Platforms and records remember what an earlier place gave: a new one
		// begins above it, or every flow would be refused (ErrFenced).
		earlier := dr.NextEpoch(0, time.Now())
		epoch, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.GreaterOrEqual(t, epoch, earlier)
		require.NoError(t, c.Release(t.Context(), "m", "alice"))
		next, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.Greater(t, next, epoch, "also within a second")
	}},
	{"a place that is restored from a backup gives none that was given since", func(t T, c dr.Claims) {
		r := ability[dr.EpochRaiser](t, c)
		require.NoError(t, r.Raise(t.Context(), "m", 7), "what the backup has")
		earlier := dr.NextEpoch(0, time.Now())
		epoch, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.GreaterOrEqual(t, epoch, earlier)
	}},
	{"only its owner gives a claim back", func(t T, c dr.Claims) {
		_, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.NoError(t, c.Release(t.Context(), "m", "bob"), "it stays as it is")
		_, err = c.Acquire(t.Context(), "m", "bob")
		require.ErrorIs(t, err, dr.ErrBusy)
	}},
	{"giving back twice, or what was never held, does nothing", func(t T, c dr.Claims) {
		require.NoError(t, c.Release(t.Context(), "never", "alice"))
		_, err := c.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		require.NoError(t, c.Release(t.Context(), "m", "alice"))
		_, err = c.Acquire(t.Context(), "m", "bob")
		require.NoError(t, err)
		require.NoError(t, c.Release(t.Context(), "m", "alice"))
		_, err = c.Acquire(t.Context(), "m", "carol")
		require.ErrorIs(t, err, dr.ErrBusy)
	}},
	{"of many who ask at once one gets it", func(t T, c dr.Claims) {
		for round := range 10 {
			resource := fmt.Sprint("m", round)
			got := make([]error, 8)
			var wg sync.WaitGroup
			for i := range got {
				wg.Go(func() { _, got[i] = c.Acquire(context.WithoutCancel(t.Context()), resource, fmt.Sprint("owner", i)) })
			}
			wg.Wait()
			won := 0
			for _, err := range got {
				if err == nil {
					won++
					continue
				}
				require.ErrorIs(t, err, dr.ErrBusy)
			}
			require.Equal(t, 1, won)
		}
	}},
}

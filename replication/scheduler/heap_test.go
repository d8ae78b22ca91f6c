package scheduler

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Whatever is put in, moved and taken out, the first is the least.
func TestHeapAgainstAList(t *testing.T) {
	type item struct{ key, at int }
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	h := heap[*item]{less: func(a, b *item) bool { return a.key < b.key }, at: func(i *item) *int { return &i.at }}
	var all []*item
	for range 20_000 {
		switch {
		case len(all) == 0 || rnd.IntN(3) == 0:
			i := &item{rnd.IntN(1000), -1}
			all = append(all, i)
			h.put(i)
		case rnd.IntN(2) == 0:
			i := all[rnd.IntN(len(all))]
			i.key = rnd.IntN(1000)
			h.put(i)
		default:
			n := rnd.IntN(len(all))
			h.drop(all[n])
			h.drop(all[n]) // once more does nothing
			all = slices.Delete(all, n, n+1)
		}
		require.Equal(t, len(all), h.len())
		if len(all) > 0 {
			least := slices.MinFunc(all, func(a, b *item) int { return a.key - b.key })
			require.Equal(t, least.key, h.top().key)
		}
	}
}

// A protection's moments are an interval apart, the same from wherever they are
// asked, and those of many are spread.
func TestSlots(t *testing.T) {
	const period = 5 * time.Minute
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	buckets := make([]int, 10)
	for i := range 10_000 {
		id := dr.ProtectionID("vm-" + time.Duration(i).String())
		first := slot(id, period, t0)
		require.True(t, first.After(t0))
		require.LessOrEqual(t, first.Sub(t0), period)
		require.Equal(t, first, slot(id, period, first.Add(-1)))
		require.Equal(t, first.Add(period), slot(id, period, first))
		buckets[min(9, int(10*first.Sub(t0)/period))]++
	}
	for _, n := range buckets {
		require.InDelta(t, 1000, n, 150)
	}
}

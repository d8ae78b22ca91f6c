package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestFencesAdmit(t *testing.T) {
	known := Fences{{"a", 3}, {"b", 5}}
	for name, c := range map[string]struct {
		asked  map[string]uint64
		want   Fences
		raised bool
		fenced bool
	}{
		"nobody's claim":              {nil, known, false, false},
		"the same epoch":              {map[string]uint64{"a": 3}, known, false, false},
		"a higher one":                {map[string]uint64{"a": 4}, Fences{{"b", 5}, {"a", 4}}, true, false},
		"a lower one":                 {map[string]uint64{"a": 2}, known, false, true},
		"another resource":            {map[string]uint64{"c": 1}, Fences{{"a", 3}, {"b", 5}, {"c", 1}}, true, false},
		"one higher, one lower":       {map[string]uint64{"a": 9, "b": 4}, known, false, true},
		"one higher, one as it was":   {map[string]uint64{"a": 9, "b": 5}, Fences{{"b", 5}, {"a", 9}}, true, false},
		"epoch 0 of what is unknown":  {map[string]uint64{"c": 0}, Fences{{"a", 3}, {"b", 5}, {"c", 0}}, true, false},
		"epoch 0 of what is known":    {map[string]uint64{"b": 0}, known, false, true},
		"both, in no order of theirs": {map[string]uint64{"b": 6, "a": 4}, Fences{{"a", 4}, {"b", 6}}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, raised, err := known.Admit(dr.WithFences(t.Context(), c.asked))
			require.Equal(t, c.fenced, err != nil)
			if c.fenced {
				require.ErrorIs(t, err, dr.ErrFenced)
				require.ErrorContains(t, err, "dr.EpochRaiser", "what to do when there is no newer owner")
			}
			require.Equal(t, c.want, got)
			require.Equal(t, c.raised, raised)
			require.Equal(t, Fences{{"a", 3}, {"b", 5}}, known, "what was remembered is not changed in place")
		})
	}
}

func TestFencesForgetTheOldest(t *testing.T) {
	var f Fences
	raise := func(resource string) {
		next, raised, err := f.Admit(dr.WithFences(t.Context(), map[string]uint64{resource: 1}))
		require.NoError(t, err)
		require.True(t, raised)
		f = next
	}
	for i := range 40 {
		raise(fmt.Sprint("r", i))
		require.LessOrEqual(t, len(f), MaxFences+1)
	}
	require.Equal(t, Fence{"r39", 1}, f[len(f)-1])
	require.Equal(t, Fence{"r31", 1}, f[0])

	// However many a call has, none of its own is forgotten.
	many := map[string]uint64{}
	for i := range 3 * MaxFences {
		many[fmt.Sprint("many", i)] = 7
	}
	f, _, err := f.Admit(dr.WithFences(t.Context(), many))
	require.NoError(t, err)
	require.Len(t, f, 4*MaxFences)
	for r := range many {
		require.ErrorIs(t, f.Passed(map[string]uint64{r: 6}), dr.ErrFenced)
	}
}

// Whoever was passed by another one is refused, whatever happened between, as
// long as there are no more resources than are remembered.
func TestFencesNeverFall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f Fences
		top := map[string]uint64{}
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			asked := rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), rapid.Uint64Range(0, 9), 0, 3).Draw(t, "asked")
			stale := false
			for r, e := range asked {
				stale = stale || e < top[r]
			}
			text, err := json.Marshal(f)
			require.NoError(t, err)
			f = nil
			require.NoError(t, json.Unmarshal(text, &f))
			next, raised, err := f.Admit(dr.WithFences(context.Background(), asked))
			require.Equal(t, stale, err != nil)
			if err != nil {
				require.ErrorIs(t, err, dr.ErrFenced)
				require.Equal(t, f, next)
				continue
			}
			require.Equal(t, raised, fmt.Sprint(f) != fmt.Sprint(next))
			f = next
			for r, e := range asked {
				top[r] = max(top[r], e)
			}
			require.NoError(t, f.Passed(top))
		}
	})
}

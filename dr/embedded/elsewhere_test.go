package embedded

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// TestOlderRunsClaimWhereTheyDid: of a run that an older program has started the
// file doesn't say where it claims; its claims tell.
func TestOlderRunsClaimWhereTheyDid(t *testing.T) {
	for _, outside := range []bool{false, true} {
		c := open(t, journal(t), Options{})
		was, is := Options{}, Options{Claims: c}
		if outside {
			was, is = is, was
		}
		path := journal(t)
		e := open(t, path, was)
		p := one(dr.Step{ID: "g", Gate: "?"})
		p.Locks = []string{"m"}
		require.NoError(t, e.Start(t.Context(), "r", p))
		_, err := e.db.Exec(`UPDATE run SET outside = NULL`)
		require.NoError(t, err)
		require.NoError(t, e.Close())
		_, err = Open(path, is)
		require.ErrorIs(t, err, dr.ErrNotAllowed, "outside: %v", outside)
		require.ErrorContains(t, err, "run r")
		require.NoError(t, open(t, path, was).Close())
	}
}

// TestOddNamesAreListed once each, and the lists end.
func TestOddNamesAreListed(t *testing.T) {
	e := open(t, journal(t), Options{})
	names := []string{"\x00", "a", "a\x00", "a\x00b", "a\xff", "b", "\xff", "\xff\x00"}
	for _, n := range names {
		_, err := e.Acquire(t.Context(), n, "o"+n)
		require.NoError(t, err)
	}
	seen := map[string]bool{}
	began := time.Now()
	for c, err := range e.Claims(t.Context()) {
		require.NoError(t, err)
		require.False(t, seen[c.Resource], "%q is listed again", c.Resource)
		require.Equal(t, "o"+c.Resource, c.Owner)
		seen[c.Resource] = true
		require.Less(t, time.Since(began), time.Minute)
	}
	require.Len(t, seen, len(names))
}

// TestEpochsDontFallWithOtherClaims: whoever gives a journal other claims, or
// takes them away again, and has not moved the epochs, doesn't get one that
// records and platforms have seen.
func TestEpochsDontFallWithOtherClaims(t *testing.T) {
	path, c := journal(t), open(t, journal(t), Options{})
	last := uint64(0)
	for i, o := range []Options{{}, {}, {Claims: c}, {Claims: onlyClaims{c}}, {}, {Claims: c}} {
		e := open(t, path, o)
		var epoch uint64
		stop := serve(t, e, dr.Actions{"do": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
			epoch = c.Epochs["m"]
			return nil, nil
		}})
		p := one(dr.Step{ID: "a", Action: "do"})
		p.Locks = []string{"m"}
		run := dr.RunID(fmt.Sprint("r", i))
		require.NoError(t, e.Start(t.Context(), run, p))
		require.Equal(t, dr.RunDone, wait(t, e, run).State)
		require.Greater(t, epoch, last, "%d", i)
		last = epoch
		stop()
		require.NoError(t, e.Close())
	}
	fresh := onlyClaims{open(t, journal(t), Options{})}
	e := open(t, path, Options{Claims: fresh})
	p := one(dr.Step{ID: "a", Action: "do"})
	p.Locks = []string{"m"}
	err := e.Start(t.Context(), "r", p)
	require.ErrorIs(t, err, dr.ErrFenced)
	require.ErrorContains(t, err, "transfer.Epochs")
	_, err = fresh.Acquire(t.Context(), "m", "another")
	require.NoError(t, err, "it was given back")
}

// onlyClaims have no abilities.
type onlyClaims struct{ dr.Claims }

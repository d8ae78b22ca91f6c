package embedded

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// dark are claims that can't be reached while it is dark.
type dark struct {
	dr.Claims
	on atomic.Bool
}

func (d *dark) Acquire(ctx context.Context, resource, owner string) (uint64, error) {
	if d.on.Load() {
		return 0, errOut
	}
	return d.Claims.Acquire(ctx, resource, owner)
}

func (d *dark) Release(ctx context.Context, resource, owner string) error {
	if d.on.Load() {
		return errOut
	}
	return d.Claims.Release(ctx, resource, owner)
}

// TestClaimsOutOfReachForAnHour: a run whose work is done waits, says for what,
// shows it to who watches, and ends when the claims can be reached again.
func TestClaimsOutOfReachForAnHour(t *testing.T) {
	path, other := journal(t), journal(t)
	synctest.Test(t, func(t *testing.T) {
		c := &dark{Claims: open(t, other, Options{})}
		e := open(t, path, Options{Claims: c})
		stop := serve(t, e, dr.Actions{"do": nothing})
		p := one(dr.Step{ID: "a", Action: "do"})
		p.Locks = []string{"m"}
		require.NoError(t, e.Start(t.Context(), "r", p))
		c.on.Store(true)
		begun := time.Now()
		told := make(chan struct{})
		go func() {
			defer close(told)
			for s, err := range e.Watch(t.Context(), "r") {
				if err != nil || s.Steps[0].State == dr.StepDone && s.Reason != "" {
					return
				}
			}
		}()
		<-told
		time.Sleep(time.Hour)
		s, err := e.Status(t.Context(), "r")
		require.NoError(t, err)
		require.Equal(t, dr.RunRunning, s.State, "its claims are still held")
		require.Contains(t, s.Reason, "m")
		require.Contains(t, s.Reason, errOut.Error())
		c.on.Store(false)
		s = wait(t, e, "r")
		require.Equal(t, dr.RunDone, s.State)
		require.Empty(t, s.Reason, "what it waited for has come")
		require.Less(t, time.Since(begun), time.Hour+3*time.Minute)
		stop()
	})
}

// TestClaimsOfAnotherPlace: a run holds its claims where it was started with
// them; an engine that would look for them elsewhere is not opened.
func TestClaimsOfAnotherPlace(t *testing.T) {
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
		require.NoError(t, e.Close())
		_, err := Open(path, is)
		require.ErrorIs(t, err, dr.ErrNotAllowed)
		require.ErrorContains(t, err, "run r")
		e = open(t, path, was)
		require.NoError(t, e.Cancel(t.Context(), "r", "enough"))
		stop := serve(t, e, nil)
		wait(t, e, "r")
		stop()
		require.NoError(t, e.Close())
		e = open(t, path, is)
		require.NoError(t, e.Start(t.Context(), "r2", p), "the claims are to be had")
	}
}

// TestEveryWriteFailsWithOtherClaims is TestEveryWriteFails with claims beside
// the journal: at the end none is held, and each has been given once.
func TestEveryWriteFailsWithOtherClaims(t *testing.T) {
	for _, end := range []string{"done", "failed", "cancelled"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			c := open(t, filepath.Join(t.TempDir(), "claims"), Options{})
			epoch := uint64(1) << 40 // ahead of all clocks, so that they rise by one
			require.NoError(t, c.Raise(t.Context(), "m", epoch))
			everyWriteFails(t, end, errOut, func() Options {
				next, err := c.Acquire(t.Context(), "m", "check")
				require.NoError(t, err, "the run before gave it back")
				require.LessOrEqual(t, next, epoch+2, "nobody else took it")
				require.NoError(t, c.Release(t.Context(), "m", "check"))
				epoch = next
				return Options{Claims: c}
			})
		})
	}
}

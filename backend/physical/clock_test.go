package physical

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// What a freeze hook prepares doesn't count against the freeze limit, and has
// one of its own; what it reached less is the point's.
func TestFreezeClock(t *testing.T) {
	quiesce := func(t *testing.T, prepares, holds, resumes time.Duration) (dr.Consistency, time.Duration, error) {
		var got dr.Consistency
		var err error
		var took time.Duration
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			require.NoError(t, os.WriteFile(path, make([]byte, 4096), 0o600))
			cfg := Config{Root: t.TempDir(), FreezeLimit: 10 * time.Second, PrepareLimit: time.Minute, Freezes: dr.ApplicationConsistent,
				Machines: []Machine{{ID: "m", Power: dr.On, Disks: []Disk{{ID: "d", Path: path}}}}}
			wait := func(ctx context.Context, d time.Duration) error {
				select {
				case <-time.After(d):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			cfg.Hooks.Freeze = func(ctx context.Context, e Event) error {
				require.Equal(t, dr.ApplicationConsistent, e.Want)
				if err := wait(ctx, prepares); err != nil {
					return err
				}
				e.Held(true)
				e.Reached(dr.FileSystemConsistent)
				return wait(ctx, holds)
			}
			cfg.Hooks.Thaw = func(ctx context.Context, e Event) error {
				e.Held(false)
				return wait(ctx, resumes)
			}
			h, e := Open(cfg)
			require.NoError(t, e)
			defer h.Close()
			m, e := h.machine("", "m")
			require.NoError(t, e)
			var fr *frozen
			if fr, err = m.freeze.freeze(t.Context(), dr.ApplicationConsistent, false); err == nil {
				got = fr.got
				err = fr.thaw()
				took = fr.took
			}
		})
		return got, took, err
	}
	got, took, err := quiesce(t, 30*time.Second, 3*time.Second, 20*time.Second)
	require.NoError(t, err)
	require.Equal(t, dr.FileSystemConsistent, got)
	require.Equal(t, 3*time.Second, took)

	_, _, err = quiesce(t, 2*time.Minute, 0, 0)
	require.ErrorContains(t, err, "freezing took longer than 1m0s")
	_, _, err = quiesce(t, 30*time.Second, 11*time.Second, 0)
	require.ErrorContains(t, err, "freezing took longer than 10s")
}

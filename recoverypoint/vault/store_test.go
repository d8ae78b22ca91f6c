package vault_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/pointstoretest"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// open opens a vault on any file system.
func open(t testing.TB, fs fsys.FS, root string, o vault.Options) *vault.Store {
	s, err := vault.Open(t.Context(), vault.NewDir(fs, root), o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	var mu sync.Mutex
	disks := map[recoverypoint.PointStore]*crashfs.FS{}
	on := func(t testing.TB, disk *crashfs.FS, o vault.Options) recoverypoint.PointStore {
		s := open(t, disk, "/v", o)
		mu.Lock()
		defer mu.Unlock()
		disks[s] = disk
		return s
	}
	for name, o := range map[string]vault.Options{"zstd": {}, "s2": {Codec: vault.S2}, "encrypted": {Keys: fastKey{}}} {
		t.Run(name, func(t *testing.T) {
			histories := 5
			if name == "zstd" {
				histories = 0 // the suite's own number
			}
			pointstoretest.Run(t, pointstoretest.Harness{
				Histories: histories,
				Open:      func(t testing.TB) recoverypoint.PointStore { return on(t, crashfs.New(1), o) },
				Reopen: func(t testing.TB, s recoverypoint.PointStore) recoverypoint.PointStore {
					mu.Lock()
					disk := disks[s]
					mu.Unlock()
					disk.Cut()
					return on(t, disk.Restart(), o)
				},
			})
		})
	}
	t.Run("folder", func(t *testing.T) {
		pointstoretest.Run(t, pointstoretest.Harness{Histories: 5, Open: func(t testing.TB) recoverypoint.PointStore {
			return open(t, fsys.OS(), t.TempDir(), vault.Options{})
		}})
	})
}

package vault_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
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

// Every cycle of every machine lists points: only the first reads them all.
func TestListRemembersThousandsOfPoints(t *testing.T) {
	const points = 3000
	b := newMem()
	v, err := vault.Open(t.Context(), b, vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	for i := range points {
		p := dr.Point{ID: dr.PointID(fmt.Sprint(i)), Machine: dr.Machine{ID: "m"}}
		d, err := v.Create(t.Context(), p)
		require.NoError(t, err)
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
	}
	for _, reads := range []int{points, 0} {
		b.reads = 0
		n := 0
		for _, err := range v.List(t.Context(), "m") {
			require.NoError(t, err)
			n++
		}
		require.Equal(t, points, n)
		require.Equal(t, reads, b.reads)
	}
}

package vault_test

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault/buckettest"
)

func TestDirBucket(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		buckettest.Run(t, func(t testing.TB) vault.Bucket { return vault.NewDir(crashfs.New(1), "/b") })
	})
	t.Run("folder", func(t *testing.T) {
		buckettest.Run(t, func(t testing.TB) vault.Bucket { return vault.NewDir(fsys.OS(), t.TempDir()) })
	})
}

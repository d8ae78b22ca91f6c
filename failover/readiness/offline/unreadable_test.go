package offline_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness/offline"
)

// raw is a disk of 4 MiB with a text at a byte.
func raw(t testing.TB, at int64, text string) *image {
	name := filepath.Join(t.TempDir(), "disk")
	b := make([]byte, 4<<20)
	copy(b[at:], text)
	require.NoError(t, os.WriteFile(name, b, 0o600))
	return open(t, name)
}

func TestWhatCannotBeReadIsNeverFine(t *testing.T) {
	for _, c := range []struct {
		at         int64
		text, says string
	}{
		{0, "", "no file system that is known"},
		{0, "LUKS\xba\xbe", "luks is not read"},
		{3, "-FVE-FS-", "bitlocker is not read"},
		{0x10040, "_BHRfS_M", "btrfs is not read"},
		{0, "XFSB", "XFS version 0"},
		{3, "NTFS    ", "corrupt"},
		{1024 + 0x38, "\x53\xef", "corrupt"},
	} {
		f, err := offline.Inspect(t.Context(), raw(t, c.at, c.text), offline.Options{})
		require.ErrorIs(t, err, dr.ErrUnsupported)
		require.ErrorContains(t, err, c.says)
		require.NotEmpty(t, f.Unknown)
		require.Equal(t, backend.Fact{}, f.RemoteAccess)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err := offline.Inspect(ctx, raw(t, 0, ""), offline.Options{})
	require.ErrorIs(t, err, context.Canceled)
}

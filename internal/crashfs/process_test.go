package crashfs

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

func TestProcessDiesAtAChange(t *testing.T) {
	happened := 0
	for seed := range uint64(20) {
		disk := New(seed)
		p := NewProcess(disk, 3, seed)
		_, err := p.Lock("/lock", true)
		require.NoError(t, err)
		f, err := p.OpenFile("/f", os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("1"), 0)
		require.NoError(t, err)
		_, err = disk.Lock("/lock", true)
		require.ErrorIs(t, err, fsys.ErrLocked)
		require.False(t, p.Dead())

		require.ErrorIs(t, p.Rename("/f", "/g"), ErrKilled)
		require.True(t, p.Dead())
		if _, err := disk.Stat("/g"); err == nil {
			happened++
		}
		// Nothing of it is left but what it did.
		_, err = f.WriteAt([]byte("2"), 0)
		require.ErrorIs(t, err, ErrKilled)
		_, err = f.ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, ErrKilled)
		_, err = p.OpenFile("/f", os.O_RDONLY, 0)
		require.ErrorIs(t, err, ErrKilled)
		require.ErrorIs(t, f.Sync(), ErrKilled)
		l, err := disk.Lock("/lock", true)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
	require.Positive(t, happened)
	require.Less(t, happened, 20)
}

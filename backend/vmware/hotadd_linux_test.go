package vmware

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const testUUID = "6000C29a-0123-4567-89ab-cdef01234567"

// guest makes a /dev and a /sys of a guest.
func guest(t *testing.T) scsiDisks {
	t.Helper()
	s := scsiDisks{dev: filepath.Join(t.TempDir(), "dev"), sys: filepath.Join(t.TempDir(), "sys"), patience: 10 * time.Second}
	for _, dir := range []string{s.byID(), filepath.Join(s.sys, "class/scsi_host/host2"), filepath.Join(s.sys, "class/block/sdx/device")} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(s.sys, "class/scsi_host/host2/scan"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(s.sys, "class/block/sdx/device/delete"), nil, 0o600))
	return s
}

func TestGuestDisk(t *testing.T) {
	for _, link := range []string{"wwn-0x6000c29a0123456789abcdef01234567", "scsi-36000c29a0123456789abcdef01234567"} {
		s := guest(t)
		go func() {
			time.Sleep(50 * time.Millisecond)
			os.WriteFile(filepath.Join(s.dev, "sdx"), bytes.Repeat([]byte("x"), 1<<20), 0o600)
			os.Symlink("../../sdx", filepath.Join(s.byID(), link))
		}()
		d, err := s.open(context.Background(), testUUID, true)
		require.NoError(t, err)
		size, err := d.Size()
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, size)
		_, err = d.WriteAt([]byte("hello"), 5000)
		require.NoError(t, err)
		require.NoError(t, d.Sync())
		if err := d.(*scsiDisk).Zero(4096, 4096); !errors.Is(err, errors.ErrUnsupported) {
			require.NoError(t, err)
			p := make([]byte, 4096)
			_, err = d.ReadAt(p, 4096)
			require.NoError(t, err)
			require.Equal(t, make([]byte, 4096), p)
		}
		require.NoError(t, d.Close())
		for name, want := range map[string]string{"class/scsi_host/host2/scan": "- - -", "class/block/sdx/device/delete": "1"} {
			b, err := os.ReadFile(filepath.Join(s.sys, name))
			require.NoError(t, err)
			require.Equal(t, want, string(b))
		}
	}
}

func TestGuestDiskDoesNotShow(t *testing.T) {
	s := guest(t)
	// A link to a device that went.
	require.NoError(t, os.Symlink("../../sdy", filepath.Join(s.byID(), "wwn-0x6000c29a0123456789abcdef01234567")))
	s.patience = 250 * time.Millisecond
	_, err := s.open(context.Background(), testUUID, false)
	require.ErrorContains(t, err, "no disk of this UUID has shown")
	var x *explained
	require.True(t, errors.As(err, &x))
	require.Contains(t, x.remedy, "disk.enableUUID")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.patience = time.Minute
	_, err = s.open(ctx, testUUID, false)
	require.ErrorIs(t, err, context.Canceled)
	for _, bad := range []string{"", "../../../../etc/passwd", "6000C29a-0123-4567-89ab-cdef0123456g"} {
		_, err = s.open(context.Background(), bad, false)
		require.ErrorContains(t, err, "no UUID")
	}
}

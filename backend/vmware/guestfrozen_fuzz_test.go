package vmware

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func FuzzParseFrozen(f *testing.F) {
	f.Add([]byte("lifeboat-freeze 1\npid 77\nholding\nfroze ext4 /var\nsynced vfat /boot/efi\nhook freeze 0 db\nfrozen\nasked\nthawed\n"))
	f.Add([]byte("lifeboat-freeze 1\npid 77\nfailed busy /\n"))
	f.Add([]byte("lifeboat-freeze 1\npid 1\nover\nfro"))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := parseFrozen(p)
		if err != nil {
			return
		}
		if s.pid == 1 || s.pid < 0 {
			t.Fatal("nobody may be told to end init, or a group")
		}
		if s.got(dr.ApplicationConsistent) == dr.ApplicationConsistent && (s.hooks == 0 || len(s.failed) > 0) {
			t.Fatal("applications were not asked")
		}
		if len(s.froze)+len(s.synced) > maxFrozen {
			t.Fatal("too much is believed")
		}
		_ = s.reason().Error()
		_ = s.loose()
	})
}

func TestParseFrozen(t *testing.T) {
	s, err := parseFrozen([]byte("lifeboat-freeze 1\npid 77\nhook freeze 0 db\nholding\nfroze ext4 /my\\040data\nsynced vfat /boot/efi\nsynced vfat /boots\nfroz"))
	require.NoError(t, err)
	require.Equal(t, frozen{pid: 77, hooks: 1, holding: true, froze: []string{`ext4 /my\040data`}, synced: []string{"vfat /boot/efi", "vfat /boots"}}, s)
	require.Equal(t, []string{"vfat /boots"}, s.loose())
	require.Equal(t, dr.ApplicationConsistent, s.got(dr.ApplicationConsistent))
	require.Equal(t, dr.FileSystemConsistent, s.got(dr.FileSystemConsistent))
	require.Equal(t, dr.CrashConsistent, s.got(dr.CrashConsistent))
	s.failed = []string{"thaw 1 db"}
	require.Equal(t, dr.FileSystemConsistent, s.got(dr.ApplicationConsistent))
	for _, bad := range []string{"hello\n", "lifeboat-freeze 2\n", "lifeboat-freeze 1\npid 1\n", "lifeboat-freeze 1\npid 2\npid 3\n", "lifeboat-freeze 1\nover\nfrozen\n", "lifeboat-freeze 1\nhook freeze\n"} {
		_, err := parseFrozen([]byte(bad))
		require.ErrorIs(t, err, dr.ErrInvalid, bad)
	}
}

package ntfs

import (
	"io"
	"testing"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

func opener(r io.ReaderAt, size int64) (guestfs.Volume, error) {
	f, err := Open(r, size)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// small is a file system with something of everything.
func small(t testing.TB) string {
	image := guestfstest.Image(t, 8<<20, "mkfs.ntfs", "-q", "-F", "-f", "-c", "512")
	guestfstest.Mounted(t, image, "ntfs-3g", func(dir string) { guestfstest.FillSmall(t, dir) })
	return image
}

func TestCorruptFileSystemsAreSurvived(t *testing.T) {
	guestfstest.Corrupt(t, small(t), 1500, opener)
}

func FuzzFileSystem(f *testing.F) {
	guestfstest.Fuzz(f, small(f), opener)
}

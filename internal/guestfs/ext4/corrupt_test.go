package ext4

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

// small is a file system with something of everything, and a journal to play.
func small(t testing.TB) string {
	image := guestfstest.Image(t, 8<<20, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-I", "256", "-O", "inline_data,metadata_csum,64bit", "-N", "400")
	dirty := image
	guestfstest.Mounted(t, image, "data=journal,commit=600", func(dir string) {
		guestfstest.FillSmall(t, dir)
		guestfstest.Run(t, "sync", "-f", dir)
		dirty = guestfstest.Copy(t, image)
	})
	return dirty
}

func TestCorruptFileSystemsAreSurvived(t *testing.T) {
	guestfstest.Corrupt(t, small(t), 2500, opener)
}

func FuzzFileSystem(f *testing.F) {
	guestfstest.Fuzz(f, small(f), opener)
}

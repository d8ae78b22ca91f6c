package cleanroom_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/cleanroom"
	"github.com/lifeboat-dr/lifeboat/failover/readiness/offline"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
)

// notes looks for ransom notes in all file systems of an image. What it can't
// read it can't call clean, so an image without a file system is an error.
func notes(ctx context.Context, img dr.Image) (bool, []string, error) {
	systems, err := offline.FileSystems(ctx, img)
	if err != nil {
		return false, nil, err
	}
	var found []string
	read := 0
	for _, f := range systems {
		if f.Err != nil {
			return false, found, fmt.Errorf("%s: %w", f, f.Err)
		}
		read++
		err := fs.WalkDir(f.FS, ".", func(name string, _ fs.DirEntry, err error) error {
			if ok, _ := path.Match("*README*DECRYPT*", path.Base(name)); ok {
				found = append(found, f.String()+": "+name)
			}
			return err
		})
		if err != nil {
			return false, found, fmt.Errorf("%s: %w", f, err)
		}
	}
	if read == 0 {
		return false, nil, fmt.Errorf("no file system: %w", dr.ErrNotFound)
	}
	return len(found) == 0, found, nil
}

// The scan reads files of the image, with no machine started.
func ExampleScan() {
	ctx := context.Background()
	s := recoverypoint.PointStore(memstore.New(memstore.Options{})) // where the points are
	r, err := cleanroom.Find(ctx, s, "web", notes, cleanroom.Options{Monotonic: true, Most: 20})
	fmt.Println(r.Point.ID, err != nil)
	// Output: true
}

func TestFindReadsTheFilesOfPoints(t *testing.T) {
	guestfstest.Has(t, "mke2fs")
	s := memstore.New(memstore.Options{})
	dir := t.TempDir()
	parent := dr.PointID("")
	for i, write := range []string{"notes.txt", "report.txt", "README_TO_DECRYPT.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, write), []byte("text"), 0o600))
		const size = 8 << 20
		b, err := os.ReadFile(guestfstest.Image(t, size, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir))
		require.NoError(t, err)
		p := dr.Point{ID: dr.PointID(fmt.Sprint("p", i)), Parent: parent, Time: time.Unix(int64(i), 0), Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: size}}}}
		d, err := s.Create(t.Context(), p)
		require.NoError(t, err)
		_, err = d.WriteAt(t.Context(), "d", b, 0)
		require.NoError(t, err)
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
		parent = p.ID
	}
	r, err := cleanroom.Find(t.Context(), s, "m", notes, cleanroom.Options{})
	require.NoError(t, err)
	require.Equal(t, dr.PointID("p1"), r.Point.ID)
	require.Len(t, r.Evidence, 2)
	require.Equal(t, []string{"disk d, whole disk: README_TO_DECRYPT.txt"}, r.Evidence[0].Findings)
}

package vault_test

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// onePoint is a point of one small disk.
func onePoint(id dr.PointID) plan {
	return planPoint(rand.New(rand.NewPCG(1, 1)), id, "", nil, map[dr.DiskID]int64{"a": 2 * chunk}, 3)
}

func TestFoldersInAnySpelling(t *testing.T) {
	base := t.TempDir()
	p := onePoint("1")
	for i, spelling := range []string{"/v/", "//v", "/./v", "/w/../v/."} {
		v, err := vault.OpenDir(base+spelling, vault.Options{})
		require.NoError(t, err, spelling)
		if i == 0 {
			require.NoError(t, p.apply(t.Context(), v))
		}
		require.NoError(t, verify(t.Context(), v, "1", p.want), spelling)
		require.NoError(t, v.Close())
	}
}

// The folder of a vault may be several new folders deep: all must outlive a
// power cut once a point is committed.
func TestNewParentFoldersAreDurable(t *testing.T) {
	for n := range uint64(20) {
		disk := crashfs.New(n)
		v, err := vault.Open(t.Context(), vault.NewDir(disk, "/mnt/backup/site/v"), vault.Options{})
		require.NoError(t, err)
		p := onePoint("1")
		require.NoError(t, p.apply(t.Context(), v))
		disk.Cut()
		v, err = vault.Open(t.Context(), vault.NewDir(disk.Restart(), "/mnt/backup/site/v"), vault.Options{Existing: true})
		require.NoError(t, err, "seed %d", n)
		require.NoError(t, verify(t.Context(), v, "1", p.want), "seed %d", n)
	}
}

// What Create takes must not be refused by Commit, hours later.
func TestNamesAsLongAsTheyMayBe(t *testing.T) {
	v := open(t, fsys.OS(), t.TempDir(), vault.Options{})
	point := dr.Point{ID: dr.PointID(strings.Repeat("p", 200)), Machine: dr.Machine{ID: dr.MachineID(strings.Repeat("m", 200)), Disks: []dr.Disk{{ID: "a", Size: chunk}}}}
	d, err := v.Create(t.Context(), point)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Commit(t.Context(), point))
	img, err := v.Open(t.Context(), point.Machine.ID, point.ID)
	require.NoError(t, err)
	require.NoError(t, img.Close())
}

// readOnly is a file system that is mounted so.
type readOnly struct{ fsys.FS }

func refuse(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: syscall.EROFS} }

func (r readOnly) OpenFile(name string, flag int, perm fs.FileMode) (fsys.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE) != 0 {
		return nil, refuse("open", name)
	}
	return r.FS.OpenFile(name, flag, perm)
}

func (r readOnly) MkdirAll(name string, perm fs.FileMode) error {
	if _, err := r.Stat(name); err == nil {
		return nil
	}
	return refuse("mkdir", name)
}

func (r readOnly) Lock(name string, exclusive bool) (io.Closer, error) {
	return nil, refuse("open", name)
}
func (r readOnly) Link(from, to string) error   { return refuse("link", to) }
func (r readOnly) Rename(from, to string) error { return refuse("rename", to) }
func (r readOnly) Remove(name string) error     { return refuse("remove", name) }

func TestReadOnlyMedia(t *testing.T) {
	for _, locks := range []bool{true, false} {
		t.Run(fmt.Sprintf("locks=%v", locks), func(t *testing.T) {
			dir := t.TempDir()
			p := onePoint("1")
			require.NoError(t, p.apply(t.Context(), open(t, fsys.OS(), dir, vault.Options{})))
			if !locks {
				require.NoError(t, os.RemoveAll(filepath.Join(dir, ".lock")))
			}
			v := open(t, readOnly{fsys.OS()}, dir, vault.Options{})
			require.NoError(t, verify(t.Context(), v, "1", p.want))
			for d, err := range v.Scrub(t.Context()) {
				require.NoError(t, err)
				require.Fail(t, "damage", "%+v", d)
			}
			_, err := v.Create(t.Context(), onePoint("2").point)
			require.ErrorIs(t, err, syscall.EROFS)
			require.ErrorContains(t, err, "read-only")
			_, err = v.Prune(t.Context())
			require.ErrorIs(t, err, syscall.EROFS)
			require.ErrorIs(t, v.Delete(t.Context(), "m", "1"), syscall.EROFS)
		})
	}
}

// A head whose size alone would take all memory is refused before it is read.
func TestHugeHead(t *testing.T) {
	dir := t.TempDir()
	v := open(t, fsys.OS(), dir, vault.Options{})
	p := onePoint("1")
	require.NoError(t, p.apply(t.Context(), v))
	require.NoError(t, os.Truncate(filepath.Join(dir, "head", "m"), 1<<43))
	_, err := v.Open(t.Context(), "m", "1")
	require.ErrorIs(t, err, dr.ErrCorrupt)
	require.ErrorContains(t, err, "head/m")
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	p := onePoint("1")
	require.NoError(t, p.apply(t.Context(), open(t, fsys.OS(), dir, vault.Options{})))
	require.NoError(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, name)
		if e.Name() == ".lock" {
			return fs.SkipDir // nobody else gets in
		}
		return nil
	}))
}

// FAT and exFAT, as disks that are carried away have them, know no hard links,
// and say so with EPERM (link(2)); others say ENOTSUP.
func TestFileSystemsWithoutHardLinks(t *testing.T) {
	for _, refusal := range []error{syscall.EPERM, syscall.ENOTSUP} {
		disk := crashfs.New(1)
		disk.Inject(crashfs.Fault{Match: func(o crashfs.Op) bool { return o.Kind == crashfs.Link }, Err: &os.LinkError{Op: "link", Err: refusal}, Stays: true})
		v := open(t, disk, "/v", vault.Options{})
		p := onePoint("1")
		require.NoError(t, p.apply(t.Context(), v))
		require.NoError(t, verify(t.Context(), v, "1", p.want))
	}
}

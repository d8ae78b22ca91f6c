package suspicion_test

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/suspicion"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// machine has one disk, an image file with a real ext4 that is mounted, and
// a vault that keeps its points.
type machine struct {
	t     *testing.T
	path  string // of the disk
	root  string // where it is mounted
	size  int64
	store *vault.Store
	seed  maphash.Seed
	sums  []uint64 // of the newest point's blocks
	last  dr.Point
	n     int
}

// newMachine needs root, loop devices and mkfs.ext4.
func newMachine(t *testing.T, size int64, options string) *machine {
	t.Helper()
	missing := func(why string) {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatalf("%s, and LIFEBOAT_REQUIRE=all", why)
		}
		t.Skip(why)
	}
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		missing("mounting a file system wants root on Linux")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		missing("mkfs.ext4 is not installed")
	}
	dir := t.TempDir()
	m := &machine{t: t, path: filepath.Join(dir, "disk"), root: filepath.Join(dir, "root"), size: size, seed: maphash.MakeSeed()}
	require.NoError(t, os.Mkdir(m.root, 0o755))
	f, err := os.Create(m.path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	m.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", m.path)
	out, err := exec.Command("mount", "-o", "loop,noatime"+options, m.path, m.root).CombinedOutput()
	if err != nil {
		missing(fmt.Sprintf("can't mount by a loop device: %s", out))
	}
	t.Cleanup(func() { m.run("umount", m.root) })
	m.store, err = vault.OpenDir(filepath.Join(dir, "vault"), vault.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.store.Close()) })
	return m
}

func (m *machine) run(name string, arg ...string) {
	m.t.Helper()
	out, err := exec.Command(name, arg...).CombinedOutput()
	require.NoError(m.t, err, "%s %q: %s", name, arg, out)
}

// point makes a recovery point of what the disk holds now.
func (m *machine) point() dr.Point {
	m.t.Helper()
	m.run("sync", "-f", m.root)
	f, err := os.Open(m.path)
	require.NoError(m.t, err)
	defer f.Close()
	m.n++
	img := &frozen{file: f, point: dr.Point{ID: dr.PointID(fmt.Sprintf("p%03d", m.n)), Parent: m.last.ID, Time: time.Unix(int64(m.n)*900, 0).UTC(),
		Consistency: dr.CrashConsistent, Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: m.size}}}}}
	sums := make([]uint64, m.size/dr.SumBlock)
	b := make([]byte, dr.SumBlock)
	for i := range sums {
		_, err := f.ReadAt(b, int64(i)*dr.SumBlock)
		require.NoError(m.t, err)
		sums[i] = maphash.Bytes(m.seed, b)
		if m.sums != nil && sums[i] != m.sums[i] {
			img.changed = append(img.changed, dr.Extent{Off: int64(i) * dr.SumBlock, Len: dr.SumBlock})
		}
	}
	m.sums = sums
	d, err := m.store.Create(m.t.Context(), img.point)
	require.NoError(m.t, err)
	have := replication.History{Common: m.last, Blank: m.last.ID == ""}
	r, err := replication.Copy(m.t.Context(), d, img, replication.CopyOptions{Have: have, Measure: true})
	require.NoError(m.t, err)
	require.NoError(m.t, d.Close())
	m.last = img.point
	return r.Point
}

func (m *machine) judge(o suspicion.Options) []suspicion.Verdict {
	var all []dr.Point
	for p, err := range m.store.List(m.t.Context(), "m") {
		require.NoError(m.t, err)
		all = append(all, p)
	}
	return suspicion.Judge(all, o)
}

// frozen is the image file while nobody writes to it.
type frozen struct {
	file    *os.File
	point   dr.Point
	changed []dr.Extent
}

func (f *frozen) Point() dr.Point { return f.point }
func (f *frozen) Close() error    { return nil }
func (f *frozen) ReadAt(_ context.Context, _ dr.DiskID, p []byte, off int64) (int, error) {
	n, err := f.file.ReadAt(p, off)
	if n == len(p) && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *frozen) Changes(context.Context, dr.DiskID, dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for _, e := range f.changed {
			if !yield(e, nil) {
				return
			}
		}
	}
}

package bootproof

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

// needs QEMU, and that nothing of the test's machines is left in the end.
func needs(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		lack(t, "qemu-system-x86_64 is not installed")
	}
}

// image is a disk's file: its first sectors, and zeros.
func image(t testing.TB, sector []byte) string {
	path := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, sector, 0o600))
	require.NoError(t, os.Truncate(path, 8<<20))
	return path
}

// world is a host with stopped machines, and a vault.
type world struct {
	t     testing.TB
	store *vault.Store
	dir   string
}

func newWorld(t testing.TB) *world {
	dir := filepath.Join(t.TempDir(), "vault")
	s, err := vault.OpenDir(dir, vault.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return &world{t, s, dir}
}

// keep makes a point of a machine that is off.
func (w *world) keep(m physical.Machine, id dr.PointID) {
	t := w.t
	m.Power = dr.Off
	host, err := physical.Open(physical.Config{Root: t.TempDir(), Machines: []physical.Machine{m}})
	require.NoError(t, err)
	defer host.Close()
	img, err := host.Capture(t.Context(), m.ID, id, dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	w.copy(img, img.Point())
}

func (w *world) copy(img dr.Image, p dr.Point) {
	t := w.t
	d, err := w.store.Create(t.Context(), p)
	require.NoError(t, err)
	defer d.Close()
	_, err = replication.Copy(t.Context(), d, img, replication.CopyOptions{})
	require.NoError(t, err)
}

func (w *world) open(m dr.MachineID, id dr.PointID) dr.Image {
	img, err := w.store.Open(w.t.Context(), m, id)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, img.Close()) })
	return img
}

// whole checks the vault.
func (w *world) whole() {
	for d, err := range w.store.Scrub(w.t.Context()) {
		require.NoError(w.t, err)
		require.Fail(w.t, "damage", "%+v", d)
	}
}

// content is what a disk reads as.
func content(t testing.TB, img dr.Image, id dr.DiskID) []byte {
	d, ok := img.Point().Machine.Disk(id)
	require.True(t, ok)
	b := make([]byte, d.Size)
	n, err := img.ReadAt(t.Context(), id, b, 0)
	require.NoError(t, err)
	require.Len(t, b, n)
	return b
}

// leftovers are machines' folders, and processes of QEMU in them.
func leftovers(t testing.TB, folder string) []string {
	found, err := filepath.Glob(filepath.Join(folder, "*"))
	require.NoError(t, err)
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, folder) {
			found = append(found, l+" is "+to)
		}
	}
	return found
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func says(text string) Evidence { return Serial(regexp.MustCompile(regexp.QuoteMeta(text))) }

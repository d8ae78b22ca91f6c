package remote

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// writeDisk makes a file of size bytes, without holes, of which a quarter is
// random, the rest zeros.
func writeDisk(t testing.TB, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	rnd := rand.NewChaCha8([32]byte{5})
	const piece = 4 << 20
	p, zeros := make([]byte, piece), make([]byte, piece)
	for off := int64(0); off < size; off += piece {
		b := zeros
		if off/piece%4 == 1 {
			_, _ = rnd.Read(p)
			b = p
		}
		_, err := f.Write(b)
		require.NoError(t, err)
	}
}

// A disk of which nothing is known is compared by sums, and nothing but sums
// travels: 16 bytes for 64 KiB. LIFEBOAT_LONG=1 does it with 8 GiB.
func TestResyncOfAnUnchangedDisk(t *testing.T) {
	t.Parallel()
	size := int64(512 << 20)
	if testing.Short() {
		size = 64 << 20
	}
	if os.Getenv("LIFEBOAT_LONG") != "" {
		size = 8 << 30
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.img")
	writeDisk(t, disk, size)
	h, err := physical.Open(physical.Config{
		Root:     filepath.Join(dir, "root"),
		Machines: []physical.Machine{{ID: "m", Power: dr.Off, Disks: []physical.Disk{{ID: "a", Path: disk}}}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	v, err := vault.OpenDir(filepath.Join(dir, "vault"), vault.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { v.Close() })
	_, err = (&replication.Cycle{Source: h, Points: v}).ReplicateAs(t.Context(), "m", "first", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)

	a := serve(t, h, ServeOptions{})
	t.Cleanup(a.stop) // before the host is closed
	line, c := behind(t, a, DialOptions{})
	resync := func(name dr.PointID) (replication.Report, int64, int64) {
		up, down := line.Bytes(faultyline.Up), line.Bytes(faultyline.Down)
		img, err := c.Capture(t.Context(), "m", name, dr.CrashConsistent)
		require.NoError(t, err)
		defer img.Close()
		p := img.Point()
		p.Parent = "first"
		d, err := v.Create(t.Context(), p)
		require.NoError(t, err)
		defer d.Close()
		begun := time.Now()
		r, err := replication.Copy(t.Context(), d, img, replication.CopyOptions{})
		require.NoError(t, err)
		up, down = line.Bytes(faultyline.Up)-up, line.Bytes(faultyline.Down)-down
		t.Logf("%s: %d MiB in %v: %d bytes up, %d down; written %d, equal %d", name, size>>20, time.Since(begun).Round(time.Millisecond), up, down, r.Written, r.Equal)
		require.NoError(t, c.Release(t.Context(), "m", name))
		return r, up, down
	}
	sums := 16 * size / dr.SumBlock
	r, up, down := resync("unchanged")
	require.Zero(t, r.Written)
	require.Equal(t, size, r.Equal+r.Zeroed)
	// Beside the sums: 64 of them in a frame, in a TLS record; a request of a
	// hundred bytes for each.
	require.Less(t, down, sums+sums/4+16<<10)
	require.Less(t, up, sums/4+16<<10)

	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1}, 3<<20)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1}, 5<<20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	r, _, down = resync("changed")
	require.EqualValues(t, 2*dr.SumBlock, r.Written)
	require.Less(t, down, sums+sums/4+16<<10+2*dr.SumBlock+8<<10)
}

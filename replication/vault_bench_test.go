package replication_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// BenchmarkVaultFine is a copy into a vault of what is finer than its chunks: a
// real image file with data and holes of a file system's block in turn or far
// apart, and then changes of such a block each.
func BenchmarkVaultFine(b *testing.B) {
	const size, grain = int64(512 << 20), int64(4 << 10)
	for _, stride := range []int64{8 << 10, 32 << 10, 128 << 10} {
		dir := b.TempDir()
		path := filepath.Join(dir, "disk.raw")
		f, err := os.Create(path)
		require.NoError(b, err)
		require.NoError(b, f.Truncate(size))
		v := vast{size: size, stride: stride, grain: grain}
		p := make([]byte, grain)
		for off := int64(0); off < size; off += stride {
			for i := range p {
				p[i] = byte(off>>13) + byte(i)*byte(i>>8)
			}
			_, err := f.WriteAt(p, off)
			require.NoError(b, err)
		}
		require.NoError(b, f.Sync())
		require.NoError(b, f.Close())
		host, err := physical.Open(physical.Config{Root: filepath.Join(dir, "root"),
			Machines: []physical.Machine{{ID: "m", Power: dr.Off, Disks: []physical.Disk{{ID: "a", Path: path}}}}})
		require.NoError(b, err)
		img, err := host.Capture(b.Context(), "m", "now", dr.CrashConsistent)
		require.NoError(b, err)
		store, err := vault.OpenDir(filepath.Join(dir, "vault"), vault.Options{})
		require.NoError(b, err)
		n := 0
		add := func(b *testing.B, img dr.Image, parent dr.PointID, have replication.History) (dr.PointID, replication.Report) {
			n++
			pt := img.Point()
			pt.ID, pt.Parent, pt.Time = dr.PointID(fmt.Sprint("p", n)), parent, time.Unix(int64(n), 0)
			d, err := store.Create(b.Context(), pt)
			require.NoError(b, err)
			r, err := replication.Copy(b.Context(), d, img, replication.CopyOptions{Have: have})
			require.NoError(b, err)
			require.NoError(b, d.Close())
			return pt.ID, r
		}
		b.Run(fmt.Sprintf("holes/every %dK", stride>>10), func(b *testing.B) {
			b.SetBytes(size / stride * grain)
			var r replication.Report
			for b.Loop() {
				var id dr.PointID
				id, r = add(b, img, "", replication.History{Blank: true})
				b.StopTimer()
				require.NoError(b, store.Delete(b.Context(), "m", id))
				b.StartTimer()
			}
			b.ReportMetric(float64(r.Read>>20), "MiB-read/op")
		})
		base, _ := add(b, img, "", replication.History{Blank: true})
		b.Run(fmt.Sprintf("changes/every %dK", stride>>10), func(b *testing.B) {
			b.SetBytes(size / stride * grain)
			common := img.Point()
			common.ID = base
			var r replication.Report
			for b.Loop() {
				var id dr.PointID
				id, r = add(b, changing{img, v}, base, replication.History{Common: common})
				b.StopTimer()
				require.NoError(b, store.Delete(b.Context(), "m", id))
				b.StartTimer()
			}
			b.ReportMetric(float64(r.Read>>20), "MiB-read/op")
		})
		require.NoError(b, store.Close())
		require.NoError(b, img.Close())
		require.NoError(b, host.Close())
	}
}

// changing is an image whose changes are v's; their bytes are other ones than
// before.
type changing struct {
	dr.Image
	vast
}

func (c changing) Point() dr.Point { return c.Image.Point() }
func (c changing) Close() error    { return nil }

func (c changing) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	n, err := c.Image.ReadAt(ctx, disk, p, off)
	for i := range p[:n] {
		if p[i] != 0 {
			p[i] ^= 0x55
		}
	}
	return n, err
}

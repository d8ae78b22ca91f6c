package fsys_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// device is a block device that may be overwritten: the one of at least 2 MiB
// that LIFEBOAT_TEST_DEVICE names, else a loop device.
func device(t *testing.T) string {
	t.Helper()
	if name := os.Getenv("LIFEBOAT_TEST_DEVICE"); name != "" {
		return name
	}
	file := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, 8<<20))
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		why := fmt.Sprintf("no loop device, which needs root: %v: %s", err, out)
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() { require.NoError(t, exec.Command("losetup", "-d", name).Run()) })
	return name
}

func TestBlockDevice(t *testing.T) {
	name := device(t)
	for _, flag := range []int{0, fsys.Direct} {
		t.Run(fmt.Sprintf("direct=%v", flag != 0), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			f, err := fsys.OS().OpenFile(name, os.O_RDWR|flag, 0)
			require.NoError(t, err)
			defer f.Close()
			size, err := f.Size()
			require.NoError(t, err)
			const window = 2 << 20
			require.GreaterOrEqual(t, size, int64(window))
			base := size - window // its end is where devices differ
			model := make([]byte, window)
			require.NoError(t, f.Punch(base, window+4096), "what lies past the end is ignored")
			start, end, err := f.Data(base)
			require.NoError(t, err)
			require.Equal(t, [2]int64{base, size}, [2]int64{start, end})
			_, _, err = f.Data(size)
			require.ErrorIs(t, err, io.EOF)
			arena := fsys.Aligned(window + fsys.Alignment)
			for range 500 {
				off := r.Int64N(window)
				n := r.Int64N(window-off) + 1
				if r.IntN(2) == 0 {
					off, n = off&^511, min((n+511)&^511, window-off&^511)
				}
				p := arena[[]int64{0, off % fsys.Alignment}[r.IntN(2)]:][:n]
				switch r.IntN(4) {
				case 0:
					require.NoError(t, f.Punch(base+off, n))
					clear(model[off : off+n])
				case 1, 2:
					for i := range p {
						p[i] = byte(r.Uint32())
					}
					_, err := f.WriteAt(p, base+off)
					require.NoError(t, err)
					copy(model[off:], p)
				default:
					_, err := f.ReadAt(p, base+off)
					require.NoError(t, err)
					require.True(t, bytes.Equal(model[off:off+n], p), "[%d, +%d)", off, n)
				}
			}
			require.NoError(t, f.Sync())
			got, err := f.ReadAt(arena[:8192], size-4096)
			require.ErrorIs(t, err, io.EOF)
			require.Equal(t, 4096, got)
		})
	}
}

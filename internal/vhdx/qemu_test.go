package vhdx

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scatter writes pieces of noise and of zeros all over a disk.
func scatter(t testing.TB, rng *rand.Rand, d *Disk, model []byte, times int) {
	t.Helper()
	for range times {
		n := min(1+rng.Int64N(900_000), d.Size())
		off := rng.Int64N(d.Size() - n + 1)
		if rng.IntN(5) == 0 {
			require.NoError(t, d.Zero(off, n))
			clear(model[off:][:n])
			continue
		}
		p := noise(rng, n)
		_, err := d.WriteAt(p, off)
		require.NoError(t, err)
		copy(model[off:], p)
	}
}

func newRand(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// What is written here is what qemu-img reads, and whole in its eyes. It takes
// disks with sectors of 512 bytes only.
func TestQemuReads(t *testing.T) {
	rng := newRand(t)
	for _, block := range []uint32{1 * mib, 8 * mib, 32 * mib} {
		for _, fixed := range []bool{false, true} {
			t.Run(fmt.Sprint(block>>20, fixed), func(t *testing.T) {
				name := filepath.Join(t.TempDir(), "disk.vhdx")
				model := make([]byte, 20*mib+512*rng.Int64N(8000))
				d := create(t, name, Options{Size: int64(len(model)), BlockSize: block, Fixed: fixed})
				scatter(t, rng, d, model, 8)
				require.NoError(t, d.Close())
				qemuImg(t, "check", "-f", "vhdx", name)
				qemuImg(t, "compare", "-f", "vhdx", "-F", "raw", name, plain(t, model))

				// And after it was opened, made larger and written again.
				d = openFile(t, name, OpenOptions{})
				model = append(model, make([]byte, 7*mib)...)
				require.NoError(t, d.Grow(int64(len(model))))
				scatter(t, rng, d, model, 4)
				require.NoError(t, d.Close())
				qemuImg(t, "check", "-f", "vhdx", name)
				qemuImg(t, "compare", "-f", "vhdx", "-F", "raw", name, plain(t, model))
			})
		}
	}
}

// What qemu-img writes is read here, written on, and read again by it.
func TestQemuWrites(t *testing.T) {
	rng := newRand(t)
	for _, o := range []string{"subformat=dynamic", "subformat=fixed", "subformat=dynamic,block_size=1M",
		"subformat=dynamic,block_size=4M,block_state_zero=off", "subformat=fixed,block_size=32M", "log_size=4M"} {
		t.Run(o, func(t *testing.T) {
			model := make([]byte, 16*mib+512*rng.Int64N(5000))
			for range 5 {
				n := rng.Int64N(2 * mib)
				copy(model[rng.Int64N(int64(len(model))-n):], noise(rng, n))
			}
			name := filepath.Join(t.TempDir(), "disk.vhdx")
			qemuImg(t, "convert", "-f", "raw", "-O", "vhdx", "-o", o, plain(t, model), name)
			d := openFile(t, name, OpenOptions{ReadOnly: true})
			require.EqualValues(t, len(model), d.Size())
			requireShows(t, d, model, "as qemu-img made it")
			require.NoError(t, d.Close())

			d = openFile(t, name, OpenOptions{})
			scatter(t, rng, d, model, 6)
			model = append(model, make([]byte, 3*mib)...)
			require.NoError(t, d.Grow(int64(len(model))))
			scatter(t, rng, d, model, 6)
			require.NoError(t, d.Close())
			qemuImg(t, "check", "-f", "vhdx", name)
			qemuImg(t, "compare", "-f", "vhdx", "-F", "raw", name, plain(t, model))
		})
	}
}

// A log that waits is replayed by qemu-img as it is here, in the file and in
// memory.
func TestQemuReplays(t *testing.T) {
	rng := newRand(t)
	dir := t.TempDir()
	model := make([]byte, 40*mib)
	var f memFile
	d, err := Create(&f, Options{Size: int64(len(model)), BlockSize: mib})
	require.NoError(t, err)
	for round := range 4 {
		scatter(t, rng, d, model, 5)
		require.NoError(t, d.Flush())
		// As if power went after the log was durable: the BAT in its place is gone.
		image := make([]byte, f.size)
		_, err := f.ReadAt(image, 0)
		require.NoError(t, err)
		copy(image[createBATAt:], make([]byte, page))
		name := filepath.Join(dir, fmt.Sprintf("dirty%d.vhdx", round))
		require.NoError(t, os.WriteFile(name, image, 0o600))

		held := openFile(t, name, OpenOptions{ReadOnly: true})
		requireShows(t, held, model, "in memory")
		require.NoError(t, held.Close())
		after, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, -1, differs(image, after), "reading changed the file")

		replayed := name + ".ours"
		require.NoError(t, os.WriteFile(replayed, image, 0o600))
		require.NoError(t, openFile(t, replayed, OpenOptions{}).Close())
		qemuImg(t, "check", "-f", "vhdx", replayed)
		qemuImg(t, "compare", "-f", "vhdx", "-F", "raw", replayed, plain(t, model))

		qemuImg(t, "check", "-r", "all", "-f", "vhdx", name)
		qemuImg(t, "compare", "-f", "vhdx", "-F", "raw", name, plain(t, model))
	}
}

package vault_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// TestMemoryDoesNotGrowWithTheDisk writes chunks all over a disk of 1 TiB, so
// that most map pages are written out and read again.
func TestMemoryDoesNotGrowWithTheDisk(t *testing.T) {
	const size = 1<<40 + 512
	writes := 6000
	if testing.Short() {
		writes = 2000
	}
	v := open(t, fsys.OS(), t.TempDir(), vault.Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	places := map[int64]uint64{}
	var order []int64
	for i := range writes {
		at := rng.Int64N(size/chunk) * chunk
		if i%3 == 2 {
			at = order[rng.IntN(len(order))] // again
		}
		order = append(order, at)
	}
	before := heap()
	var peak uint64
	var parent dr.PointID
	for n := range 2 {
		p := dr.Point{ID: dr.PointID(fmt.Sprint(n)), Parent: parent, Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: size}}}}
		d, err := v.Create(t.Context(), p)
		require.NoError(t, err)
		buf := make([]byte, chunk)
		for i, at := range order[n*writes/2:][:writes/2] {
			places[at] = rng.Uint64() | 1
			binary.LittleEndian.PutUint64(buf[100:], places[at])
			_, err := d.WriteAt(t.Context(), "d", buf, at)
			require.NoError(t, err)
			if i%500 == 0 {
				peak = max(peak, heap())
			}
		}
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
		parent = p.ID
	}
	img, err := v.Open(t.Context(), "m", "1")
	require.NoError(t, err)
	defer img.Close()
	data := int64(0)
	for e, err := range img.(dr.Mapper).Extents(t.Context(), "d") {
		require.NoError(t, err)
		if !e.Zero {
			data += e.Len
		}
	}
	require.EqualValues(t, len(places)*chunk, data)
	got := make([]byte, 8)
	for at, want := range places {
		_, err := img.ReadAt(t.Context(), "d", got, at+100)
		require.NoError(t, err)
		require.Equal(t, want, binary.LittleEndian.Uint64(got))
	}
	peak = max(peak, heap())
	require.Less(t, peak-min(peak, before), uint64(64<<20))
	t.Logf("%d MiB", (peak-before)>>20)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

package vault

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Writers of whole chunks and of parts of chunks need the same few packers:
// many of both at once must not wait for each other in a circle.
func TestWholeAndPartialWritersDontBlockEachOther(t *testing.T) {
	s, err := OpenDir(t.TempDir(), Options{})
	require.NoError(t, err)
	defer s.Close()
	const chunks = 256
	d, err := s.Create(t.Context(), dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: chunks * chunkSize}}}})
	require.NoError(t, err)
	defer d.Close()
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for w := range 16 {
		wg.Go(func() {
			p := make([]byte, chunkSize)
			for i := range p {
				p[i] = byte(i * (w + 1) >> 3)
			}
			for c := w; c < chunks; c += 16 {
				step := chunkSize
				if w%2 == 0 {
					step = 4096
				}
				for off := 0; off < chunkSize; off += step {
					if _, err := d.WriteAt(t.Context(), "d", p[off:off+step], int64(c*chunkSize+off)); err != nil {
						errs <- fmt.Errorf("writer %d: %w", w, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p"}))
}

package vmdk

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// The disk is a third noise, a third text, a third zeros; bytes are the disk's.
const benchSize = 64 << 20

func BenchmarkRead(b *testing.B) {
	made := image(b, disk(1, benchSize), Options{})
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(made))
		require.NoError(b, err)
		for _, err := range r.Extents() {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	plain := disk(1, benchSize)
	for _, workers := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("workers%d", workers), func(b *testing.B) {
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				w, err := NewWriter(io.Discard, Options{Capacity: benchSize, Workers: workers})
				require.NoError(b, err)
				_, err = w.WriteAt(plain, 0)
				require.NoError(b, err)
				require.NoError(b, w.Commit())
				b.ReportMetric(float64(w.Written())/benchSize, "image/disk")
			}
		})
	}
}

package blocksum

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// pattern is the input of the official test vectors: bytes that count to 250.
// https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i % 251)
	}
	return p
}

func TestSumMatchesPublishedVectors(t *testing.T) {
	for n, want := range map[int]string{
		2:    "7b7015bb92cf0b318037702a6cdd81de",
		1023: "10108970eeda3eb932baac1428c7a216",
		1024: "42214739f095a406f3fc83deb889744a",
		1025: "d00278ae47eb27b34faecf67b4fe263f",
		8192: "aae792484c8efe4f19e2ca7d371d8c46",
	} {
		require.Equal(t, want, Sum(pattern(n)).String(), "%d bytes", n)
	}
}

func TestZerosHaveTheZeroSum(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 4095, 4096, 4097, 8192, dr.SumBlock} {
		p := make([]byte, n)
		require.True(t, Sum(p).IsZero(), "%d zeros", n)
		for _, at := range []int{0, n / 2, n - 1} {
			if n == 0 {
				break
			}
			p[at] = 1
			require.False(t, Zero(p), "%d bytes, one set at %d", n, at)
			require.False(t, Sum(p).IsZero(), "%d bytes, one set at %d", n, at)
			p[at] = 0
		}
	}
}

func TestSumDoesNotAllocate(t *testing.T) {
	p := pattern(dr.SumBlock)
	require.Zero(t, testing.AllocsPerRun(100, func() { Sum(p) }))
}

func BenchmarkSum(b *testing.B) {
	for name, p := range map[string][]byte{"data": pattern(dr.SumBlock), "zeros": make([]byte, dr.SumBlock)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				Sum(p)
			}
		})
	}
}

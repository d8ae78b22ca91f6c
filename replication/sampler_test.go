package replication

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// BenchmarkSampler is what looking at a block of 64 KiB costs when its bytes
// are in the cache already, as they are right before they are compressed.
func BenchmarkSampler(b *testing.B) {
	noise := make([]byte, dr.SumBlock)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for name, p := range map[string][]byte{"noise": noise, "text": bytes.Repeat([]byte("0123456789abcdef wxyz, 64 bytes "), 2048), "one byte": bytes.Repeat([]byte{7}, dr.SumBlock)} {
		b.Run(name, func(b *testing.B) {
			var s sampler
			b.ReportAllocs()
			for b.Loop() {
				s.look(p)
			}
		})
	}
}

func TestSamplerKnowsNoiseFromText(t *testing.T) {
	noise := rand.NewChaCha8([32]byte{2})
	p := make([]byte, dr.SumBlock)
	var s sampler
	for range 2000 {
		_, _ = noise.Read(p)
		s.look(p)
	}
	require.EqualValues(t, 2000, s.Dense, "seed 2")
	copy(p[dr.SumBlock/2:], bytes.Repeat([]byte("half of it is text, "), 2000))
	s.look(p)
	s.look(p[:512])
	require.EqualValues(t, 2000, s.Dense)
	require.EqualValues(t, 2001, s.Blocks, "too few bytes to tell are not counted")
}

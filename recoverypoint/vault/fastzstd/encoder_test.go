package fastzstd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// check demands that a frame decodes to p, if p is compressed at all.
func check(t testing.TB, e *Encoder, d *zstd.Decoder, p []byte) int {
	prefix := []byte("before")
	out, ok := e.Append(bytes.Clone(prefix), p)
	require.True(t, bytes.HasPrefix(out, prefix))
	if !ok {
		require.Equal(t, prefix, out)
		return len(p)
	}
	require.Less(t, len(out)-len(prefix), len(p))
	got, err := d.DecodeAll(out[len(prefix):], nil)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, got), "%d bytes", len(p))
	return len(out) - len(prefix)
}

func decoder(t testing.TB) *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(MaxBlock), zstd.WithDecoderMaxMemory(MaxBlock))
	require.NoError(t, err)
	t.Cleanup(d.Close)
	return d
}

// logLines is text as log files have it.
func logLines(rng *rand.Rand, n int) []byte {
	words := make([]string, 4096)
	for i := range words {
		b := make([]byte, 3+rng.IntN(9))
		for k := range b {
			b[k] = 'a' + byte(rng.IntN(26))
		}
		words[i] = string(b)
	}
	var p []byte
	for len(p) < n {
		p = fmt.Appendf(p, "%d INFO id=%x", 1_700_000_000+len(p), rng.Uint64())
		for range 12 {
			r := rng.Float64()
			p = append(append(p, ' '), words[int(r*r*4095)]...)
		}
		p = append(p, '\n')
	}
	return p[:n]
}

func TestWhatIsWrittenIsReadByAnotherDecoder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var e Encoder
	d := decoder(t)
	sizes := []int{0, 1, 16, 31, 32, 33, 64, 100, 255, 256, 257, 511, 512, 1000, 1023, 1024, 1025, 4095, 4096, 5000, 16383, 16384, 16385, 40000, 65535, MaxBlock}
	for _, n := range sizes {
		check(t, &e, d, make([]byte, n))
		check(t, &e, d, bytes.Repeat([]byte{1, 2, 3}, n)[:n])
		check(t, &e, d, logLines(rng, n))
		noise := make([]byte, n)
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		require.Equal(t, n, check(t, &e, d, noise))
	}
	_, ok := e.Append(nil, make([]byte, MaxBlock+1))
	require.False(t, ok)
	rounds := 1500
	if testing.Short() {
		rounds = 200
	}
	for range rounds {
		// Pieces of all kinds: copies near and far, runs, noise of few and
		// many symbols.
		n := 1 + rng.IntN(MaxBlock)
		var p []byte
		few := 1 + rng.IntN(256)
		for len(p) < n {
			k := 1 + int(float64(n)*rng.Float64()*rng.Float64()*rng.Float64())
			switch rng.IntN(5) {
			case 0:
				p = append(p, bytes.Repeat([]byte{byte(rng.Uint32())}, k)...)
			case 1, 2:
				if len(p) > 0 {
					from := rng.IntN(len(p))
					p = append(p, p[from:min(len(p), from+k)]...)
				}
			case 3:
				for range k {
					p = append(p, byte(rng.IntN(few)))
				}
			case 4:
				p = append(p, logLines(rng, min(k, 500))...)
			}
		}
		check(t, &e, d, p[:n])
	}
}

func FuzzAppend(f *testing.F) {
	f.Add([]byte("hello hello hello hello hello hello hello hello"))
	f.Add(bytes.Repeat([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8}, 1000))
	d := decoder(f)
	var e Encoder
	f.Fuzz(func(t *testing.T, p []byte) {
		check(t, &e, d, p)
		check(t, &e, d, append(p, p...))
	})
}

func BenchmarkAppend(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	var texts [][]byte
	all := logLines(rng, 64*MaxBlock)
	for i := range 64 {
		texts = append(texts, all[i*MaxBlock:][:MaxBlock])
	}
	noise := make([]byte, MaxBlock)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	general, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(MaxBlock), zstd.WithEncoderCRC(false))
	require.NoError(b, err)
	var e Encoder
	out := make([]byte, 0, 2*MaxBlock)
	run := func(name string, blocks [][]byte, encode func(p []byte) int) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(MaxBlock)
			b.ReportAllocs()
			size, i := 0, 0
			for ; b.Loop(); i++ {
				size += encode(blocks[i%len(blocks)])
			}
			b.ReportMetric(float64(size)/float64(i)/MaxBlock*100, "%size")
		})
	}
	ours := func(p []byte) int { o, _ := e.Append(out, p); return len(o) }
	run("text", texts, ours)
	run("noise", [][]byte{noise}, ours)
	run("text/general", texts, func(p []byte) int { return len(general.EncodeAll(p, out)) })
}

package azuretest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A model that is only bytes and flags says the same of any history.
func TestPagesAgreeWithAModel(t *testing.T) {
	const size = 5*chunkSize + 3*pageSize
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p, data, written := newPages(size), make([]byte, size), make([]bool, size/pageSize)
		type moment struct {
			frozen  *pages
			data    []byte
			touched []bool // since then
		}
		var moments []moment
		for range 60 {
			off := rng.Int64N(size/pageSize) * pageSize
			n := min(size-off, (1+rng.Int64N(300))*pageSize)
			touch := func(w bool) {
				for i := off / pageSize; i < (off+n)/pageSize; i++ {
					was := written[i]
					written[i] = w
					for _, m := range moments {
						m.touched[i] = m.touched[i] || w || was
					}
				}
			}
			switch rng.IntN(4) {
			case 0, 1:
				b := make([]byte, n)
				for i := range b {
					b[i] = byte(rng.Uint32()) | 1
				}
				require.NoError(t, p.writeAt(b, off))
				copy(data[off:], b)
				touch(true)
			case 2:
				require.NoError(t, p.clearAt(off, n))
				clear(data[off : off+n])
				touch(false)
			case 3:
				moments = append(moments, moment{p.freeze(), bytes.Clone(data), make([]bool, size/pageSize)})
			}
		}
		same := func(p *pages, want []byte) {
			got := make([]byte, size)
			_, err := p.readAt(got, 0)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got), "seed %d", seed)
		}
		same(p, data)
		same(p.copy(), data)
		inRanges := make([]bool, size/pageSize)
		for _, s := range p.ranges(0, size) {
			for i := s.off / pageSize; i < (s.off+s.n)/pageSize; i++ {
				inRanges[i] = true
			}
		}
		require.Equal(t, written, inRanges)
		for _, m := range moments {
			same(m.frozen, m.data)
			changed, cleared, err := p.diff(m.frozen, 0, size)
			require.NoError(t, err)
			told := make([]byte, size/pageSize)
			for k, list := range [][]span{changed, cleared} {
				for _, s := range list {
					for i := s.off / pageSize; i < (s.off+s.n)/pageSize; i++ {
						require.Zero(t, told[i])
						told[i] = byte(k + 1)
					}
				}
			}
			for i, k := range told {
				switch {
				case m.touched[i]:
					require.NotZero(t, k, "page %d was touched", i)
					require.Equal(t, written[i], k == 1)
				case k == 1:
					require.True(t, false, "page %d was not touched", i)
				}
			}
		}
	}
}

func TestOtherLinesAreNotCompared(t *testing.T) {
	a := newPages(chunkSize)
	b := a.copy()
	_, _, err := b.diff(a.freeze(), 0, chunkSize)
	require.Error(t, err)
	early := a.freeze()
	late := a.freeze()
	_, _, err = early.diff(late, 0, chunkSize)
	require.Error(t, err, "a later moment is no base")
	require.Error(t, early.writeAt(make([]byte, pageSize), 0))
}

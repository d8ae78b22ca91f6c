package winhost

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// strict is a disk in memory that refuses what a virtual disk would.
type strict struct {
	t      *testing.T
	mu     sync.RWMutex
	bytes  []byte
	sector int64
	fail   error
}

func (d *strict) check(p []byte, off int64) {
	if off%d.sector != 0 || int64(len(p))%d.sector != 0 || address(p)%uintptr(d.sector) != 0 || len(p) == 0 ||
		off < 0 || off+int64(len(p)) > int64(len(d.bytes)) {
		d.t.Errorf("request of %d at %d of %d", len(p), off, len(d.bytes))
	}
}

func (d *strict) read(p []byte, off int64) error {
	d.check(p, off)
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.bytes[off:])
	return d.fail
}

func (d *strict) write(p []byte, off int64) error {
	d.check(p, off)
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.bytes[off:], p)
	return d.fail
}

func TestAnyRequestBecomesWholeSectors(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, sector := range []int64{512, 4096} {
		size := 3*int64(window) + sector
		dev := &strict{t: t, bytes: make([]byte, size), sector: sector}
		s := newSectors(dev, size, sector)
		model := make([]byte, size)
		for range 120 {
			off := r.Int64N(size)
			n := r.Int64N(size-off) + 1
			if r.IntN(3) > 0 {
				n = min(n, 3*sector)
			}
			if r.IntN(3) == 0 {
				off = s.down(off)
			}
			p := fsys.Aligned(int(n) + 8)[r.IntN(2)*8:][:n]
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			if r.IntN(2) == 0 {
				got, err := s.WriteAt(p, off)
				require.NoError(t, err)
				require.EqualValues(t, n, got)
				copy(model[off:], p)
			} else {
				got, err := s.ReadAt(p, off)
				require.NoError(t, err)
				require.EqualValues(t, n, got)
				require.True(t, bytes.Equal(model[off:off+n], p), "%d at %d", n, off)
			}
		}
		require.True(t, bytes.Equal(model, dev.bytes))
	}
}

func TestTheEndOfADisk(t *testing.T) {
	dev := &strict{t: t, bytes: bytes.Repeat([]byte{7}, 2048), sector: 512}
	s := newSectors(dev, 2048, 512)
	p := make([]byte, 100)
	n, err := s.ReadAt(p, 2000)
	require.Equal(t, 48, n)
	require.Equal(t, io.EOF, err)
	n, err = s.ReadAt(p, 2048)
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)
	_, err = s.ReadAt(p, -1)
	require.Error(t, err)
	for _, off := range []int64{-1, 1949, 2048, 2049, 1 << 62} {
		n, err = s.WriteAt(p, off)
		require.Zero(t, n)
		require.Error(t, err)
	}
	require.Equal(t, bytes.Repeat([]byte{7}, 2048), dev.bytes, "nothing was written")
	dev.fail = errors.New("broken")
	_, err = s.ReadAt(p, 0)
	require.ErrorIs(t, err, dev.fail)
	_, err = s.WriteAt(p, 3)
	require.ErrorIs(t, err, dev.fail)
}

// Neighbours within one sector don't lose each other's bytes.
func TestWritersWithinOneSector(t *testing.T) {
	dev := &strict{t: t, bytes: make([]byte, 4096), sector: 4096}
	s := newSectors(dev, 4096, 4096)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for range 50 {
				if _, err := s.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 64), int64(i)*64); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 64 {
		require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, 64), dev.bytes[i*64:][:64])
	}
}

func TestChangesAscend(t *testing.T) {
	got, last, err := ascending([]changed{{off: 300, len: 100}, {off: 100, len: 50}, {off: 150, len: 20}, {off: 160, len: 5}}, 100, 120, 350)
	require.NoError(t, err)
	require.Equal(t, []host.Range{{Off: 120, Len: 50}, {Off: 300, Len: 50}}, got, "cut at what was said before and at the end")
	require.EqualValues(t, 350, last)
	for _, bad := range []changed{{off: 99, len: 1}, {off: 1000, len: 1}, {off: 1 << 63, len: 1 << 63}, {off: 200, len: ^uint64(0)}} {
		_, _, err := ascending([]changed{bad}, 100, 100, 350)
		require.ErrorIs(t, err, host.ErrTrackingLost)
	}
	got, last, err = ascending(nil, 0, 77, 350)
	require.NoError(t, err)
	require.Empty(t, got)
	require.EqualValues(t, 77, last)
}

// Whatever a host answers: the ranges that are taken are in order, within the
// disk, and cover every change in it.
func FuzzChanges(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		const size = 256
		var answer []changed
		var want [size]bool
		for ; len(b) >= 2; b = b[2:] {
			c := changed{off: uint64(b[0]), len: uint64(b[1])}
			answer = append(answer, c)
			for i := c.off; i < min(size, c.off+c.len); i++ {
				want[i] = true
			}
		}
		got, _, err := ascending(answer, 0, 0, size)
		require.NoError(t, err)
		var covered [size]bool
		end := int64(-1)
		for _, r := range got {
			require.Greater(t, r.Off, end, "in order, and neighbours are one")
			require.Positive(t, r.Len)
			end = r.Off + r.Len
			require.LessOrEqual(t, end, int64(size))
			for i := r.Off; i < end; i++ {
				covered[i] = true
			}
		}
		require.Equal(t, want, covered)
	})
}

package replication

import (
	"context"
	"math"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// samplePieces of samplePiece bytes are looked at of each block, one a
	// file system's page of 4 KiB: a cache line each. A sample costs about
	// a microsecond; storing the block costs a hundred.
	samplePieces = 16
	samplePiece  = 64
	sampleSize   = samplePieces * samplePiece

	// dense is the entropy of a sample, in bits a byte, from which on a block
	// counts as random. 1 KiB of random bytes has 7.82, give or take 0.02;
	// machine code has about 6.3, half random and half text 7.0.
	dense = 7.6
)

// sampler measures what one worker writes.
type sampler struct {
	dr.ChangeStats
	hist     [256]uint16
	was, now []int32 // stored sizes of a request's blocks
	asked    bool    // was is of the request under way
}

// measured sums up what the workers of all passes have measured.
type measured struct {
	mu sync.Mutex
	dr.ChangeStats
}

func (m *measured) add(s *sampler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Blocks += s.Blocks
	m.Dense += s.Dense
	for i, n := range s.Entropy {
		m.Entropy[i] += n
	}
	m.Known += s.Known
	m.Fresh += s.Fresh
	m.Over += s.Over
	m.Turned += s.Turned
	m.Grown += s.Grown
	m.Shrunk += s.Shrunk
}

// changeStats is what was measured, once all workers are done.
func (c *copier) changeStats() dr.ChangeStats {
	if !c.o.Measure {
		return dr.ChangeStats{}
	}
	s := c.sample.ChangeStats
	s.Written, s.Equal, s.Zeroed = c.counts.written.Load(), c.counts.equal.Load(), c.counts.zeroed.Load()
	s.Complete = !c.done.Adopted && c.counts.resumed.Load() == 0
	for _, d := range c.disks {
		// Without sums all of it was written, changed or not, and only a
		// Packer tells which.
		if d.unknown && (c.srcSum == nil || c.o.Full) && c.packer == nil {
			s.Complete = false
		}
	}
	return s
}

// before looks at a request's bytes, and asks what its blocks take as yet.
func (s *sampler) before(ctx context.Context, c *copier, d *disk, p []byte, off int64) error {
	for rest, at := p, off; len(rest) > 0; {
		b := block(rest, at)
		s.look(b)
		rest, at = rest[len(b):], at+int64(len(b))
	}
	// A draft that keeps blocks is written in whole ones.
	s.asked = c.packer != nil && off%dr.SumBlock == 0 && (len(p)%dr.SumBlock == 0 || off+int64(len(p)) == d.Size)
	if !s.asked {
		return nil
	}
	n := (len(p) + dr.SumBlock - 1) / dr.SumBlock
	if cap(s.was) < n {
		s.was, s.now = make([]int32, n), make([]int32, n)
	}
	s.was, s.now = s.was[:n], s.now[:n]
	return c.packer.Packed(ctx, d.ID, off, s.was)
}

// after compares with what the blocks take now.
func (s *sampler) after(ctx context.Context, c *copier, d *disk, p []byte, off int64) error {
	if !s.asked {
		return nil
	}
	if err := c.packer.Packed(ctx, d.ID, off, s.now); err != nil {
		return err
	}
	for i := range s.was {
		was, now := int(s.was[i]), int(s.now[i])
		if was < 0 || now < 0 {
			continue
		}
		n := min(len(p)-i*dr.SumBlock, dr.SumBlock)
		s.Known++
		switch packs := dr.Packs(now, n); {
		case was == 0 && !packs:
			s.Fresh++
		case was != 0 && dr.Packs(was, n):
			s.Over++
			if !packs {
				s.Turned++
			}
		}
		if was != 0 && now != 0 {
			s.Grown += int64(max(0, now-was))
			s.Shrunk += int64(max(0, was-now))
		}
	}
	return nil
}

// look samples a block.
func (s *sampler) look(b []byte) {
	step := len(b) / samplePieces
	if step < samplePiece {
		return // too few bytes to tell
	}
	clear(s.hist[:])
	for i := range samplePieces {
		// Not at the same place of every page: pages of databases begin with
		// headers and end with gaps.
		at := i*step + i*(step-samplePiece)/(samplePieces-1)
		for _, c := range b[at : at+samplePiece] {
			s.hist[c]++
		}
	}
	var sum float32
	for _, n := range s.hist {
		sum += weight[n]
	}
	bits := max(0, 10-sum/sampleSize)
	s.Blocks++
	s.Entropy[min(15, int(bits*2))]++
	if bits >= dense {
		s.Dense++
	}
}

// weight of n equal bytes in a sample is n·log2(n); the sample's entropy is
// log2 of its size less their mean.
var weight = func() (w [sampleSize + 1]float32) {
	for n := 2; n <= sampleSize; n++ {
		w[n] = float32(float64(n) * math.Log2(float64(n)))
	}
	return w
}()

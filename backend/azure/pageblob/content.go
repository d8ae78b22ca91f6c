package pageblob

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// content is what a point's disks read as. What lies beyond a disk's end, or is
// of a disk that the point lacks, reads as zeros.
type content interface {
	readAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) error
	// zero tells whether the range is known to read as zeros; it says no where
	// finding out costs as much as reading.
	zero(ctx context.Context, disk dr.DiskID, off, n int64) (bool, error)
}

// zeros is the content of no point.
type zeros struct{}

func (zeros) readAt(_ context.Context, _ dr.DiskID, p []byte, _ int64) error {
	clear(p)
	return nil
}

func (zeros) zero(context.Context, dr.DiskID, int64, int64) (bool, error) { return true, nil }

// overlay is content that a point has over its parent's.
type overlay struct {
	under content
	disk  func(id dr.DiskID) (size int64, over pieces)
	// read fills p from a segment's data.
	read func(ctx context.Context, seg int32, p []byte, at int64) error
}

func (o *overlay) readAt(ctx context.Context, id dr.DiskID, p []byte, off int64) error {
	size, over := o.disk(id)
	n := max(0, min(int64(len(p)), size-off))
	clear(p[n:])
	return readOver(ctx, over.within(off, off+n), p[:n], off, o.read, func(p []byte, off int64) error {
		return o.under.readAt(ctx, id, p, off)
	})
}

// readOver fills p, which is the disk from off on, from pieces and from what is
// under the gaps between them.
func readOver(ctx context.Context, l iter.Seq2[piece, bool], p []byte, off int64,
	read func(ctx context.Context, seg int32, p []byte, at int64) error, under func(p []byte, off int64) error) error {
	for q, known := range l {
		b := p[q.off-off : q.end()-off]
		var err error
		switch {
		case !known:
			err = under(b, q.off)
		case q.at == isZero:
			clear(b)
		case q.seg == noSegment:
			err = fmt.Errorf("%w: bytes that are in no segment", dr.ErrCorrupt)
		default:
			err = read(ctx, q.seg, b, int64(q.at))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *overlay) zero(ctx context.Context, id dr.DiskID, off, n int64) (bool, error) {
	size, over := o.disk(id)
	for q, known := range over.within(off, min(off+n, size)) {
		switch {
		case !known:
			if ok, err := o.under.zero(ctx, id, q.off, q.n); !ok || err != nil {
				return false, err
			}
		case q.at != isZero:
			return false, nil
		}
	}
	return true, nil
}

// received returns the content of a point that has staged data only.
func (s *Store) received(m dr.MachineID, mf *manifest, under content) content {
	return &overlay{
		under: under,
		disk: func(id dr.DiskID) (int64, pieces) {
			i, ok := mf.disk(id)
			if !ok {
				return 0, nil
			}
			return mf.Disks[i].Size, mf.delta[i]
		},
		read: func(ctx context.Context, seg int32, p []byte, at int64) error {
			return s.segments.read(ctx, machineDir(m)+stageDir+mf.Draft+"/"+mf.Segments[seg], p, at)
		},
	}
}

// processed is content in snapshots.
type processed struct {
	mf    *manifest
	disks map[dr.DiskID]*frozen
}

func (s *Store) processed(m dr.MachineID, mf *manifest) (*processed, error) {
	c := &processed{mf, map[dr.DiskID]*frozen{}}
	for _, d := range mf.Disks {
		f, err := s.frozen(machineDir(m)+d.Blob, d.Snapshot, d.Size)
		if err != nil {
			return nil, err
		}
		c.disks[d.ID] = f
	}
	return c, nil
}

func (c *processed) readAt(ctx context.Context, id dr.DiskID, p []byte, off int64) error {
	f := c.disks[id]
	if f == nil {
		clear(p)
		return nil
	}
	n := max(0, min(int64(len(p)), f.size-off))
	clear(p[n:])
	return f.readAt(ctx, p[:n], off)
}

func (c *processed) zero(ctx context.Context, id dr.DiskID, off, n int64) (bool, error) {
	f := c.disks[id]
	if f == nil {
		return true, nil
	}
	return f.zero(ctx, off, min(n, f.size-off))
}

// pointContent is that of a point in the head, wherever it is: its data moves
// from the stage to snapshots while it is being read.
type pointContent struct {
	s   *Store
	m   dr.MachineID
	seq uint64

	mu sync.Mutex
	c  content
}

// contentOf returns the content of the point of that number; 0: zeros.
func (s *Store) contentOf(m dr.MachineID, seq uint64) content {
	if seq == 0 {
		return zeros{}
	}
	return &pointContent{s: s, m: m, seq: seq}
}

func (p *pointContent) find(ctx context.Context) (content, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.c != nil {
		return p.c, nil
	}
	h, _, err := p.s.readHead(ctx, p.m)
	if err != nil {
		return nil, err
	}
	e := h.bySeq(p.seq)
	if e == nil || e.Bare {
		return nil, fmt.Errorf("%w: the content of point number %d, which was deleted meanwhile", dr.ErrNotFound, p.seq)
	}
	mf, err := p.s.readManifest(ctx, p.m, *e)
	if err != nil {
		return nil, err
	}
	if e.Received {
		p.c = p.s.received(p.m, mf, p.s.contentOf(p.m, e.Parent))
	} else if p.c, err = p.s.processed(p.m, mf); err != nil {
		return nil, err
	}
	return p.c, nil
}

// with calls do on the content, and again if what it was on is gone.
func (p *pointContent) with(ctx context.Context, do func(content) error) error {
	const tries = 3
	for try := 1; ; try++ {
		c, err := p.find(ctx)
		if err == nil {
			err = do(c)
		}
		if err == nil || !isNotFound(err) || try == tries {
			return err
		}
		p.mu.Lock()
		if p.c == c {
			p.c = nil
		}
		p.mu.Unlock()
	}
}

func (p *pointContent) readAt(ctx context.Context, id dr.DiskID, b []byte, off int64) error {
	return p.with(ctx, func(c content) error { return c.readAt(ctx, id, b, off) })
}

func (p *pointContent) zero(ctx context.Context, id dr.DiskID, off, n int64) (ok bool, err error) {
	err = p.with(ctx, func(c content) error {
		ok, err = c.zero(ctx, id, off, n)
		return err
	})
	return ok, err
}

// sum fills sums with those of a disk's blocks, as dr.Summer says. Zeros that
// are known are not read.
func sum(ctx context.Context, c content, id dr.DiskID, size, off int64, sums []dr.Sum) error {
	const block = dr.SumBlock
	blocks := (size + block - 1) / block
	switch {
	case off < 0 || off%block != 0:
		return fmt.Errorf("%w: sums begin at multiples of %d", dr.ErrInvalid, block)
	case int64(len(sums)) > blocks-off/block:
		return fmt.Errorf("%w: %d sums asked for, the disk has %d blocks", dr.ErrOutOfRange, len(sums), blocks)
	}
	const most = maxPages / block // blocks that are read at once
	var buf []byte
	for i := 0; i < len(sums); {
		if err := ended(ctx); err != nil {
			return err
		}
		at := off + int64(i)*block
		if ok, err := c.zero(ctx, id, at, block); err != nil {
			return err
		} else if ok {
			sums[i] = dr.Sum{}
			i++
			continue
		}
		n := 1
		for i+n < len(sums) && n < most {
			ok, err := c.zero(ctx, id, at+int64(n)*block, block)
			if err != nil {
				return err
			}
			if ok {
				break
			}
			n++
		}
		want := min(int64(n)*block, size-at)
		if int64(cap(buf)) < want {
			buf = make([]byte, want)
		}
		buf = buf[:want]
		if err := c.readAt(ctx, id, buf, at); err != nil {
			return err
		}
		for k := range n {
			sums[i+k] = blocksum.Sum(buf[k*block : min((k+1)*block, len(buf))])
		}
		i += n
	}
	return nil
}

func isContextEnd(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

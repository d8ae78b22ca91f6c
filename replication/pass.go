package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// jobExtents is how many extents of one chunk go to a worker at once: a
	// chunk of 1 MiB holds so many of change tracking's 64 KiB blocks.
	jobExtents = 16
	// compareSpan is how much of a disk is summed by one call: enough for
	// the call not to count, little enough for cancelling to be prompt.
	compareSpan = 64 * dr.SumBlock
	// zeroSpan bounds one Zero, so that progress is seen on huge holes.
	zeroSpan = 1 << 30
)

// disk is one disk of the image being copied.
type disk struct {
	dr.Disk
	unknown bool           // its changes were not known
	flying  sync.WaitGroup // jobs given to workers and not done
	done    atomic.Int64   // how far the pass is, in bytes of the disk
	moved   atomic.Int64   // bytes that travelled, over all passes
	gauge   gauge
}

// job is the work of one worker at a time: extents of one chunk of one disk.
// It travels by value, so that extents cost no allocation.
type job struct {
	disk    *disk
	compare bool
	from    int64 // where the job before it ended: gaps count as done
	n       int
	ext     [jobExtents]dr.Extent
}

// add takes e in if it is of the same chunk and there is room.
func (j *job) add(e dr.Extent, chunk int64) bool {
	if j.n == 0 {
		j.ext[0], j.n = e, 1
		return true
	}
	last := &j.ext[j.n-1]
	if j.ext[0].Off/chunk != e.Off/chunk {
		return false
	}
	if last.End() == e.Off && last.Zero == e.Zero {
		last.Len += e.Len
		return true
	}
	if j.n == len(j.ext) {
		return false
	}
	j.ext[j.n] = e
	j.n++
	return true
}

// end is where the job's last extent ends.
func (j *job) end() int64 {
	if j.n == 0 {
		return j.from
	}
	return j.ext[j.n-1].End()
}

// pass copies all disks once. Every disk has a goroutine that finds its
// extents, lazily; all hand them to the same workers over a channel without
// buffer, which serves those that wait in turn: a small disk is not behind a
// large one, and a large one alone has all workers.
func (c *copier) pass(ctx context.Context, live bool) error {
	c.passes++
	p := &pass{copier: c, first: c.passes == 1, live: live, work: make(chan job)}
	p.blank = p.first && c.o.Have.Blank
	c.meter.begin(c.passes)
	g, ctx := errgroup.WithContext(ctx)
	var feeders sync.WaitGroup
	for _, d := range c.disks {
		d.done.Store(0)
		feeders.Add(1)
		g.Go(func() error {
			defer feeders.Done()
			return p.feed(ctx, d)
		})
	}
	g.Go(func() error {
		feeders.Wait()
		close(p.work)
		return nil
	})
	for range c.o.Readers {
		g.Go(func() error {
			w := worker{pass: p}
			if c.o.Measure {
				w.sampler = &sampler{}
				defer c.sample.add(w.sampler)
			}
			return w.run(ctx)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, d := range c.disks {
		c.meter.finish(d)
	}
	return nil
}

type pass struct {
	*copier
	first bool
	live  bool // there may be another pass
	blank bool // the draft reads as zeros
	work  chan job
}

// feed hands the disk's extents to the workers: those that may differ where
// both histories are known, else the whole disk.
func (p *pass) feed(ctx context.Context, d *disk) error {
	if p.o.Full || p.blank {
		d.unknown = d.unknown || !p.blank
		return p.feedWhole(ctx, d)
	}
	changes, known := p.changes(ctx, d)
	if !known {
		d.unknown = true
		return p.feedWhole(ctx, d)
	}
	if changes == nil {
		return p.feedWhole(ctx, d)
	}
	err := p.queue(ctx, d, false, p.missing(ctx, d, p.stored(changes, d), false))
	if !errors.Is(err, dr.ErrChangesLost) && !errors.Is(err, errDisorder) {
		return err
	}
	// Behind a promise half kept there may be jobs under way, and no two
	// may touch the same bytes.
	d.flying.Wait()
	d.done.Store(0)
	d.unknown = true
	return p.feedWhole(ctx, d)
}

// changes returns what may differ between the draft and the image. It is not
// known if there is a history missing; it is nil for a disk that the common
// point doesn't have, all of which is new.
func (p *pass) changes(ctx context.Context, d *disk) (seq extents, known bool) {
	tracker, ok := dr.As[dr.ChangeTracker](p.src)
	common := p.o.Have.Common
	if !p.first {
		// What was written since the pass before.
		if !ok {
			return nil, false
		}
		return p.named(ordered(tracker.Changes(ctx, d.ID, common), d.Size), "changes", dr.SourceSide, d), true
	}
	if common.ID == "" {
		return nil, false
	}
	was, there := common.Machine.Disk(d.ID)
	if !there {
		return nil, true
	}
	if !ok {
		return nil, false
	}
	seq = p.named(ordered(tracker.Changes(ctx, d.ID, common), d.Size), "changes", dr.SourceSide, d)
	known0 := was.Size // behind it nothing is known of the draft
	if theirs := p.o.Have.Theirs; theirs != nil {
		tracker, ok := dr.As[dr.ChangeTracker](theirs)
		if !ok {
			return nil, false
		}
		now, there := theirs.Point().Machine.Disk(d.ID)
		if !there {
			return nil, false
		}
		known0 = min(known0, now.Size)
		seq = union(seq, p.named(ordered(tracker.Changes(ctx, d.ID, common), d.Size), "changes", dr.TargetSide, d))
	}
	return cover(seq, known0, d.Size), true
}

// feedWhole hands over the whole disk, to be compared if both sides have sums.
func (p *pass) feedWhole(ctx context.Context, d *disk) error {
	seq := whole(d.Size)
	if m, ok := dr.As[dr.Mapper](p.src); ok {
		seq = cover(p.named(ordered(m.Extents(ctx, d.ID), d.Size), "extents", dr.SourceSide, d), 0, d.Size)
	}
	compare := p.srcSum != nil && !p.o.Full && !p.blank
	if compare {
		if p.zeroer == nil {
			seq = whole(d.Size) // zeros that are there already need not be written
		} else {
			seq = snap(seq, d.Size)
		}
	} else {
		seq = p.stored(seq, d)
	}
	return p.queue(ctx, d, compare, p.missing(ctx, d, seq, compare))
}

// stored widens extents to the blocks that a draft with sums keeps: a block
// that comes in pieces is read back, merged, and perhaps stored more than once,
// which costs more than to read all of it from the image.
func (p *pass) stored(seq extents, d *disk) extents {
	if _, ok := dr.As[dr.Summer](p.dst); !ok {
		return seq
	}
	return blocks(seq, d.Size)
}

// missing leaves out what an interrupted copy has made durable.
func (p *pass) missing(ctx context.Context, d *disk, seq extents, blocks bool) extents {
	r, ok := dr.As[dr.Resumer](p.dst)
	if !ok || !p.first || p.live {
		return seq
	}
	have := p.named(r.Durable(ctx, d.ID), "durable", dr.TargetSide, d)
	if blocks {
		have = inwards(have, d.Size)
	}
	return without(seq, have, func(n int64) {
		p.counts.changed.Add(n)
		p.counts.resumed.Add(n)
	})
}

// named gives the errors of a sequence their place.
func (p *pass) named(seq extents, op string, side dr.Side, d *disk) extents {
	return func(yield func(dr.Extent, error) bool) {
		for e, err := range seq {
			if err != nil {
				err = p.fail(op, side, d.ID, -1, err)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// queue cuts extents into requests and hands them to the workers.
func (p *pass) queue(ctx context.Context, d *disk, compare bool, seq extents) error {
	j := job{disk: d, compare: compare}
	for e, err := range seq {
		if err != nil {
			return err
		}
		if e.Zero && p.blank {
			if ctx.Err() != nil {
				return p.stopped(ctx)
			}
			continue
		}
		span := p.chunk
		switch {
		case compare && !e.Zero:
			span = compareSpan
		case e.Zero && p.zeroer != nil:
			span = zeroSpan
		}
		for e.Len > 0 {
			end := min(e.End(), e.Off-e.Off%span+span)
			piece := between(e, e.Off, end)
			if !j.add(piece, span) {
				if err := p.send(ctx, &j); err != nil {
					return err
				}
				j.add(piece, span)
			}
			e = between(e, end, e.End())
		}
	}
	if j.n > 0 {
		if err := p.send(ctx, &j); err != nil {
			return err
		}
	}
	d.done.Add(d.Size - j.from)
	return nil
}

// send hands over j and empties it.
func (p *pass) send(ctx context.Context, j *job) error {
	j.disk.flying.Add(1)
	select {
	case p.work <- *j:
		for _, e := range j.ext[:j.n] {
			p.counts.changed.Add(e.Len)
		}
		j.from, j.n = j.end(), 0
		return nil
	case <-ctx.Done():
		j.disk.flying.Done()
		return p.stopped(ctx)
	}
}

// stopped tells that the caller ended the copy. Where another goroutine failed
// that error came first, and this one isn't seen.
func (p *pass) stopped(ctx context.Context) error {
	return p.fail("copy", "", "", -1, fmt.Errorf("stopped: %w", context.Cause(ctx)))
}

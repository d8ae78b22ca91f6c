package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// History is what is known of a draft's present content. It carries both
// sides' histories, so that only what can differ is copied; where something
// is not known the copy does more, never less.
//
// The zero History knows nothing: blocks are compared by their sums where
// both sides are dr.Summer, else everything is copied.
type History struct {
	// Blank says that the draft reads as zeros, but for what a Copy of the same
	// frozen image wrote before. It wins over Common.
	Blank bool
	// Common is a point from which both the image and the draft descend;
	// one without an ID is none.
	Common dr.Point
	// Theirs tells by dr.ChangeTracker what changed on the draft's side
	// since Common; nil says that nothing did: the draft is Common exactly.
	// It is the draft's content before the first byte is written, and must
	// stay readable until Copy returns. Copy doesn't close it.
	Theirs dr.Image
}

// CopyOptions are the knobs of a Copy. The zero value knows nothing of the
// draft (see History), and copies with eight requests of 1 MiB in flight.
type CopyOptions struct {
	Have History
	// Readers bounds the requests in flight over all disks; 0: 8.
	Readers int
	// Chunk is the largest request in bytes; 0: 1 MiB. Requests don't cross
	// multiples of it, so that what is stored in aligned blocks is written
	// in whole blocks. Above dr.SumBlock it is rounded down to a multiple.
	Chunk int
	// Limit, if set, bounds the bytes a second that travel. Its burst must
	// not be zero.
	Limit *rate.Limiter
	// Limits are more of the same: bytes pass each. So one copy can be bounded
	// by its link's limit and by that of all links together.
	Limits []*rate.Limiter
	// Progress, if set, is called often, by one goroutine at a time. It must
	// not block. Done says how far on the disk the copy is, of a Total that
	// is the disk's size: what need not be copied counts as done when the
	// copy has come past it. Rate counts only bytes that travelled. Each
	// pass of a dr.Settler begins again at 0.
	Progress func(dr.Progress)
	// Full copies every byte without comparing sums, for when most of it is
	// known to have changed. Changes and Theirs are not asked.
	Full bool
	// Measure gathers dr.ChangeStats of what is written, for the point that is
	// committed. It is for points in stores: replicas have no use for it. What
	// it costs is in docs/decisions/0021.
	Measure bool
}

// Report is what a Copy did. Over all passes
// Changed = Written + Zeroed + Equal + Resumed.
type Report struct {
	Point   dr.Point      `json:"point"`             // as committed
	Adopted bool          `json:"adopted"`           // the platform took the image by itself; nothing travelled
	Existed bool          `json:"existed,omitempty"` // the point was there already; nothing was done
	Passes  int           `json:"passes"`
	Changed int64         `json:"changed"`         // bytes that could differ
	Read    int64         `json:"read"`            // bytes read from the image
	Written int64         `json:"written"`         // bytes that travelled and were written; zeros only where the draft is no dr.Zeroer
	Zeroed  int64         `json:"zeroed"`          // bytes made zero, or left zero, without travelling
	Equal   int64         `json:"equal"`           // bytes found equal by their sums
	Resumed int64         `json:"resumed"`         // bytes already there from an interrupted copy
	Full    []dr.DiskID   `json:"full,omitempty"`  // disks whose changes were not known, in the machine's order; not those that are new
	Swept   []dr.PointID  `json:"swept,omitempty"` // captures of earlier cycles that were let go
	Took    time.Duration `json:"took"`
}

// Replicator runs one cycle: capture, copy, commit.
type Replicator interface {
	Replicate(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Point, error)
}

// Copy makes dst hold what src holds, and commits it with src's point as that
// stands after the last pass. It closes neither.
//
// What is copied follows from o.Have, disk by disk; zeros and, where both
// sides are dr.Summer, equal blocks don't travel. A dst that is a dr.Adopter
// is asked first whether it takes the image without a byte moving. A dst that
// is a dr.Resumer is not given what it has from an interrupted copy, unless
// src is a dr.Settler: a live disk has gone on since. A dst that is a
// dr.Summer is written in whole blocks of dr.SumBlock, also where less of one
// changed or isn't zero. A src that is a
// dr.Settler is copied pass by pass; nothing of a pass is read before all of
// the pass before is written.
//
// Memory is bounded by Readers times Chunk, whatever the disks' sizes and
// however many extents there are. Copy returns when every goroutine that it
// started has ended, on the first error or when ctx ends as soon as the calls
// under way return. Then nothing is committed, and the same Copy may be
// repeated on a draft of the same point. Not so with a dr.Settler, whose disks
// have gone on and which tells changes of its present pass only: that is
// captured anew, and copied to a draft that is made afresh, as drafts of another
// moment are.
//
// Errors are *dr.Error with operation, side, disk and offset; dst is
// dr.TargetSide. The Report of a failed Copy tells how far it came.
func Copy(ctx context.Context, dst dr.Draft, src dr.Image, o CopyOptions) (Report, error) {
	start := time.Now()
	c, err := newCopier(dst, src, o)
	if err != nil {
		return Report{}, err
	}
	err = c.run(ctx)
	r := c.report()
	r.Took = time.Since(start)
	return r, err
}

// copier is one Copy under way.
type copier struct {
	dst    dr.Draft
	src    dr.Image
	o      CopyOptions
	chunk  int64
	point  dr.Point // src's at the start: names the place in errors
	zeroer dr.Zeroer
	packer dr.Packer // nil where it isn't measured
	sample measured
	srcSum dr.Summer // both or none
	dstSum dr.Summer
	disks  []*disk
	counts counts
	meter  meter
	passes int
	done   Report // what is only known at the end
}

func newCopier(dst dr.Draft, src dr.Image, o CopyOptions) (*copier, error) {
	if o.Readers < 0 || o.Chunk < 0 {
		return nil, &dr.Error{Op: "copy", Err: fmt.Errorf("%w: Readers %d, Chunk %d: want none below 0", dr.ErrInvalid, o.Readers, o.Chunk)}
	}
	for _, l := range append([]*rate.Limiter{o.Limit}, o.Limits...) {
		if l != nil && l.Limit() != rate.Inf && l.Burst() <= 0 {
			return nil, &dr.Error{Op: "copy", Err: fmt.Errorf("%w: a rate limit with burst %d lets nothing through", dr.ErrInvalid, l.Burst())}
		}
	}
	if o.Readers == 0 {
		o.Readers = 8
	}
	if o.Chunk == 0 {
		o.Chunk = 1 << 20
	}
	if o.Chunk > dr.SumBlock {
		o.Chunk -= o.Chunk % dr.SumBlock
	}
	c := &copier{dst: dst, src: src, o: o, chunk: int64(o.Chunk), point: src.Point()}
	c.meter.report = o.Progress
	c.zeroer, _ = dr.As[dr.Zeroer](dst)
	if from, ok := dr.As[dr.Summer](src); ok {
		if to, ok := dr.As[dr.Summer](dst); ok {
			c.srcSum, c.dstSum = from, to
		}
	}
	if o.Measure {
		c.packer, _ = dr.As[dr.Packer](dst)
	}
	for _, d := range c.point.Machine.Disks {
		c.disks = append(c.disks, &disk{Disk: d})
	}
	return c, nil
}

func (c *copier) run(ctx context.Context) error {
	if a, ok := dr.As[dr.Adopter](c.dst); ok {
		adopted, err := a.Adopt(ctx, c.src)
		if err != nil {
			return c.fail("adopt", dr.TargetSide, "", -1, err)
		}
		if adopted {
			c.done.Adopted = true
			return c.commit(ctx)
		}
	}
	settler, live := dr.As[dr.Settler](c.src)
	for more := true; more; {
		if err := c.pass(ctx, live); err != nil {
			return err
		}
		if !live {
			break
		}
		var err error
		if more, err = settler.Settle(ctx); err != nil {
			return c.fail("settle", dr.SourceSide, "", -1, err)
		}
	}
	return c.commit(ctx)
}

func (c *copier) commit(ctx context.Context) error {
	p := c.src.Point()
	// An image opened from a store has its own point's, written over another
	// parent.
	p.Changes = c.changeStats()
	if err := c.dst.Commit(ctx, p); err != nil {
		return c.fail("commit", dr.TargetSide, "", -1, err)
	}
	c.done.Point = p
	return nil
}

func (c *copier) report() Report {
	r := c.done
	r.Passes = c.passes
	c.counts.into(&r)
	for _, d := range c.disks {
		if d.unknown {
			r.Full = append(r.Full, d.ID)
		}
	}
	r.Full = slices.Clip(r.Full)
	return r
}

// fail names the place of an error. A negative offset is unknown.
func (c *copier) fail(op string, side dr.Side, disk dr.DiskID, off int64, err error) error {
	return locate(&dr.Error{Op: op, Side: side, Machine: c.point.Machine.ID, Point: c.point.ID, Disk: disk, Off: off, Err: err})
}

package physical

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Freezes is an ability of images of running machines: how long the capture
// held the machine still.
type Freezes interface {
	// Frozen is the time from the call of the freeze hook to the return of the
	// thaw hook; 0 before the last pass has ended, and where no freeze was
	// needed.
	Frozen() time.Duration
}

// liveImage is the image of a running machine.
type liveImage struct {
	*image
	want dr.Consistency

	settle sync.Mutex // one Settle at a time; it also guards began and final

	// began is the mark that was set before the present pass was read.
	began dr.Cursor
	// dirty is the mark since when what was written is this pass's to copy;
	// "" without a tracker. It, blind and pass change in Settle only, between
	// passes.
	dirty dr.Cursor
	blind bool // this pass copies all of a disk that the tracker has lost
	pass  int

	state  sync.Mutex
	last   *frozen // the last pass is read while this lasts
	own    bool    // last is this image's, not Quiesce's
	still  bool    // the last pass is read of a machine that was stopped
	failed error
	frozen time.Duration
	over   bool // the machine runs on: what is read now is of no moment
	done   bool // and the point is final

	final *moment // the pass that was copied is of this moment
}

// moment is what becomes of the point.
type moment struct {
	time        time.Time
	consistency dr.Consistency
	mark        dr.Cursor
}

var (
	_ dr.Settler  = (*liveImage)(nil)
	_ dr.Lingerer = (*liveImage)(nil)
	_ Freezes     = (*liveImage)(nil)
)

// Frozen implements [Freezes].
func (l *liveImage) Frozen() time.Duration {
	l.state.Lock()
	defer l.state.Unlock()
	return l.frozen
}

// settling tells whether a pass after the first is being read, and the mark
// since when what was written is to be copied in it: that has nothing to do
// with an older point.
func (l *liveImage) settling() (dirty dr.Cursor, ok bool) {
	l.state.Lock()
	defer l.state.Unlock()
	return l.dirty, l.pass > 1 && !l.over
}

// broken tells why what is read now would not be of the capture's moment.
func (l *liveImage) broken() error {
	l.state.Lock()
	over := l.over
	l.state.Unlock()
	if over {
		return fmt.Errorf("%w: the last pass is over and the machine runs on", dr.ErrNotConsistent)
	}
	return l.spoilt()
}

// spoilt tells why what was read is not of the capture's moment.
func (l *liveImage) spoilt() error {
	if err := l.moved(); err != nil {
		return err
	}
	l.state.Lock()
	last, failed := l.last, l.failed
	l.state.Unlock()
	if failed != nil {
		return failed
	}
	if last != nil {
		return last.lost()
	}
	return nil
}

// abandon thaws a machine that is still frozen, and ends the capture if it
// wasn't complete.
func (l *liveImage) abandon(why error) error {
	l.state.Lock()
	last, own := l.last, l.own
	if l.failed == nil && !l.done {
		l.failed = why
	}
	l.state.Unlock()
	if last == nil || !own {
		return nil
	}
	last.end(why)
	<-last.done
	return last.err
}

// Settle implements [dr.Settler]. An error that is dr.ErrNotConsistent ends the
// capture: close the image, and capture again. After any other Settle may be
// called again.
func (l *liveImage) Settle(ctx context.Context) (bool, error) {
	l.settle.Lock()
	defer l.settle.Unlock()
	more, err := l.step(ctx)
	if err != nil {
		if errors.Is(err, dr.ErrNotConsistent) {
			l.abandon(err)
		}
		return false, l.fail("settle", "", -1, err)
	}
	return more, nil
}

// Linger implements [dr.Lingerer]. Without a tracker every pass is of whole disks,
// and one more leaves no less.
func (l *liveImage) Linger(ctx context.Context) (int64, error) {
	l.settle.Lock()
	defer l.settle.Unlock()
	left, err := l.linger(ctx)
	if err != nil {
		return 0, l.fail("linger", "", -1, err)
	}
	return left, nil
}

func (l *liveImage) linger(ctx context.Context) (int64, error) {
	if l.m.host.cfg.Tracker == nil || l.final != nil {
		return 0, dr.ErrUnsupported
	}
	if err := l.spoilt(); err != nil {
		return 0, err
	}
	mark, err := l.cut(ctx) // before what is dirty is counted, as in next
	if err != nil {
		return 0, err
	}
	dirty := l.began
	left, lost, err := l.count(ctx, dirty)
	if err != nil {
		return 0, err
	}
	if lost != nil {
		left = -1
	}
	l.again(dirty, mark)
	return left, nil
}

func (l *liveImage) step(ctx context.Context) (bool, error) {
	l.state.Lock()
	done := l.done
	l.state.Unlock()
	if done {
		return false, nil
	}
	if err := l.spoilt(); err != nil {
		return false, err
	}
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case l.final == nil:
		return l.next(ctx)
	case l.last != nil:
		if err := l.thaw(); err != nil {
			return false, err
		}
	}
	// The state file may lie on a disk that was frozen until now.
	return false, l.finish(ctx)
}

// next decides on the pass after a live one.
func (l *liveImage) next(ctx context.Context) (bool, error) {
	cfg := &l.m.host.cfg
	var mark dr.Cursor // before what is dirty is counted, to miss nothing of the next pass
	var left int64
	var lost error
	dirty := l.began
	if cfg.Tracker != nil {
		var err error
		if mark, err = l.cut(ctx); err != nil {
			return false, err
		}
		if left, lost, err = l.count(ctx, dirty); err != nil {
			return false, err
		}
	}
	// One more pass may make good what was lost once. A disk that is lost
	// again isn't tracked, and each pass would read all of it for nothing.
	blind := l.blind && lost != nil
	l.blind = lost != nil
	switch held := l.hold(); {
	case held:
	case !l.m.freeze.possible():
		if lost == nil && left == 0 {
			// No write for a whole pass: what was read is of any moment of it.
			l.final = &moment{time.Now(), dr.CrashConsistent, mark}
			return false, l.finish(ctx)
		}
		if blind {
			return false, fmt.Errorf("%w: no pass can be known to have gone by without a write (%s): %v", dr.ErrNotConsistent, noQuiet, lost)
		}
		if l.pass >= cfg.Passes {
			return false, fmt.Errorf("%w: no pass of %d went by without a write; %d bytes are dirty (%s)", dr.ErrNotConsistent, l.pass, left, noQuiet)
		}
		l.again(dirty, mark)
		return true, nil
	case cfg.Tracker != nil && (lost != nil && !blind || left > cfg.LastPass) && l.pass < cfg.Passes-1:
		l.again(dirty, mark)
		return true, nil
	default:
		fr, err := l.m.freeze.freeze(ctx, l.want, false)
		if err != nil {
			return false, err
		}
		l.state.Lock()
		l.last, l.own = fr, true
		if l.failed != nil { // closed or released meanwhile
			err = l.failed
		}
		l.state.Unlock()
		if err != nil {
			fr.end(err)
			return false, err
		}
	}
	return l.lastPass(ctx, dirty)
}

// again begins the next pass, which is to copy what was written since dirty.
func (l *liveImage) again(dirty, began dr.Cursor) {
	l.began = began
	l.state.Lock()
	defer l.state.Unlock()
	l.dirty = dirty
	l.pass++
}

const noQuiet = "give the host freeze and thaw hooks, or stop the machine"

// hold uses a stillness that is there already: of Quiesce, or because the
// machine was stopped.
func (l *liveImage) hold() bool {
	l.state.Lock()
	defer l.state.Unlock()
	if l.last = l.m.freeze.join(); l.last != nil {
		return true
	}
	rec := l.m.record()
	l.still = rec != nil && rec.Power == dr.Off
	return l.still
}

// lastPass begins the pass that is read while nothing is written.
func (l *liveImage) lastPass(ctx context.Context, dirty dr.Cursor) (bool, error) {
	l.final = &moment{time: time.Now(), consistency: dr.CrashConsistent}
	if l.last != nil {
		l.final.time, l.final.consistency = l.last.at, l.last.consistency()
	}
	l.final.consistency = max(min(l.final.consistency, l.want), dr.CrashConsistent)
	if l.m.host.cfg.Tracker != nil {
		mark, err := l.cut(ctx)
		if err != nil {
			return false, fmt.Errorf("%w: %w", dr.ErrNotConsistent, err)
		}
		l.final.mark = mark
	}
	l.again(dirty, l.final.mark)
	return true, nil
}

// thaw ends the last pass, if the machine was still until now.
func (l *liveImage) thaw() error {
	l.state.Lock()
	last, own := l.last, l.own
	l.state.Unlock()
	var err error
	if own {
		err = last.thaw()
	} else {
		err = last.lost()
	}
	if err != nil {
		return err
	}
	l.state.Lock()
	defer l.state.Unlock()
	l.last = nil
	if own {
		l.frozen = last.took
		l.final.consistency = min(l.final.consistency, last.consistency())
	}
	return nil
}

// finish makes the tracker's mark known under the point's name, and the point
// final.
func (l *liveImage) finish(ctx context.Context) error {
	l.state.Lock()
	l.over = true
	l.state.Unlock()
	release, err := l.m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := l.spoilt(); err != nil {
		return err
	}
	if l.final.mark != "" {
		edit := func(r *record) { r.name(l.id(), l.final.mark) }
		if l.m.freeze.join() != nil {
			// Quiesce holds the machine still, and its thaw waits for this.
			// A mark that a crash loses costs a comparison.
			l.m.note(edit)
		} else if err := l.m.change(edit); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.point.Time, l.point.Consistency = l.final.time.UTC(), l.final.consistency
	if l.final.mark != "" {
		l.point.Cursors = l.cursors(l.final.mark)
	}
	l.mu.Unlock()
	l.state.Lock()
	l.done = true
	l.state.Unlock()
	return nil
}

func (l *liveImage) id() dr.PointID { return l.point.ID }

// cut sets a mark that the tracker keeps until the image is closed.
func (im *image) cut(ctx context.Context) (dr.Cursor, error) {
	im.m.track.Lock()
	defer im.m.track.Unlock()
	mark, err := im.m.host.cfg.Tracker.Cut(ctx, im.m.id)
	if err != nil {
		return "", fmt.Errorf("tracker: %w", err)
	}
	im.m.mu.Lock()
	im.marks = append(im.marks, mark)
	im.m.mu.Unlock()
	return mark, nil
}

// count sums up what was written since a mark to the disks of which that is
// known, and tells why it isn't of others. A mark that is lost stays so: Changes
// will say the same of each disk.
func (l *liveImage) count(ctx context.Context, mark dr.Cursor) (sum int64, lost, err error) {
	for id := range l.disks {
		for e, err := range l.m.host.cfg.Tracker.Since(ctx, l.m.id, id, mark) {
			if errors.Is(err, dr.ErrChangesLost) {
				lost = fmt.Errorf("disk %s: %w", id, err)
				break
			}
			if err != nil {
				return 0, nil, err
			}
			sum += e.Len
		}
	}
	return sum, lost, nil
}

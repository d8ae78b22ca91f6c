package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// littleLeft is how many bytes are few enough to read while a group is
	// frozen: a fraction of a second at what one disk gives.
	littleLeft = 16 << 20
	// liveTries bounds the passes that wait for little to be left. A machine
	// that writes faster than it is copied is frozen with whatever is left,
	// and the deadline decides.
	liveTries = 8
)

// errNoMoment ends the copy of a live machine whose draft has the group's mark,
// when that was not earned: a draft's mark is final, so it must not be committed.
var errNoMoment = errors.New("the group has no common moment")

// capturesLive tells whether the machine's capture must be copied before the
// others are frozen.
func (m *member) capturesLive() (bool, error) {
	l, ok := dr.As[backend.LiveCapturer](m.cycle.Source)
	if !ok {
		return false, nil
	}
	live, err := l.CapturesLive(m.ctx, m.machine)
	if err != nil {
		return false, m.cycle.fail("capture", dr.SourceSide, m.machine, "", err, "")
	}
	return live, nil
}

// replicateLive is the whole cycle of a machine that is captured pass by pass.
// Its moment is that of its last pass, which is read while all machines are
// quiesced; and all others are captured then. done says that the point was made.
// If it was not, and there is no error, the moment is not common, nothing is left
// of the attempt, and an ordinary cycle may follow.
func (m *member) replicateLive(g *groupCycle, progress func(dr.Progress)) (done bool, err error) {
	if m.await(g) != nil {
		return false, nil
	}
	name := g.called()
	img, err := m.cycle.Source.Capture(m.ctx, m.machine, name, g.want)
	if err == nil && !isLive(img) {
		err = errors.Join(fmt.Errorf("%w: the machine was stopped meanwhile", dr.ErrNotConsistent), img.Close())
	}
	if err != nil {
		err = m.cycle.fail("capture", dr.SourceSide, m.machine, name, err, "")
		g.fail(join(err, m.cycle.release(m.ctx, m.machine, name)))
		return false, nil
	}
	settler, _ := dr.As[dr.Settler](img)
	at := &liveGroupImage{Image: img, settler: settler, m: m, g: g.moment, want: g.want}
	m.report, err = m.cycle.ReplicateAs(m.ctx, m.machine, name, g.want, CycleOptions{Have: resync(m.p), Limits: g.o.Limits, Group: g.marked(), Progress: progress, image: at})
	if at.hold != nil { // the copy failed in its last pass
		g.fail(err)
		_ = at.hold.release()
	}
	if err == nil {
		return true, g.env.noteLast(m.ctx, m.p, m.report.Point, g.want)
	}
	if at.earned {
		return false, err
	}
	m.report = Report{}
	g.fail(err)
	if err := m.cycle.Abandon(m.ctx, m.machine, "", name); err != nil {
		return false, err
	}
	if err := m.ctx.Err(); err != nil {
		return false, context.Cause(m.ctx)
	}
	return false, nil
}

// liveGroupImage is a dr.Settler whose last pass is read at a group's common
// moment. Its Settle returns that the copy is complete only when the moment is
// earned: the draft is committed after it.
type liveGroupImage struct {
	dr.Image
	settler dr.Settler
	m       *member
	g       *moment
	want    dr.Consistency

	// Used by Settle, between passes, and when the copy has ended.
	tries  int
	few    bool // little was left for the pass that was just copied
	waited bool // all others have copied, and this one once more since
	hold   *hold
	earned bool
}

// Unwrap shows what else the image can do.
func (l *liveGroupImage) Unwrap() any { return l.Image }

// Settle implements dr.Settler.
func (l *liveGroupImage) Settle(ctx context.Context) (bool, error) {
	if l.hold != nil {
		return false, l.finish(ctx)
	}
	if !l.few && l.tries < liveTries {
		if more, err := l.linger(ctx); more || err != nil {
			return more, err
		}
	}
	if !l.waited {
		if err := l.g.meet(ctx, copied); err != nil {
			return false, noMoment(err)
		}
		// The slowest machine may have kept this one waiting for long.
		l.waited = true
		if more, err := l.linger(ctx); more || err != nil {
			return more, err
		}
	}
	return l.freeze(ctx)
}

// linger begins another live pass, where that helps.
func (l *liveGroupImage) linger(ctx context.Context) (bool, error) {
	slow, ok := dr.As[dr.Lingerer](l.Image)
	if !ok {
		return false, nil
	}
	left, err := slow.Linger(ctx)
	if errors.Is(err, dr.ErrUnsupported) {
		return false, nil
	}
	l.few = left >= 0 && left <= littleLeft
	l.tries++
	return err == nil, err
}

// freeze begins the last pass, which is read while all machines are quiesced.
func (l *liveGroupImage) freeze(ctx context.Context) (bool, error) {
	err := l.g.meet(ctx, ready)
	if err != nil {
		return false, noMoment(err)
	}
	if l.hold, err = l.m.hold(ctx, l.g, l.want); err != nil {
		return false, noMoment(err)
	}
	if err := l.g.meet(l.hold.ctx, quiesced); err != nil {
		return false, noMoment(err)
	}
	more, err := l.settler.Settle(l.hold.ctx)
	if err == nil && !more {
		err = fmt.Errorf("%w: the copy ended before the machines were frozen", dr.ErrNotConsistent)
	}
	return more, err
}

// finish thaws, when all machines have been captured, and waits for the others to
// have said that they were held until then.
func (l *liveGroupImage) finish(ctx context.Context) error {
	more, err := l.settler.Settle(l.hold.ctx)
	if err == nil && more {
		err = fmt.Errorf("%w: the machine is quiesced, and its disks are written", dr.ErrNotConsistent)
	}
	if err == nil {
		err = noMoment(l.g.meet(l.hold.ctx, captured))
	} else {
		l.g.fail(err)
	}
	h := l.hold
	l.hold = nil
	if thaw := h.release(); thaw != nil && err == nil {
		err = noMoment(thaw)
	}
	if err == nil {
		err = noMoment(l.g.meet(ctx, thawed))
	}
	l.earned = err == nil
	return err
}

func noMoment(why error) error {
	if why == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errNoMoment, why)
}

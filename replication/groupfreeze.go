package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// hold is one machine held in the common moment's window.
type hold struct {
	m      *member
	g      *moment
	got    dr.Consistency // what the quiesce has reached
	ctx    context.Context
	cancel context.CancelCauseFunc
	undo   []func() bool
	began  time.Time

	backend func(context.Context) error // what Quiesce returned
	once    sync.Once
	thawed  chan struct{} // closed when it has
	how     error         // read after thawed
}

// hold quiesces the machine. It thaws when release is called, when the window is
// over, when ctx ends, and when the process dies: the second and third by the
// context that the backend was given, the last by the backend's own limit.
func (m *member) hold(ctx context.Context, g *moment, want dr.Consistency) (*hold, error) {
	h := &hold{m: m, g: g, began: time.Now()}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	h.undo = append(h.undo, context.AfterFunc(g.window, func() { h.cancel(context.Cause(g.window)) }))
	got, thaw, err := m.quiescer.Quiesce(h.ctx, m.machine, want)
	if err != nil {
		h.end()
		return nil, g.fail(m.cycle.fail("quiesce", dr.SourceSide, m.machine, "", err, ""))
	}
	h.got = max(got, dr.CrashConsistent)
	h.backend, h.thawed = thaw, make(chan struct{})
	// A capture that hangs beyond the window holds up nothing but itself.
	h.undo = append(h.undo, context.AfterFunc(h.ctx, func() { _ = h.thaw() }))
	return h, nil
}

// thaw thaws by the first call; all wait for it, and say how it went. Whoever gave
// up waiting, the machine must not stay frozen: so it has a context of its own.
func (h *hold) thaw() error {
	h.once.Do(func() {
		go func() {
			defer close(h.thawed)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), releaseGrace)
			defer cancel()
			h.how = h.backend(ctx)
		}()
	})
	<-h.thawed
	return h.how
}

// release thaws. An error says that the machine may have thawed before, and that
// what was captured is of no one moment.
func (h *hold) release() error {
	early := context.Cause(h.ctx)
	if err := h.thaw(); err != nil {
		early = err
	}
	h.end()
	if early != nil {
		return h.g.fail(h.m.cycle.fail("thaw", dr.SourceSide, h.m.machine, h.g.called(), early, ""))
	}
	return nil
}

// end also thaws what the backend holds still, as far as it knows.
func (h *hold) end() {
	for _, u := range h.undo {
		u()
	}
	h.cancel(nil)
	h.m.frozen = time.Since(h.began)
	h.g.froze(h.began, h.began.Add(h.m.frozen))
}

// freeze is one machine's part in the common moment: it is quiesced, captured
// when all are, and thawed when all were captured. The image is the machine's
// capture, whether the moment was earned or not; nil if there is none that is
// of one moment.
func (m *member) freeze(ctx context.Context, g *moment, want dr.Consistency) (dr.Image, error) {
	h, err := m.hold(ctx, g, want)
	if err != nil {
		return nil, err
	}
	var img dr.Image
	why := g.meet(h.ctx, quiesced)
	if why == nil {
		if img, why = m.captureStill(h.ctx, g, h.got); why == nil {
			why = g.meet(h.ctx, captured)
		}
	}
	if err := h.release(); err != nil {
		if img != nil {
			if err := m.cycle.letGo(ctx, img, m.machine, g.called()); err != nil {
				m.cycle.log().WarnContext(ctx, "release of a group's capture", "machine", m.machine, "point", g.called(), "error", err)
			}
		}
		return nil, err
	}
	if why == nil {
		why = g.meet(ctx, thawed)
	}
	return img, why
}

// captureStill captures a machine that is quiesced, with what was reached.
func (m *member) captureStill(ctx context.Context, g *moment, got dr.Consistency) (dr.Image, error) {
	name := g.called()
	img, err := m.cycle.capture(ctx, m.machine, name, got, false)
	if err != nil {
		return nil, g.fail(err)
	}
	if isLive(img) {
		// All of it would have to be read while everybody waits.
		err := fmt.Errorf("%w: the platform captures this machine while it runs, pass by pass, and had not said so", dr.ErrUnsupported)
		return nil, g.fail(m.cycle.fail("capture at a common moment", dr.SourceSide, m.machine, name, join(err, m.cycle.letGo(ctx, img, m.machine, name)), ""))
	}
	return img, nil
}

// quiescerOf finds the ability that a common moment needs.
func (m *member) quiescerOf() error {
	var ok bool
	if m.quiescer, ok = dr.As[backend.Quiescer](m.cycle.Source); !ok {
		return m.cycle.fail("quiesce", dr.SourceSide, m.machine, "", fmt.Errorf("%w: the platform can't hold a machine's writes", dr.ErrUnsupported), "take the machine out of the group, or give its site what it freezes machines with")
	}
	return nil
}

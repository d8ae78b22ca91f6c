package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// freeze is one machine's part in the common moment: it is quiesced, captured
// when all are, and thawed when all were captured. The image is the machine's
// capture, whether the moment was earned or not; nil if there is none that is
// of one moment.
//
// The machine thaws when this returns, when the window is over, when ctx ends,
// and when the process dies: the first three by the context that the backend
// was given, the last by the backend's own limit.
func (m *member) freeze(ctx context.Context, g *moment, want dr.Consistency) (dr.Image, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.window, func() { cancel(context.Cause(g.window)) })()

	began := time.Now()
	defer func() { m.frozen = time.Since(began); g.froze(began, began.Add(m.frozen)) }()
	got, thaw, err := m.quiescer.Quiesce(ctx, m.machine, want)
	if err != nil {
		return nil, g.fail(m.cycle.fail("quiesce", dr.SourceSide, m.machine, "", err, ""))
	}
	once := sync.OnceValue(func() error {
		// Whoever gave up waiting, the machine must not stay frozen.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseGrace)
		defer cancel()
		return thaw(ctx)
	})
	// A capture that hangs beyond the window holds up nothing but itself.
	stop := context.AfterFunc(ctx, func() { _ = once() })

	var img dr.Image
	why := g.meet(ctx, quiesced)
	if why == nil {
		if img, why = m.captureStill(ctx, g, got); why == nil {
			why = g.meet(ctx, captured)
		}
	}
	early := context.Cause(ctx)
	stop()
	if err := once(); err != nil {
		early = err
	}
	if early != nil {
		// The backend says that what was captured meanwhile is of no one moment.
		why = g.fail(m.cycle.fail("thaw", dr.SourceSide, m.machine, g.called(), early, ""))
		if img != nil {
			if err := m.cycle.letGo(ctx, img, m.machine, g.called()); err != nil {
				m.cycle.log().WarnContext(ctx, "release of a group's capture", "machine", m.machine, "point", g.called(), "error", err)
			}
		}
		return nil, why
	}
	if why == nil {
		why = g.meet(ctx, thawed)
	}
	return img, why
}

// captureStill captures a machine that is quiesced, with what was reached.
func (m *member) captureStill(ctx context.Context, g *moment, got dr.Consistency) (dr.Image, error) {
	name := g.called()
	img, err := m.cycle.capture(ctx, m.machine, name, max(got, dr.CrashConsistent), false)
	if err != nil {
		return nil, g.fail(err)
	}
	if isLive(img) {
		// It has frozen nothing yet, and won't before the others have thawed.
		err := fmt.Errorf("%w: the platform captures this machine while it runs, pass by pass", dr.ErrUnsupported)
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

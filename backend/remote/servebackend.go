package remote

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// plain makes a call whose argument and answer are JSON.
func (s *served) plain() (any, error) {
	a, b := s.arg, s.x.b
	switch s.op {
	case agentwire.OpMachines:
		return nil, s.machines()
	case agentwire.OpPrepare:
		return s.prepare()
	case agentwire.OpCheck:
		return with(s, func(c backend.Checker) ([]backend.Problem, error) { return c.Check(s.ctx) })
	case agentwire.OpNetworks, agentwire.OpRoom:
		return s.wide()
	case agentwire.OpThaw, agentwire.OpLetGo:
		return nil, s.thaw()
	case agentwire.OpChanges, agentwire.OpExtents, agentwire.OpSettle, agentwire.OpLinger,
		agentwire.OpDurable, agentwire.OpCommit, agentwire.OpClose:
		return s.opened()
	}
	// What is left is of one machine.
	if !s.x.peer.scope.allows(a.Machine) {
		return nil, s.forbidden(a.Machine)
	}
	switch s.op {
	case agentwire.OpMachine:
		return b.Machine(s.ctx, a.Machine)
	case agentwire.OpCapture:
		return s.capture()
	case agentwire.OpRelease:
		return nil, b.Release(s.ctx, a.Machine, a.Name)
	case agentwire.OpDraft:
		return s.draft()
	case agentwire.OpStart:
		return nil, b.Start(s.ctx, a.Machine)
	case agentwire.OpStop:
		return nil, b.Stop(s.ctx, a.Machine)
	case agentwire.OpRemove:
		return nil, b.Remove(s.ctx, a.Machine)
	case agentwire.OpShutdown:
		return with(s, func(v backend.Shutdowner) (any, error) { return nil, v.Shutdown(s.ctx, a.Machine) })
	case agentwire.OpQuiesce:
		return with(s, s.quiesce)
	case agentwire.OpCapturesLive:
		return with(s, func(v backend.LiveCapturer) (bool, error) { return v.CapturesLive(s.ctx, a.Machine) })
	case agentwire.OpCaptures:
		return with(s, s.captures)
	case agentwire.OpSweep:
		return with(s, s.sweep)
	case agentwire.OpForget:
		return with(s, func(v backend.Forgetter) (any, error) { return nil, v.Forget(s.ctx, a.Machine, a.Name) })
	case agentwire.OpProbe:
		return with(s, func(v backend.Prober) (backend.Evidence, error) { return v.Probe(s.ctx, a.Machine) })
	case agentwire.OpPreflight:
		return with(s, func(v backend.Preflighter) ([]backend.Problem, error) { return v.Preflight(s.ctx, a.Machine) })
	case agentwire.OpInspect:
		return with(s, func(v backend.Inspector) (backend.Facts, error) { return v.Inspect(s.ctx, a.Machine) })
	case agentwire.OpReach:
		return with(s, func(v backend.Reacher) (backend.Reach, error) { return v.Reach(s.ctx, a.Machine, a.From, a.Ports...) })
	case agentwire.OpReceives:
		return with(s, func(v backend.Receiver) (backend.Reception, error) { return v.Receives(s.ctx, a.Machine) })
	}
	return nil, fmt.Errorf("%w: operation %d", dr.ErrUnsupported, s.op)
}

// with makes a call of an ability of the backend.
func with[T, R any](s *served, f func(T) (R, error)) (R, error) {
	t, err := ability[T](s, s.x.b)
	if err != nil {
		var none R
		return none, err
	}
	return f(t)
}

func (s *served) forbidden(id dr.MachineID) error {
	return dr.Permanent(&dr.Error{Op: s.op.String(), Machine: id, Err: fmt.Errorf("%w: the agent doesn't let this client at the machine", fs.ErrPermission)})
}

// machines streams those that the client may see.
func (s *served) machines() error {
	l, err := ability[backend.Lister](s, s.x.b)
	if err != nil {
		return err
	}
	for m, err := range l.Machines(s.ctx) {
		if err != nil {
			return err
		}
		if !s.x.peer.scope.allows(m.ID) {
			continue
		}
		b, err := agentwire.Marshal(m)
		if err != nil {
			return err
		}
		if err := s.data(b); err != nil {
			return err
		}
	}
	return nil
}

// data sends a part of a stream, as soon as the client has room for it.
func (s *served) data(b []byte) error {
	if err := s.credit.spend(s.ctx, len(b)); err != nil {
		return err
	}
	return s.l.Send(s.ctx, agentwire.Header{Kind: agentwire.Data, ID: s.id}, b)
}

func (s *served) prepare() (any, error) {
	p := s.arg.Placement
	switch {
	case p == nil:
		return nil, fmt.Errorf("%w: no placement", dr.ErrInvalid)
	case s.x.peer.scope.Machines != nil && (p.Original == "" || !s.x.peer.scope.allows(p.Original)):
		return nil, s.forbidden(p.Original)
	}
	return s.x.b.Prepare(s.ctx, *p)
}

// wide makes calls that aren't of one machine.
func (s *served) wide() (any, error) {
	if s.x.peer.scope.Machines != nil {
		return nil, s.forbidden("")
	}
	if s.op == agentwire.OpNetworks {
		return with(s, func(v backend.NetworkLister) ([]backend.Network, error) { return v.Networks(s.ctx) })
	}
	if s.arg.Placement == nil {
		return nil, fmt.Errorf("%w: no placement", dr.ErrInvalid)
	}
	return with(s, func(v backend.Roomer) ([]backend.Problem, error) { return v.Room(s.ctx, *s.arg.Placement) })
}

// captures are the names that a sweep would ask about. Nothing is swept.
func (s *served) captures(v backend.Sweeper) ([]dr.PointID, error) {
	var asked []dr.PointID
	_, err := v.Sweep(s.ctx, s.arg.Machine, func(p dr.PointID) bool {
		asked = append(asked, p)
		return true
	})
	return asked, err
}

// sweep keeps all but the names that it was given: what was captured since the
// client was asked stays.
func (s *served) sweep(v backend.Sweeper) ([]dr.PointID, error) {
	gone := make(map[dr.PointID]bool, len(s.arg.Names))
	for _, n := range s.arg.Names {
		gone[n] = true
	}
	return v.Sweep(s.ctx, s.arg.Machine, func(p dr.PointID) bool { return !gone[p] })
}

// capture opens an image. One that the client no longer wants is closed again.
func (s *served) capture() (any, error) {
	if err := s.x.mayOpen(); err != nil {
		return nil, err
	}
	img, err := s.x.b.Capture(s.ctx, s.arg.Machine, s.arg.Name, s.arg.Want)
	if err != nil {
		return nil, err
	}
	if s.ctx.Err() != nil {
		_ = img.Close()
		return nil, s.ctx.Err()
	}
	id, err := s.x.keep(&handle{machine: s.arg.Machine, image: img})
	return opened{Handle: id, Abilities: imageAbilities(img), Point: img.Point()}, err
}

// draft opens one. Its disks go with it as far as they are known, so that the
// client can tell early what lies beyond their ends.
func (s *served) draft() (any, error) {
	if s.arg.Point == nil {
		return nil, fmt.Errorf("%w: no point", dr.ErrInvalid)
	}
	if err := s.x.mayOpen(); err != nil {
		return nil, err
	}
	d, err := s.x.b.Draft(s.ctx, s.arg.Machine, *s.arg.Point)
	if err != nil {
		return nil, err
	}
	if s.ctx.Err() != nil {
		_ = d.Close()
		return nil, s.ctx.Err()
	}
	m, err := s.x.b.Machine(s.ctx, s.arg.Machine)
	if err != nil {
		m = dr.Machine{}
	}
	id, err := s.x.keep(&handle{machine: s.arg.Machine, draft: d})
	return opened{Handle: id, Abilities: draftAbilities(d), Disks: m.Disks}, err
}

// freeze is a machine that a client holds.
type freeze struct {
	ctx  context.Context
	end  context.CancelCauseFunc
	thaw func(context.Context) error
}

// quiesce holds a machine until the client thaws it, lets it go or is gone, or
// until the call's time is over.
func (s *served) quiesce(q backend.Quiescer) (any, error) {
	if err := s.x.mayOpen(); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(s.x.ctx)
	if until, ok := s.ctx.Deadline(); ok {
		var over context.CancelFunc
		ctx, over = context.WithDeadline(ctx, until)
		inner := end
		end = func(err error) { inner(err); over() }
	}
	// A call that is given up while it freezes must not leave it frozen.
	stop := context.AfterFunc(s.ctx, func() { end(context.Cause(s.ctx)) })
	got, thaw, err := q.Quiesce(ctx, s.arg.Machine, s.arg.Want)
	if !stop() && err == nil {
		err = s.ctx.Err()
		_ = thaw(s.x.ctx)
	}
	if err != nil {
		end(err)
		return nil, err
	}
	id, err := s.x.keep(&handle{machine: s.arg.Machine, freeze: &freeze{ctx, end, thaw}})
	return opened{Handle: id, Got: got}, err
}

// thaw ends a freeze. It is of one moment only if nothing ended it before.
func (s *served) thaw() error {
	h, err := s.x.find(s.handle)
	if err != nil {
		return err
	}
	if h.freeze == nil {
		return fmt.Errorf("%w: %s of what is open under number %d", dr.ErrInvalid, s.op, h.id)
	}
	if s.op == agentwire.OpLetGo {
		h.freeze.end(context.Canceled)
		return nil
	}
	h.use.Lock()
	defer h.use.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	err = h.freeze.thaw(s.ctx)
	if cause := context.Cause(h.freeze.ctx); err == nil && cause != nil {
		err = &dr.Error{Op: "thaw", Machine: h.machine, Err: fmt.Errorf("%w: the machine had thawed already: %w", dr.ErrNotConsistent, cause)}
	}
	h.closed = true
	h.freeze.end(nil)
	s.x.drop(h)
	return err
}

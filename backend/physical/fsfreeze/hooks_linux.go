package fsfreeze

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Hooks makes the pair for physical.Config.Hooks. They serve all machines of a
// host, one freeze of each at a time, and are safe for concurrent use. Where
// Scripts are to make points application-consistent set Config.Freezes too.
//
// Freeze fails with [OwnError], [FrozenError] or what the kernel said, and
// leaves nothing frozen then. Thaw fails if anything that was to be held was
// not until then; thawing what isn't frozen is no error.
func Hooks(o Options) (freeze, thaw physical.Hook) {
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	if o.Scripts.Limit <= 0 {
		o.Scripts.Limit = DefaultScriptLimit
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := newHooks(o)
	return h.freeze, h.thaw
}

func newHooks(o Options) *hooks {
	return &hooks{o: o, thawOne: thawOne, sessions: map[dr.MachineID]*session{}}
}

type hooks struct {
	o       Options
	thawOne func(*hold) error // as the kernel does, or not
	report  sync.Mutex

	mu       sync.Mutex
	sessions map[dr.MachineID]*session
}

func (h *hooks) freeze(ctx context.Context, e physical.Event) error {
	s := newSession(h, e)
	ctx, s.stop = context.WithCancelCause(ctx)
	defer s.stop(nil)
	h.mu.Lock()
	old := h.sessions[e.Machine.ID]
	h.sessions[e.Machine.ID] = s
	h.mu.Unlock()
	if old != nil {
		// It was interrupted. What it froze is of no use to this one.
		_ = old.end(context.WithoutCancel(ctx))
	}
	err := s.begin(ctx)
	if err != nil {
		err = errors.Join(err, s.end(context.WithoutCancel(ctx)))
	}
	return err
}

func (h *hooks) thaw(ctx context.Context, e physical.Event) error {
	h.mu.Lock()
	s := h.sessions[e.Machine.ID]
	h.mu.Unlock()
	if s == nil {
		return nil
	}
	s.say(e)
	ended := make(chan error, 1)
	go func() { ended <- s.end(context.WithoutCancel(ctx)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx) // the session goes on thawing
	}
}

// gone forgets a session that has ended, and tells what it did.
func (h *hooks) gone(s *session) {
	h.mu.Lock()
	if h.sessions[s.event.Machine.ID] == s {
		delete(h.sessions, s.event.Machine.ID)
	}
	h.mu.Unlock()
	for _, r := range s.report.Scripts {
		if r.Err != nil {
			h.o.Log.Error("a script failed", "machine", s.report.Machine, "script", r.Path, "event", r.Event, "error", r.Err)
		}
	}
	if h.o.Report != nil {
		h.report.Lock()
		defer h.report.Unlock()
		h.o.Report(s.report)
	}
}

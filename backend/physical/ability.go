package physical

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Unwrap shows dr.As the abilities that depend on hooks, so that a flow which
// needs one that is missing is refused before its first step.
func (h *Host) Unwrap() any { return h.more }

func (h *Host) abilities() any {
	var v any
	hooks := h.cfg.Hooks
	if h.cfg.Inspect != nil {
		v = inspector{h, v}
	}
	if hooks.Probe != nil {
		v = prober{h, v}
	}
	if hooks.Freeze != nil && hooks.Thaw != nil {
		v = quiescer{h, v}
	}
	alone := len(h.cfg.Machines) == 1 && h.cfg.Machines[0].Self
	if hooks.Shutdown != nil || hooks.Stop == nil && !alone {
		v = shutdowner{h, v}
	}
	return v
}

type (
	prober struct {
		h    *Host
		next any
	}
	quiescer struct {
		h    *Host
		next any
	}
	shutdowner struct {
		h    *Host
		next any
	}
)

var (
	_ backend.Prober       = prober{}
	_ backend.Quiescer     = quiescer{}
	_ backend.LiveCapturer = quiescer{}
	_ backend.Shutdowner   = shutdowner{}
)

func (p prober) Unwrap() any     { return p.next }
func (q quiescer) Unwrap() any   { return q.next }
func (s shutdowner) Unwrap() any { return s.next }

// Probe implements [backend.Prober]: the hook's success is the evidence, what
// it printed is what it saw.
func (p prober) Probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	m, err := p.h.machine("probe", id)
	if err != nil {
		return backend.Evidence{}, err
	}
	said, err := m.call(ctx, "probe", p.h.cfg.Hooks.Probe, 0, nil)
	if err != nil {
		return backend.Evidence{}, &dr.Error{Op: "probe", Machine: id, Err: err}
	}
	if said == "" {
		said = "the probe succeeded"
	}
	return backend.Evidence{Kind: "hook", What: said}, nil
}

// Shutdown implements [backend.Shutdowner]. A machine that a hook has shut down
// counts as consistent to the application when it is captured.
func (s shutdowner) Shutdown(ctx context.Context, id dr.MachineID) error {
	hook := s.h.cfg.Hooks.Shutdown
	return s.h.off(ctx, "shutdown", id, hook, hook != nil)
}

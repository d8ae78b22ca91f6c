package temporal

import (
	"go.temporal.io/sdk/workflow"
)

// Temporal bounds a workflow's history, to 51,200 events and 50 MiB. A run that
// comes near goes on in a new workflow run of the same ID, with its events so
// far as input: at the first moment at which nothing is in hand, once the
// server suggests it; soon after, it begins nothing new to have such a moment;
// and before the server's end, what still runs is stopped, as if its worker
// had ended, and begun again in the new one.
const (
	drainAt = 30_000
	haltAt  = 42_000
	// In bytes of history, likewise.
	drainSize = 28 << 20
	haltSize  = 40 << 20
)

// length says how far the history has grown.
type length int

const (
	short length = iota
	suggested
	draining
	halting
)

func (x *interp) length() length {
	if x.tooMuch { // it has to go on here: to begin nothing more would be its end
		return short
	}
	i := workflow.GetInfo(x.ctx)
	n, size := i.GetCurrentHistoryLength(), i.GetCurrentHistorySize()
	if l := x.in.Settings.Long; l > 0 {
		switch {
		case n >= 4*l:
			return halting
		case n >= 2*l:
			return draining
		case n >= l:
			return suggested
		}
		return short
	}
	switch {
	case n >= haltAt || size >= haltSize:
		return halting
	case n >= drainAt || size >= drainSize:
		return draining
	case i.GetContinueAsNewSuggested():
		return suggested
	}
	return short
}

// long reports whether the run is to be continued as new, now. Timers are no
// obstacle: they are set anew.
func (x *interp) long() bool {
	x.asked = false
	l := x.length()
	if l == short || x.fold.Ended() || x.refused != "" {
		return false
	}
	if l == halting {
		for _, h := range x.hands {
			if h.offer > 0 && !h.halted {
				h.halted = true
				h.cancel()
			}
		}
	}
	for _, h := range x.hands {
		if !h.idle {
			return false
		}
	}
	if x.tooMuch {
		return false
	}
	if x.asked = !workflow.AllHandlersFinished(x.ctx); x.asked {
		return false
	}
	x.tooMuch = !x.carry()
	return !x.tooMuch
}

// carry packs the events. False: they don't fit, and the run has to make do
// with the history that it has.
func (x *interp) carry() bool {
	p, err := pack(x.events)
	if err != nil || p.size()+x.in.Plan.size() > MaxPayload {
		return false
	}
	x.in.Events = p
	return true
}

// again continues the run as new. A signal that has come meanwhile makes the
// server have this decided anew, so none is lost.
func (x *interp) again(ctx workflow.Context) error {
	in := x.in
	in.Offers = x.offers
	if in.First.IsZero() {
		in.First = workflow.GetInfo(x.ctx).WorkflowStartTime.UTC()
	}
	return workflow.NewContinueAsNewError(ctx, workflow.GetInfo(x.ctx).WorkflowType.Name, in)
}

package temporal

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// answer sets what the workflow can be asked, and told.
func (x *interp) answer() error {
	queries := map[string]any{
		statusQuery: func() (seen, error) { return see(x.status()) },
		needsQuery:  func(queues []string) ([]string, error) { return x.fold.Needs(queues...), nil },
		resultQuery: func(step string) (packed, error) {
			if st, ok := x.fold.Status().Step(step); ok {
				return pack(st.Result)
			}
			return packed{}, fmt.Errorf("no step %q: %w", step, dr.ErrNotFound)
		},
		decideQuery: func(in decideInput) (answered, error) { return x.late(in), nil },
	}
	for _, name := range sorted(queries) {
		if err := workflow.SetQueryHandler(x.ctx, name, queries[name]); err != nil {
			return err
		}
	}
	err := workflow.SetUpdateHandlerWithOptions(x.ctx, claimedUpdate, func(ctx workflow.Context) error {
		if err := workflow.Await(ctx, func() bool { return x.over() || !x.wants(dr.TaskClaim) }); err != nil {
			return err
		}
		if x.refused != "" {
			return sdk.NewNonRetryableApplicationError(x.refused, refusedType, nil)
		}
		return nil
	}, workflow.UpdateHandlerOptions{})
	if err != nil {
		return err
	}
	decide := func(in decideInput) func() (*dr.Event, error) {
		return func() (*dr.Event, error) { return x.fold.Decide(in.Step, in.Decision, x.now()) }
	}
	err = workflow.SetUpdateHandlerWithOptions(x.ctx, decideUpdate, func(ctx workflow.Context, in decideInput) error {
		return x.tell(ctx, decide(in))
	}, workflow.UpdateHandlerOptions{Validator: func(in decideInput) error {
		_, err := decide(in)()
		return sendable(err)
	}})
	if err != nil {
		return err
	}
	cancel := func(in cancelInput) func() (*dr.Event, error) {
		return func() (*dr.Event, error) { return x.fold.Cancel(in.Why, x.now()) }
	}
	return workflow.SetUpdateHandlerWithOptions(x.ctx, cancelUpdate, func(ctx workflow.Context, in cancelInput) error {
		return x.tell(ctx, cancel(in))
	}, workflow.UpdateHandlerOptions{Validator: func(in cancelInput) error {
		_, err := cancel(in)()
		return sendable(err)
	}})
}

// late is what a decision comes to of a run whose workflow is closed.
func (x *interp) late(in decideInput) answered {
	e, err := x.fold.Decide(in.Step, in.Decision, time.Time{})
	if err == nil && e != nil { // it waits, for ever: nothing can be recorded any more
		err = fmt.Errorf("run %s: decision on %s: %w: its workflow was ended in Temporal", x.in.Run, in.Step, dr.ErrNotFound)
	}
	return answerOf(err)
}

// tell has something recorded, and waits until it is.
func (x *interp) tell(ctx workflow.Context, make func() (*dr.Event, error)) error {
	done := false
	var err error
	x.post(func() {
		err = x.change(make)
		done = true
	})
	if err := workflow.Await(ctx, func() bool { return done }); err != nil {
		return err
	}
	return sendable(err)
}

// maxSeen is how many bytes of results a status carries; larger ones are asked
// for one by one.
const maxSeen = 512 << 10

// status is the fold's, with what it doesn't know: which steps nobody has taken
// up yet.
func (x *interp) status() dr.Status {
	s := x.fold.Status()
	for _, h := range x.hands {
		if h.since.IsZero() || h.signalled || h.done {
			continue
		}
		for i := range s.Steps {
			if s.Steps[i].ID == h.k.step {
				s.Steps[i].Awaits = h.since
			}
		}
	}
	return s
}

// see packs a status so that it fits into a payload.
func see(s dr.Status) (seen, error) {
	var left []string
	carried := 0
	for i := range s.Steps {
		st := &s.Steps[i]
		if carried += len(st.Result); carried > maxSeen {
			carried -= len(st.Result)
			left = append(left, st.ID)
			st.Result = nil
		}
	}
	p, err := pack(s)
	if err == nil && p.size() > MaxPayload { // thousands of long errors
		for i := range s.Steps {
			s.Steps[i].Err = head(s.Steps[i].Err, 200)
		}
		s.Reason = head(s.Reason, 4<<10)
		p, err = pack(s)
	}
	return seen{Status: p, Left: left}, err
}

// head is what s begins with, if it is longer than n bytes.
func head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func itoa(n int) string { return strconv.Itoa(n) }

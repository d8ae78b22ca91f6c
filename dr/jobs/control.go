package jobs

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Cancel cancels the job's run: what it did is taken back. by, who asks, is
// required, and stands with why in the job's reason. ErrNotAllowed past the
// point of no return, or if it has ended.
func Cancel(ctx context.Context, o dr.Orchestrator, run dr.RunID, by, why string) error {
	if by == "" {
		return fmt.Errorf("run %s: cancel: %w: it must say by whom", run, dr.ErrInvalid)
	}
	if why != "" {
		by += ": " + why
	}
	return o.Cancel(ctx, run, "cancelled by "+by)
}

// Answer is what a person says to a job that waits.
type Answer struct {
	// Step names the gate or the stuck step; "": the only one that waits.
	Step string
	By   string // who answers; required
	Note string
}

// Resume lets a job that waits go on: a gate is approved, a stuck step tried
// again. For other answers use Orchestrator.Decide. ErrNotFound if nothing
// waits, ErrAmbiguous, naming them, if several do and a.Step is empty.
func Resume(ctx context.Context, o dr.Orchestrator, run dr.RunID, a Answer) error {
	s, err := o.Status(ctx, run)
	if err != nil {
		return err
	}
	var waits []string
	verdict := map[string]dr.Verdict{}
	for _, st := range s.Steps {
		switch st.State {
		case dr.StepWaiting:
			verdict[st.ID] = dr.Approve
		case dr.StepStuck:
			verdict[st.ID] = dr.Retry
		default:
			continue
		}
		waits = append(waits, st.ID)
	}
	switch {
	case a.Step != "":
	case len(waits) == 0:
		return fmt.Errorf("run %s: resume: nothing waits: %w", run, dr.ErrNotFound)
	case len(waits) > 1:
		return fmt.Errorf("run %s: resume: %w: say which step: %s", run, dr.ErrAmbiguous, strings.Join(waits, ", "))
	default:
		a.Step = waits[0]
	}
	v, ok := verdict[a.Step]
	if !ok {
		return fmt.Errorf("run %s: resume: step %q doesn't wait: %w", run, a.Step, dr.ErrNotFound)
	}
	return o.Decide(ctx, run, a.Step, dr.Decision{Verdict: v, By: a.By, Note: a.Note})
}

// Restart runs a job once more that failed or was cancelled, as the run
// [NextRun] names. A run is never begun again itself: what its steps made is
// known by its name. Nor is its plan: since then machines and records have
// changed, so plan makes a new one of how things stand now, by the functions
// that made the first, and refuses as these do.
//
// ErrNotAllowed for a job that goes on or succeeded. ErrRunExists: it has been
// restarted already; the ID returned is that of the run which did, and which
// can be restarted in its turn.
func Restart(ctx context.Context, o dr.Orchestrator, run dr.RunID, plan func(context.Context, dr.Status) (dr.Plan, error)) (dr.RunID, error) {
	s, err := o.Status(ctx, run)
	if err != nil {
		return "", err
	}
	if s.State != dr.RunFailed && s.State != dr.RunCancelled {
		return "", fmt.Errorf("run %s: restart: %w: it is %s; only what failed or was cancelled is run once more", run, dr.ErrNotAllowed, s.State)
	}
	next := NextRun(run)
	p, err := plan(ctx, s)
	if err != nil {
		return "", fmt.Errorf("run %s: restart: %w", run, err)
	}
	return next, o.Start(ctx, next, p)
}

// NextRun names the run that does a run's work once more: "r" is followed by
// "r~2", that by "r~3". It is always the same, so that asking twice starts one.
func NextRun(run dr.RunID) dr.RunID {
	i := strings.LastIndexByte(string(run), '~')
	if i >= 0 {
		tail := string(run[i+1:])
		if n, err := strconv.ParseUint(tail, 10, 32); err == nil && n >= 2 && strconv.FormatUint(n, 10) == tail {
			return run[:i+1] + dr.RunID(strconv.FormatUint(n+1, 10))
		}
	}
	return run + "~2"
}

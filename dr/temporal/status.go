package temporal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	sdk "go.temporal.io/sdk/temporal"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// info is what Temporal itself knows of a run.
type info struct {
	closed  bool
	status  enums.WorkflowExecutionStatus
	runID   string
	state   dr.RunState // as the run has shown it; "" if it can't be read
	length  int64       // of the history: what the workflow says changes with it alone
	ended   time.Time
	pending []*workflowpb.PendingActivityInfo
}

// describe returns ErrNotFound for a workflow that isn't there, or whose locks
// were refused, so that it never was a run.
func (e *Engine) describe(ctx context.Context, op string, id dr.RunID) (info, error) {
	var d *workflowservice.DescribeWorkflowExecutionResponse
	err := insist(ctx, func() (err error) {
		d, err = e.c.DescribeWorkflowExecution(ctx, e.workflowID(id), "")
		return err
	})
	if gone(err) {
		return info{}, notFound(id)
	}
	if err != nil {
		return info{}, explain(ctx, op+" of run "+string(id), err)
	}
	w := d.GetWorkflowExecutionInfo()
	i := info{status: w.GetStatus(), runID: w.GetExecution().GetRunId(), length: w.GetHistoryLength(), pending: d.GetPendingActivities(),
		closed: w.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING}
	if p := w.GetMemo().GetFields()[stateMemo]; p != nil {
		_ = e.decode(&commonpb.Payloads{Payloads: []*commonpb.Payload{p}}, &i.state) // another codec's
	}
	if t := w.GetCloseTime(); t != nil {
		i.ended = t.AsTime()
	}
	if i.status == enums.WORKFLOW_EXECUTION_STATUS_FAILED {
		refused, err := e.refused(ctx, op, id, i.runID)
		if err != nil {
			return info{}, err
		}
		if refused {
			return info{}, notFound(id)
		}
	}
	return i, nil
}

// refused reports whether a workflow that failed did so because its locks were
// held. Any other that failed, by the server's limits say, was a run.
func (e *Engine) refused(ctx context.Context, op string, id dr.RunID, runID string) (bool, error) {
	err := e.c.GetWorkflow(ctx, e.workflowID(id), runID).Get(ctx, nil)
	var end *sdk.WorkflowExecutionError
	if err != nil && !errors.As(err, &end) {
		return false, explain(ctx, op+" of run "+string(id), err)
	}
	var a *sdk.ApplicationError
	return errors.As(err, &a) && a.Type() == refusedType, nil
}

// ask queries the workflow.
func (e *Engine) ask(ctx context.Context, op string, id dr.RunID, query string, answer any, args ...any) error {
	if err := e.dead(); err != nil {
		return err
	}
	v, err := e.query(ctx, id, query, args...)
	if gone(err) {
		return notFound(id)
	}
	if err != nil {
		return explain(ctx, op+" of run "+string(id), err)
	}
	if err := v.Get(answer); err != nil {
		return fmt.Errorf("%s of run %s: %w: %v", op, id, dr.ErrCorrupt, err)
	}
	return nil
}

// Status tells where the run is: that of an open one from its workflow, with
// the progress that its workers told last; that of an ended one from what the
// workflow came to, also while nobody drives. A run whose workflow was
// terminated in Temporal is shown as failed, with what is to be done about it.
// While nobody drives, that of an open run fails after a minute, or when ctx ends.
func (e *Engine) Status(ctx context.Context, id dr.RunID) (dr.Status, error) {
	l, err := e.look(ctx, id, looked{})
	return l.status, err
}

// looked is a status, which history it is of, and when the workflow was asked
// and how long that took.
type looked struct {
	status dr.Status
	runID  string
	length int64
	asked  time.Time
	took   time.Duration
}

// calm reports whether the workflow needn't be asked about a history that has
// grown: its steps go on, and it was asked a moment ago. The time between two
// questions is twenty times what one takes, so that a server that has much to
// do is asked less.
func (l looked) calm(i info) bool {
	return i.state == l.status.State && len(i.pending) > 0 && time.Since(l.asked) < min(20*l.took, watchMost)
}

// look is Status that asks the workflow only if its history isn't the one of
// before any more, and then not at once (see calm): being asked costs a driver
// and the server about as much as a step does.
func (e *Engine) look(ctx context.Context, id dr.RunID, before looked) (looked, error) {
	if err := e.dead(); err != nil {
		return looked{}, err
	}
	for n := 0; ; n++ {
		i, err := e.describe(ctx, "status", id)
		if err != nil {
			return looked{}, err
		}
		// The length is that of before the workflow is asked, which may know more.
		now := looked{runID: i.runID, length: i.length, asked: time.Now()}
		if !i.closed && now.runID == before.runID && (now.length == before.length || before.calm(i)) {
			now = before
			now.status.Steps = slices.Clone(now.status.Steps)
			for n := range now.status.Steps {
				now.status.Steps[n].Progress = nil
			}
			e.progress(&now.status, i.pending)
			return now, nil
		}
		var got seen
		switch i.status {
		case enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
			if !pause(ctx, 10*time.Millisecond) { // there is a newer one by now
				return looked{}, ctx.Err()
			}
			continue
		case enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:
			if err := e.c.GetWorkflow(ctx, e.workflowID(id), i.runID).Get(ctx, &got); err != nil {
				return looked{}, explain(ctx, "status of run "+string(id), err)
			}
		default:
			if err := e.ask(ctx, "status", id, statusQuery, &got); err != nil {
				return looked{}, err
			}
		}
		now.took = time.Since(now.asked)
		s, err := e.whole(ctx, id, got)
		if err != nil {
			return looked{}, err
		}
		switch {
		case s.State.Ended(), i.status == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		case i.closed:
			what := strings.ToLower(i.status.String())
			s.State, s.Ending, s.Ended = dr.RunFailed, dr.RunFailed, i.ended
			s.Reason = "its workflow was ended in Temporal (" + what + "), so nothing was undone, and its locks are still claimed in the name of the run: see what it did, then release them"
		default:
			e.progress(&s, i.pending)
		}
		now.status = s
		return now, nil
	}
}

// Queries are given to a driver that may have been cut off a moment ago, whose
// polls Temporal still has: each swallows one. So the first try is short, and
// the last one long enough for a driver that has a long history to read.
var queryTries = []time.Duration{2 * time.Second, 2 * time.Second, 4 * time.Second, 10 * time.Second, 20 * time.Second, 20 * time.Second}

func (e *Engine) query(ctx context.Context, id dr.RunID, query string, args ...any) (v converter.EncodedValue, err error) {
	for _, limit := range queryTries {
		try, cancel := context.WithTimeout(ctx, limit)
		v, err = e.c.QueryWorkflow(try, e.workflowID(id), "", query, args...)
		late := err != nil && try.Err() != nil || unheard(err)
		cancel()
		if !late && !refusedForNow(err) || !pause(ctx, 50*time.Millisecond) {
			break
		}
	}
	return v, err
}

// refusedForNow reports whether a server or a driver was too busy to answer. One
// that had to read the history of a run that went on meanwhile says that the
// run's workflow is not deterministic (TMPRL1100), as of SDK 1.50.0: it has read
// more than it was asked about. Workflow tasks have a bound, and queries none.
func refusedForNow(err error) bool {
	var unavailable *serviceerror.Unavailable
	var failed *serviceerror.QueryFailed
	return errors.As(err, &unavailable) || errors.As(err, &failed)
}

// unheard reports whether a call got no answer in time.
func unheard(err error) bool {
	var late *serviceerror.DeadlineExceeded
	return errors.As(err, &late)
}

// whole fetches the results that didn't fit.
func (e *Engine) whole(ctx context.Context, id dr.RunID, got seen) (s dr.Status, err error) {
	if err := got.Status.open(&s); err != nil {
		return s, fmt.Errorf("status of run %s: %w", id, err)
	}
	for _, left := range got.Left {
		var p packed
		if err := e.ask(ctx, "results", id, resultQuery, &p, left); err != nil {
			return s, err
		}
		for i := range s.Steps {
			if s.Steps[i].ID != left {
				continue
			}
			if err := p.open(&s.Steps[i].Result); err != nil {
				return s, fmt.Errorf("result of step %s of run %s: %w", left, id, err)
			}
		}
	}
	return s, nil
}

// progress adds what the workers have told with their heartbeats: how far they
// are, and that they have begun at all. What can't
// be read, because this client has another codec, is left out.
func (e *Engine) progress(s *dr.Status, pending []*workflowpb.PendingActivityInfo) {
	for _, a := range pending {
		if a.GetActivityType().GetName() != stepName || len(a.GetHeartbeatDetails().GetPayloads()) == 0 {
			continue
		}
		var b beat
		if err := e.decode(a.GetHeartbeatDetails(), &b); err != nil {
			continue
		}
		for i := range s.Steps {
			st := &s.Steps[i]
			if st.ID != b.Step {
				continue
			}
			if len(b.Progress) > 0 {
				st.Progress = b.Progress
			}
			if b.Begun && s.Ending == "" && (st.State == dr.StepPending || st.State == dr.StepRunning) && st.Attempt <= b.Attempt {
				// The workflow needn't have been told.
				st.State, st.Attempt, st.Awaits = dr.StepRunning, b.Attempt, time.Time{}
				if t := a.GetLastStartedTime(); t != nil && st.Started.IsZero() {
					st.Started = t.AsTime()
				}
			}
		}
	}
}

func (e *Engine) decode(p *commonpb.Payloads, v any) error { return e.o.Converter.FromPayloads(p, v) }

// watchMost is the longest time between two looks at a run that is watched.
const watchMost = 2 * time.Second

// Watch yields the run's status as it changes. It asks Temporal, at first
// often, and at longer and longer intervals, of up to two seconds, while
// nothing changes, or the server takes long to answer; the workflow itself is
// asked only when its history has grown. Of a server that has much to do the
// steps' changes are seen up to two seconds late.
func (e *Engine) Watch(ctx context.Context, id dr.RunID) iter.Seq2[dr.Status, error] {
	return func(yield func(dr.Status, error) bool) {
		const first = 50 * time.Millisecond
		var before looked
		var last dr.Status
		wait := first
		for n := 0; ; n++ {
			began := time.Now()
			l, err := e.look(ctx, id, before)
			took := time.Since(began)
			s := l.status
			if err == nil {
				before = l
			}
			if err == nil && n > 0 && reflect.DeepEqual(s, last) {
				wait = wait * 3 / 2
			} else {
				if !yield(s, err) || err != nil || s.State.Ended() {
					return
				}
				last, wait = s, first
			}
			wait = min(max(wait, 8*took), watchMost)
			if !pause(ctx, wait) {
				yield(dr.Status{}, ctx.Err())
				return
			}
		}
	}
}

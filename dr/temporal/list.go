package temporal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// listed is a run that Temporal's visibility shows.
type listed struct {
	planned
	at     time.Time // of its first workflow run
	failed bool      // its workflow, in Temporal
}

// Runs yields the runs that Temporal still has, oldest first, each as it is
// when it is reached. How long that is after a run has ended is the namespace's
// retention. A run that another process has just started may be missing: what
// Temporal lists lags by some moments.
func (e *Engine) Runs(ctx context.Context) iter.Seq2[dr.Status, error] {
	return func(yield func(dr.Status, error) bool) {
		all, err := e.list(ctx, false)
		if err != nil {
			yield(dr.Status{}, err)
			return
		}
		for _, l := range all {
			s, err := e.Status(ctx, l.Run)
			if errors.Is(err, dr.ErrNotFound) { // past its retention meanwhile, or never a run
				continue
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// OpenRuns yields the runs that haven't ended, oldest first, by Temporal's
// visibility alone: no run is asked. What Temporal lists lags by some moments.
func (e *Engine) OpenRuns(ctx context.Context) iter.Seq2[dr.RunID, error] {
	return func(yield func(dr.RunID, error) bool) {
		all, err := e.list(ctx, true)
		if err != nil {
			yield("", err)
			return
		}
		for _, l := range all {
			if !yield(l.Run, nil) {
				return
			}
		}
	}
}

// list returns the engine's runs, oldest first, each once, with those started
// here that visibility may not show yet.
func (e *Engine) list(ctx context.Context, open bool) ([]listed, error) {
	if err := e.dead(); err != nil {
		return nil, err
	}
	var names []string
	for _, name := range sorted(interpreters) {
		names = append(names, quote(name))
	}
	query := fmt.Sprintf("TaskQueue = %s AND WorkflowType IN (%s)", quote(e.o.Queue), strings.Join(names, ", "))
	if open {
		query += ` AND ExecutionStatus = "Running"`
	}
	byID := map[dr.RunID]listed{}
	req := &workflowservice.ListWorkflowExecutionsRequest{Query: query, PageSize: 500}
	for {
		page, err := e.c.ListWorkflow(ctx, req)
		if err != nil {
			return nil, explain(ctx, "list runs", err)
		}
		for _, w := range page.GetExecutions() {
			l, ok := e.listedOf(w)
			// One that failed mostly was refused its locks, and counts only if
			// the run has no other.
			old, dup := byID[l.Run]
			if ok && (!dup || old.failed && !l.failed || old.failed == l.failed && l.at.Before(old.at)) {
				byID[l.Run] = l
			}
		}
		if req.NextPageToken = page.GetNextPageToken(); len(req.NextPageToken) == 0 {
			break
		}
	}
	e.mu.Lock()
	for id, s := range e.recent {
		if time.Since(s.at) > recently {
			continue
		}
		if l, ok := byID[id]; !ok || l.failed {
			byID[id] = listed{planned: s.what, at: s.at}
		}
	}
	e.mu.Unlock()
	all := make([]listed, 0, len(byID))
	for _, l := range byID {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b listed) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return strings.Compare(string(a.Run), string(b.Run))
	})
	return all, nil
}

func (e *Engine) listedOf(w *workflowpb.WorkflowExecutionInfo) (listed, bool) {
	id, ok := strings.CutPrefix(w.GetExecution().GetWorkflowId(), e.workflowID(""))
	if !ok {
		return listed{}, false
	}
	l := listed{planned: planned{Run: dr.RunID(id)}, at: w.GetStartTime().AsTime(),
		failed: w.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_FAILED}
	if p := w.GetMemo().GetFields()[planMemo]; p != nil {
		// Without it, because this client has another codec, the run is asked.
		_ = e.decode(&commonpb.Payloads{Payloads: []*commonpb.Payload{p}}, &l.planned)
	}
	return l, true
}

// quote makes a literal of Temporal's query language.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// reach asks Temporal something that costs little, to see that it can be.
func (e *Engine) reach(ctx context.Context) error {
	_, err := e.c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{PageSize: 1})
	return explain(ctx, "open engine", err)
}

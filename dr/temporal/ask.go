package temporal

import (
	"context"
	"sync"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// asking asks sites whether a worker is there, for all runs that are driven
// here.
type asking struct {
	e *Engine

	mu   sync.Mutex
	open map[string]*question // by task queue
}

// question is one that is being asked.
type question struct {
	answered chan struct{} // then there and err are set
	there    bool
	err      error
}

// ask is the activity: it joins who is asking already.
func (a *asking) ask(ctx context.Context, in askInput) (there bool, err error) {
	a.mu.Lock()
	q := a.open[in.Queue]
	if q == nil {
		q = &question{answered: make(chan struct{})}
		if a.open == nil {
			a.open = map[string]*question{}
		}
		a.open[in.Queue] = q
		go a.answer(q, in)
	}
	a.mu.Unlock()
	select {
	case <-q.answered:
		return q.there, q.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// answer has a workflow ask the site. Drivers of other processes that ask at
// the same time share it.
func (a *asking) answer(q *question, in askInput) {
	ctx, cancel := context.WithTimeout(a.e.ctx, 2*in.Limit+answersFor)
	defer cancel()
	w, err := a.e.c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: a.e.o.Queue + "#ask/" + in.Queue, TaskQueue: a.e.o.Queue,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, WorkflowTaskTimeout: taskTimeout(a.e.o.Heartbeat)}, askName, in)
	if err == nil {
		err = w.Get(ctx, &q.there)
	}
	q.err = explain(ctx, "ask whether a worker is at "+in.Queue, err)
	a.mu.Lock()
	delete(a.open, in.Queue)
	a.mu.Unlock()
	close(q.answered)
}

// askSite is the workflow. A worker that answers with an error, or takes the
// question up and is silent then, is there, too.
func askSite(ctx workflow.Context, in askInput) (there bool, err error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{TaskQueue: in.Queue, ScheduleToStartTimeout: in.Limit, StartToCloseTimeout: in.Limit,
		RetryPolicy: &sdk.RetryPolicy{MaximumAttempts: 1}})
	return !untaken(workflow.ExecuteActivity(ctx, presentName).Get(ctx, nil)), nil
}

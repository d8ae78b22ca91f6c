package temporal

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Decide answers a gate or a stuck step. It returns when the answer is in the
// run's history. It works also while nobody serves.
func (e *Engine) Decide(ctx context.Context, id dr.RunID, step string, d dr.Decision) error {
	in := decideInput{step, d}
	closed, err := e.tell(ctx, "decide", id, decideUpdate, in)
	if !closed {
		return err
	}
	var a answered
	if err := e.ask(ctx, "decide", id, decideQuery, &a, in); err != nil {
		return err
	}
	return a.err()
}

// Cancel stops the run. It works also while nobody serves; what has to be
// undone is then undone by who serves next. Asked again it stops what is still
// waited for.
func (e *Engine) Cancel(ctx context.Context, id dr.RunID, why string) error {
	closed, err := e.tell(ctx, "cancel", id, cancelUpdate, cancelInput{why})
	if !closed {
		return err
	}
	s, err := e.Status(ctx, id)
	if err != nil {
		return err
	}
	return &remote{"run " + string(id) + ": cancel: not allowed in this state: it has ended: " + string(s.State), dr.ErrNotAllowed}
}

// tell updates the workflow, and reports whether it is closed already.
func (e *Engine) tell(ctx context.Context, op string, id dr.RunID, update string, in any) (closed bool, err error) {
	if err := e.dead(); err != nil {
		return false, err
	}
	for n := 0; ; n++ {
		h, err := e.c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: e.workflowID(id), UpdateName: update,
			Args: []any{in}, WaitForStage: client.WorkflowUpdateStageCompleted})
		if err == nil {
			err = h.Get(ctx, nil)
		}
		if err == nil {
			return false, nil
		}
		if s := said(err); s != nil {
			return false, s
		}
		if gone(err) {
			// There is none, or it is closed, or it has just been continued as new.
			info, err := e.describe(ctx, op, id)
			if err != nil || info.closed {
				return err == nil, err
			}
		} else if !passing(err) {
			return false, explain(ctx, op+" run "+string(id), err)
		}
		if n > 20 {
			return false, explain(ctx, op+" run "+string(id), err)
		}
		if !pause(ctx, time.Duration(n+1)*20*time.Millisecond) {
			return false, ctx.Err()
		}
	}
}

// passing reports whether asking again helps: the workflow was about to be
// continued as new, or the driver that was asked has died.
func passing(err error) bool {
	var aborted *serviceerror.Aborted
	var notReady *serviceerror.WorkflowNotReady
	return errors.As(err, &aborted) || errors.As(err, &notReady)
}

// pause reports false if ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

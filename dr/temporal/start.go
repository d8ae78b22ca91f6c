package temporal

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	sdk "go.temporal.io/sdk/temporal"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// maxID is how long a workflow's ID may be.
const maxID = 1000

// maxInput is how large the input of one step may be.
const maxInput = 1 << 20

// Start records the run as a workflow, which claims the plan's locks, and
// returns when they are held. While the engine is served, a run that needs an
// action which is not registered is refused with ErrUnsupported.
//
// ErrInvalid, beside what Plan.Validate says: the plan has more than
// [MaxPayload] bytes when compressed, or a step's input more than 1 MiB. ErrUnreachable, or ctx's error: the run
// may have been recorded; then it goes on claiming, can be cancelled, and
// starting it again is ErrRunExists. How long an ID is remembered after its run
// has ended is the namespace's retention.
func (e *Engine) Start(ctx context.Context, id dr.RunID, p dr.Plan) error {
	if err := e.dead(); err != nil {
		return err
	}
	p, err := p.Frozen()
	if err != nil {
		return err
	}
	if id == "" || len(e.workflowID(id)) > maxID || !utf8.ValidString(string(id)) {
		return fmt.Errorf("run %q: %w: an ID must be UTF-8 of 1 to %d bytes", id, dr.ErrInvalid, maxID-len(e.workflowID("")))
	}
	if s := e.serving(); s != nil {
		if err := s.able(id, dr.NewRun(id, p).Needs(s.queues...)); err != nil {
			return err
		}
	}
	in := runInput{Run: id, Start: rand.Text(), Settings: settings{Queue: e.o.Queue, Heartbeat: e.o.Heartbeat, Long: e.o.Long, Quiet: true, Unable: true,
		BackoffFirst: e.o.BackoffFirst, BackoffMost: e.o.BackoffMost, Attributes: e.o.SearchAttributes}}
	if in.Plan, err = pack(p); err != nil {
		return fmt.Errorf("run %s: %w: plan: %v", id, dr.ErrInvalid, err)
	}
	if in.Plan.size() > MaxPayload {
		return fmt.Errorf("run %s: %w: its plan has %d bytes, compressed; Temporal takes %d: make child runs of its parts", id, dr.ErrInvalid, in.Plan.size(), MaxPayload)
	}
	// An attempt is offered in one piece, which isn't compressed.
	for _, st := range p.Steps {
		if len(st.Input) > maxInput {
			return fmt.Errorf("run %s: %w: the input of step %s has %d bytes, %d are allowed", id, dr.ErrInvalid, st.ID, len(st.Input), maxInput)
		}
	}
	what := plannedOf(id, p)
	if err := e.start(ctx, id, in, what); err != nil {
		return err
	}
	e.remember(id, what)
	return nil
}

func (e *Engine) start(ctx context.Context, id dr.RunID, in runInput, what planned) error {
	if err := e.unknown(ctx, id); err != nil {
		return err
	}
	o := client.StartWorkflowOptions{
		ID: e.workflowID(id), TaskQueue: e.o.Queue, WorkflowTaskTimeout: taskTimeout(e.o.Heartbeat),
		// Only a workflow whose locks were refused fails. Others that ended
		// badly were looked for.
		WorkflowIDReusePolicy:    enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		Memo:                     map[string]any{planMemo: what.fit(), stateMemo: string(dr.RunRunning)},
		StaticSummary:            "Lifeboat " + what.Flow,
	}
	if e.o.SearchAttributes {
		o.TypedSearchAttributes = sdk.NewSearchAttributes(flowAttribute.ValueSet(what.Flow),
			stateAttribute.ValueSet(string(dr.RunRunning)), machinesAttribute.ValueSet(what.Locks))
	}
	op := e.c.NewWithStartWorkflowOperation(o, workflowName(dr.FoldRev), in)
	h, err := e.c.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: op,
		UpdateOptions:          client.UpdateWorkflowOptions{UpdateName: claimedUpdate, WaitForStage: client.WorkflowUpdateStageCompleted},
	})
	if err == nil {
		err = h.Get(ctx, nil)
	}
	if err == nil {
		return nil
	}
	var dup *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &dup) {
		return fmt.Errorf("run %s: start: %w", id, dr.ErrRunExists)
	}
	if s := said(err); s != nil {
		return fmt.Errorf("run %s: start: %w", id, s)
	}
	return explain(ctx, "start run "+string(id), err)
}

// unknown refuses a run that Temporal would let be started again: one whose
// workflow somebody has terminated.
func (e *Engine) unknown(ctx context.Context, id dr.RunID) error {
	d, err := e.c.DescribeWorkflowExecution(ctx, e.workflowID(id), "")
	if gone(err) {
		return nil
	}
	if err != nil {
		return explain(ctx, "start run "+string(id), err)
	}
	switch st := d.GetWorkflowExecutionInfo().GetStatus(); st {
	case enums.WORKFLOW_EXECUTION_STATUS_FAILED:
		refused, err := e.refused(ctx, "start", id, d.GetWorkflowExecutionInfo().GetExecution().GetRunId())
		if err != nil {
			return err
		}
		if !refused {
			return fmt.Errorf("run %s: start: %w: its workflow has failed", id, dr.ErrRunExists)
		}
		return nil // or open: the server decides
	case enums.WORKFLOW_EXECUTION_STATUS_RUNNING, enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
		return fmt.Errorf("run %s: start: %w, and is open", id, dr.ErrRunExists)
	case enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		return fmt.Errorf("run %s: start: %w, and has ended", id, dr.ErrRunExists)
	default:
		return fmt.Errorf("run %s: start: %w: its workflow is %s", id, dr.ErrRunExists, strings.ToLower(st.String()))
	}
}

// taskTimeout is how long a driver may take to decide what follows, before
// another is asked.
func taskTimeout(heartbeat time.Duration) time.Duration {
	return min(max(heartbeat, time.Second), 10*time.Second)
}

func plannedOf(id dr.RunID, p dr.Plan) planned {
	what := planned{Run: id, Flow: p.Flow, Locks: p.Locks, Needs: map[string][]string{}}
	for _, s := range p.Steps {
		for _, name := range []string{s.Action, s.Undo} {
			if name != "" && !slices.Contains(what.Needs[s.Queue], name) {
				what.Needs[s.Queue] = append(what.Needs[s.Queue], name)
			}
		}
	}
	return what
}

// fit is what of it fits into a memo.
func (p planned) fit() planned {
	const most = 64 << 10
	raw, err := json.Marshal(p)
	if err == nil && len(raw) > most {
		p.Locks = nil
	}
	return p
}

// recently is how long visibility may lag behind a start.
const recently = time.Minute

// remember keeps what was started here for as long as visibility may not show
// it, and has it served.
func (e *Engine) remember(id dr.RunID, what planned) {
	e.mu.Lock()
	now := time.Now()
	for old, s := range e.recent {
		if now.Sub(s.at) > recently {
			delete(e.recent, old)
		}
	}
	e.recent[id] = started{now, what}
	s := e.serves
	e.mu.Unlock()
	if s != nil {
		s.see(what)
	}
}

package temporal

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// play is a run in the SDK's own environment, where time is skipped. Workers
// are what the test says: of each offer how it ends.
type play struct {
	t    *testing.T
	env  *testsuite.TestWorkflowEnvironment
	plan dr.Plan
	set  settings

	mu     sync.Mutex
	offers []string // the steps that were offered, in their order
	// work is what becomes of an offer.
	work func(ctx context.Context, o offer) (outcome, error)
}

func newPlay(t *testing.T, p dr.Plan) *play {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(slog.New(slog.DiscardHandler))
	pl := &play{t: t, env: suite.NewTestWorkflowEnvironment(), plan: p,
		set: settings{Queue: "q", Heartbeat: 20 * time.Second, BackoffFirst: time.Millisecond, BackoffMost: time.Second}}
	pl.env.RegisterWorkflowWithOptions(interpret, workflow.RegisterOptions{Name: workflowName(1)})
	pl.env.RegisterActivityWithOptions(pl.step, activity.RegisterOptions{Name: stepName})
	pl.env.RegisterActivityWithOptions((&asking{}).ask, activity.RegisterOptions{Name: askName})
	return pl
}

func (p *play) step(ctx context.Context, o offer) (outcome, error) {
	p.mu.Lock()
	p.offers = append(p.offers, o.Step.ID)
	p.mu.Unlock()
	return p.work(ctx, o)
}

// run has the run interpreted until it ends, or goes on in a new workflow run.
func (p *play) run() error {
	frozen, err := p.plan.Frozen()
	require.NoError(p.t, err)
	in := runInput{Run: "r", Settings: p.set}
	in.Plan, err = pack(frozen)
	require.NoError(p.t, err)
	p.env.ExecuteWorkflow(workflowName(1), in)
	require.True(p.t, p.env.IsWorkflowCompleted())
	return p.env.GetWorkflowError()
}

func (p *play) status() dr.Status {
	var got seen
	require.NoError(p.t, p.env.GetWorkflowResult(&got))
	var s dr.Status
	require.NoError(p.t, got.Status.open(&s))
	return s
}

// taken has a worker begin an offer.
func (p *play) taken(o offer) { p.env.SignalWorkflow(begunSignal, begun{o.Seq}) }

func (p *play) offered(step string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.offers {
		if s == step {
			n++
		}
	}
	return n
}

// A failure that is tried again doesn't have all other steps given back that
// wait for a worker: there may be a thousand, and each time costs three entries
// of history each.
func TestFailureThatIsTriedAgainWithdrawsNothing(t *testing.T) {
	p := newPlay(t, dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "a", Action: "do@1", Attempts: 3}, {ID: "waits", Action: "do@1"}}})
	free := make(chan struct{})
	p.work = func(ctx context.Context, o offer) (outcome, error) {
		if o.Step.ID == "waits" {
			select {
			case <-free:
			case <-ctx.Done():
				return outcome{}, ctx.Err()
			}
			p.taken(o)
			return outcome{Kind: outcomeDone}, nil
		}
		p.taken(o)
		if o.Call.Attempt < 3 {
			return outcome{Kind: outcomeFailed, Err: "not yet"}, nil
		}
		close(free)
		return outcome{Kind: outcomeDone}, nil
	}
	require.NoError(t, p.run())
	s := p.status()
	require.Equal(t, dr.RunDone, s.State, s.Reason)
	require.Equal(t, 3, p.offered("a"))
	require.Equal(t, 1, p.offered("waits"))
}

// The last failure has them given back: nothing may begin any more that the
// fold doesn't know of.
func TestFailureThatEndsTheRunWithdrawsWhatWaits(t *testing.T) {
	for name, fails := range map[string]outcome{"final": {Kind: outcomeFailed, Err: "broken", Final: true}, "attempts used up": {Kind: outcomeFailed, Err: "again"}} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t, dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "a", Action: "do@1", Attempts: 2}, {ID: "waits", Action: "do@1", Undo: "undo@1"}}})
			p.work = func(ctx context.Context, o offer) (outcome, error) {
				if o.Step.ID == "waits" {
					<-ctx.Done()
					return outcome{}, ctx.Err()
				}
				p.taken(o)
				return fails, nil
			}
			require.NoError(t, p.run())
			s := p.status()
			require.Equal(t, dr.RunFailed, s.State, s.Reason)
			require.Equal(t, dr.StepPending, s.Steps[1].State)
		})
	}
}

// A run whose history is long begins nothing more until it goes on in a new
// one. Who has asked something of it in that moment doesn't keep it from that.
func TestAnswerToARunThatDrains(t *testing.T) {
	p := newPlay(t, dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "g", Gate: "go on?"}, {ID: "a", Action: "do@1", After: []string{"g"}}}})
	p.env.RegisterDelayedCallback(func() {
		p.env.SetCurrentHistoryLength(drainAt)
		p.env.UpdateWorkflow(decideUpdate, "1", new(accepted), decideInput{Step: "g", Decision: dr.Decision{Verdict: dr.Approve, By: "me"}})
	}, time.Minute)
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, p.run(), &next)
	require.Zero(t, p.offered("a"))
}

// accepted is who waits for an update's answer, and doesn't mind it.
type accepted struct{}

func (*accepted) Accept()             {}
func (*accepted) Reject(error)        {}
func (*accepted) Complete(any, error) {}

// nobody is how Temporal says that no worker has taken something up.
func nobody() error { return sdk.NewTimeoutError(enums.TIMEOUT_TYPE_SCHEDULE_TO_START, nil) }

// A step fails for want of a worker when its site doesn't answer, or has been
// busy for long.
func TestUnheard(t *testing.T) {
	for name, c := range map[string]struct {
		there []bool // the last also for all further times
		asked int
		says  string
	}{
		"a site that is lost":            {[]bool{false}, 1, "no worker of site"},
		"one that is there, and busy":    {[]bool{true}, dr.BusyPatience, "the workers of site"},
		"one that is busy and then lost": {[]bool{true, true, false}, 3, "no worker of site"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t, dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "a", Action: "do@1", Queue: "there", Optional: true, Patience: time.Minute}}})
			p.work = func(context.Context, offer) (outcome, error) { return outcome{}, nobody() }
			p.env.OnActivity(stepName, mock.Anything, mock.Anything).After(time.Minute).Return(p.step)
			asked := 0
			p.env.OnActivity(askName, mock.Anything, mock.Anything).Return(func(_ context.Context, in askInput) (bool, error) {
				require.Equal(t, askInput{"q/steps/there#waits", 20 * time.Second}, in)
				n := min(asked, len(c.there)-1)
				asked++
				return c.there[n], nil
			})
			require.NoError(t, p.run())
			s := p.status()
			require.Equal(t, dr.RunDone, s.State)
			require.Equal(t, dr.StepFailed, s.Steps[0].State)
			require.Contains(t, s.Steps[0].Err, c.says)
			require.Equal(t, c.asked, asked)
			require.Equal(t, c.asked, p.offered("a"))
		})
	}
}

// Where all workers of a site lack the action, as those of before an upgrade do,
// a step that may fail does so in the end; until then another may have it.
func TestDeclined(t *testing.T) {
	const patience = time.Minute
	for name, c := range map[string]struct {
		step dr.Step
		able int // the offer that a worker takes; 0: none
		says string
	}{
		"by all":                         {dr.Step{Optional: true, Patience: patience}, 0, `lack action "do@1"`},
		"by all but one":                 {dr.Step{Optional: true, Patience: patience}, 5, ""},
		"where it may not fail, by 4999": {dr.Step{}, 5000, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.step.ID, c.step.Action, c.step.Queue = "a", "do@1", "there"
			p := newPlay(t, dr.Plan{Flow: "f", Steps: []dr.Step{c.step}})
			p.set.Unable = true
			began := p.env.Now()
			p.work = func(_ context.Context, o offer) (outcome, error) {
				if o.Seq != c.able && o.Seq < 6000 { // more than ten minutes have, so that it ends
					return outcome{Kind: outcomeDeclined}, nil
				}
				p.taken(o)
				return outcome{Kind: outcomeDone, Begun: true}, nil
			}
			require.NoError(t, p.run())
			s := p.status()
			require.Equal(t, dr.RunDone, s.State)
			if c.says == "" {
				require.Equal(t, dr.StepDone, s.Steps[0].State)
				return
			}
			require.Equal(t, dr.StepFailed, s.Steps[0].State)
			require.Contains(t, s.Steps[0].Err, c.says)
			took := p.env.Now().Sub(began)
			require.GreaterOrEqual(t, took, dr.BusyPatience*patience)
			require.Less(t, took, (dr.BusyPatience+1)*patience)
		})
	}
}

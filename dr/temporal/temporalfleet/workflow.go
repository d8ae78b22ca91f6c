package temporalfleet

import (
	"errors"
	"time"

	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// Names in histories: they may not change.
const (
	workflowName = "lifeboat.fleet.shard@1"
	activityName = "lifeboat.fleet.keep@1"
	yieldSignal  = "yield"
)

// state is what a shard's workflow starts, and continues as new, with.
type state struct {
	Shard     fleet.Shard   `json:"shard"`
	Queue     string        `json:"queue"` // of whoever reaches its sites
	Heartbeat time.Duration `json:"heartbeat"`
	Epoch     uint64        `json:"epoch,omitempty"` // the last that was given
	Turns     int           `json:"turns,omitempty"` // after which it continues as new; 0: 500
}

// yielding asks that a shard go to another worker.
type yielding struct {
	To string `json:"to"` // its own queue
}

// keepInput is what a worker is told.
type keepInput struct {
	Shard fleet.Shard `json:"shard"`
	Epoch uint64      `json:"epoch"`
}

// forever is how long one worker may keep a shard.
const forever = 10 * 365 * 24 * time.Hour

// keepShard keeps the shard's activity running, under an epoch that rises each time
// that it begins.
func keepShard(ctx workflow.Context, s state) error {
	yields := workflow.GetSignalChannel(ctx, yieldSignal)
	turns := s.Turns
	if turns == 0 {
		turns = 500
	}
	to := ""
	for range turns {
		s.Epoch = fleet.NextEpoch(s.Epoch, workflow.Now(ctx))
		o := workflow.ActivityOptions{TaskQueue: s.Queue, StartToCloseTimeout: forever, HeartbeatTimeout: s.Heartbeat,
			WaitForCancellation: true, RetryPolicy: &sdk.RetryPolicy{MaximumAttempts: 1}}
		if to != "" {
			// Who asked may have died: then it is anybody's.
			o.TaskQueue, o.ScheduleToStartTimeout = to, s.Heartbeat/2
		}
		to = ""
		keeping, cancel := workflow.WithCancel(workflow.WithActivityOptions(ctx, o))
		done := workflow.ExecuteActivity(keeping, activityName, keepInput{s.Shard, s.Epoch})
		for !done.IsReady() {
			workflow.NewSelector(ctx).AddFuture(done, func(workflow.Future) {}).
				AddReceive(yields, func(c workflow.ReceiveChannel, _ bool) {
					var y yielding
					c.Receive(ctx, &y)
					to = y.To
					cancel()
				}).Select(ctx)
		}
		err := done.Get(ctx, nil)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err() // retired
		}
		var timeout *sdk.TimeoutError
		if err != nil && !errors.As(err, &timeout) && !sdk.IsCanceledError(err) {
			// The worker could not: not again at once.
			if err := workflow.Sleep(ctx, max(time.Second, s.Heartbeat/6)); err != nil {
				return err
			}
		}
	}
	for y := (yielding{}); yields.ReceiveAsync(&y); { // asks again if it still wants
	}
	return workflow.NewContinueAsNewError(ctx, workflowName, s)
}

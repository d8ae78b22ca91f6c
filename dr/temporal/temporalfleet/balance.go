package temporalfleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// balance looks now and then whether this worker has less than its share, until ctx
// ends or a worker breaks.
func (w *Worker) balance(ctx context.Context, broken <-chan error) error {
	tick := time.NewTicker(w.o.Balance)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return fmt.Errorf("temporal fleet: %w", err)
		case <-tick.C:
		}
		if err := w.ask(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "shards are not balanced", "error", err)
		}
	}
}

// ask asks those who have most for what this worker lacks. Only who lives asks: so
// shards go to nobody who is dead.
func (w *Worker) ask(ctx context.Context) error {
	for _, a := range w.areas() {
		all, err := statuses(ctx, w.c, w.o, a.All())
		if err != nil {
			return err
		}
		by := map[string][]fleet.Shard{w.id: nil}
		for _, s := range all {
			if s.Member != "" {
				by[s.Member] = append(by[s.Member], s.Shard)
			}
		}
		fair := a.Shards / len(by)
		for range min(w.o.Moves, fair-len(by[w.id])) {
			most := ""
			for m := range by {
				if m != w.id && (most == "" || cmp.Or(cmp.Compare(len(by[m]), len(by[most])), cmp.Compare(m, most)) > 0) {
					most = m
				}
			}
			if most == "" || len(by[most]) <= fair {
				break
			}
			last := len(by[most]) - 1
			s := by[most][last]
			by[most] = by[most][:last]
			w.log.InfoContext(ctx, "a shard is asked for", "shard", s, "from", most)
			if err := w.c.SignalWorkflow(ctx, w.o.workflowID(s), "", yieldSignal, yielding{w.o.own(w.id)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Shards tells of every shard of the layout who keeps it and what its heartbeat
// told last, in the layout's order. Of the options Queue, Layout and Converter count. It costs
// a call a shard.
func Shards(ctx context.Context, c client.Client, o Options) ([]fleet.ShardStatus, error) {
	return statuses(ctx, c, o, o.Layout.All())
}

func statuses(ctx context.Context, c client.Client, o Options, shards []fleet.Shard) ([]fleet.ShardStatus, error) {
	all := make([]fleet.ShardStatus, 0, len(shards))
	conv := o.Converter
	if conv == nil {
		conv = converter.GetDefaultDataConverter()
	}
	for _, s := range shards {
		st := fleet.ShardStatus{Shard: s}
		d, err := c.DescribeWorkflowExecution(ctx, o.workflowID(s), "")
		if over(err) {
			all = append(all, st) // no worker has begun it yet
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("temporal fleet: shard %s: %w", s, err)
		}
		for _, a := range d.GetPendingActivities() {
			if a.GetState() == enums.PENDING_ACTIVITY_STATE_SCHEDULED {
				continue
			}
			st.Member = a.GetLastWorkerIdentity()
			var b beat
			if p := a.GetHeartbeatDetails().GetPayloads(); len(p) > 0 && conv.FromPayload(p[0], &b) == nil {
				st.Name, st.Epoch, st.Since, st.Told = b.Worker, b.Epoch, b.Since, b.Told
			}
		}
		all = append(all, st)
	}
	return all, nil
}

// Retire ends all shards of a layout, and returns when nobody keeps any: before
// workers of another layout begin. Of the options Queue and Layout count. Workers
// of the layout must not run any more, or they begin its shards anew.
func Retire(ctx context.Context, c client.Client, o Options) error {
	d := driver(c, o, "retire", nil) // somebody must, and the workers have ended
	if err := d.Start(); err != nil {
		return fmt.Errorf("temporal fleet: %w", err)
	}
	defer d.Stop()
	shards := o.Layout.All()
	for _, s := range shards {
		if err := c.CancelWorkflow(ctx, o.workflowID(s), ""); err != nil && !over(err) {
			return fmt.Errorf("temporal fleet: shard %s: %w", s, err)
		}
	}
	for len(shards) > 0 {
		d, err := c.DescribeWorkflowExecution(ctx, o.workflowID(shards[0]), "")
		if over(err) || err == nil && d.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
			shards = slices.Delete(shards, 0, 1)
			continue
		}
		if err != nil {
			return fmt.Errorf("temporal fleet: shard %s: %w", shards[0], err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
	return nil
}

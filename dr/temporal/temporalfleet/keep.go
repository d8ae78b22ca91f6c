package temporalfleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	sdk "go.temporal.io/sdk/temporal"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// beat is what heartbeats tell.
type beat struct {
	Worker string        `json:"worker"` // its name
	Epoch  uint64        `json:"epoch"`
	Since  time.Time     `json:"since"`
	Told   fleet.Summary `json:"told"`
}

// errOver ends a hold.
var errOver = fmt.Errorf("%w: Temporal doesn't know of this holding any more", dr.ErrFenced)

// keep is the activity: it keeps the shard until it is cancelled, the worker ends,
// or Temporal isn't heard of.
func (w *Worker) keep(ctx context.Context, in keepInput) error {
	info := activity.GetInfo(ctx)
	limit := info.HeartbeatTimeout
	// How long ago Temporal gave this to the worker isn't known by this clock: only
	// what it says now counts.
	began := time.Now()
	if err := w.tell(ctx, info.TaskToken, limit/3, beat{w.o.Name, in.Epoch, began, fleet.Summary{}}); err != nil {
		return err
	}
	h, err := w.keeper.Keep(in.Shard, in.Epoch)
	if err != nil {
		return err
	}
	h.Until(began.Add(limit - margin(limit)))
	log := w.log.With("shard", in.Shard, "epoch", in.Epoch)
	log.InfoContext(ctx, "shard taken")
	finished := make(chan error, 1)
	giving := false
	finish := func() {
		if giving {
			return
		}
		giving = true
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.o.Finish)
			defer cancel()
			finished <- h.Finish(ctx, margin(limit))
		}()
	}
	stopping, ended := activity.GetWorkerStopChannel(ctx), h.Ended()
	tick := time.NewTicker(limit / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			sent := time.Now()
			err := w.tell(ctx, info.TaskToken, limit/6, beat{w.o.Name, in.Epoch, began, w.keeper.Summaries()[in.Shard]})
			switch {
			case over(err):
				h.Stop(errOver)
			case canceled(err):
				h.Until(sent.Add(limit - margin(limit)))
				finish()
			case err == nil:
				h.Until(sent.Add(limit - margin(limit)))
			}
		case <-stopping:
			stopping = nil
			finish()
		case <-ended: // lost, or finished
			ended = nil
			finish()
		case err := <-finished:
			if cause := h.Cause(); errors.Is(cause, dr.ErrFenced) {
				log.WarnContext(ctx, "shard lost", "error", errors.Join(cause, err))
				return cause
			}
			log.InfoContext(ctx, "shard given", "error", err)
			return nil
		}
	}
}

// tell sends one heartbeat, by the client: the SDK's own hide whether they were
// heard.
func (w *Worker) tell(ctx context.Context, token []byte, wait time.Duration, b beat) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	return w.c.RecordActivityHeartbeat(ctx, token, b)
}

func canceled(err error) bool {
	var c *sdk.CanceledError
	return errors.As(err, &c)
}

// over reports whether Temporal says that the activity isn't this worker's any
// more.
func over(err error) bool {
	var nf *serviceerror.NotFound
	return errors.As(err, &nf)
}

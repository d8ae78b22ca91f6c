package temporal

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdk "go.temporal.io/sdk/temporal"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// heart tells Temporal that the worker of an attempt lives, and how far it has
// come, and stops the attempt when Temporal says so, or can't be reached for so
// long that it may give the attempt to another.
type heart struct {
	c             client.Client
	token         []byte
	step          string
	workflow, run string
	limit         time.Duration // of silence
	every         time.Duration // beats come at least so often
	halt          context.CancelCauseFunc

	mu       sync.Mutex
	now      beat
	fresh    chan struct{} // there is progress to be told
	lost     *time.Timer   // halts the attempt when none has been heard for too long
	quit     context.CancelFunc
	finished chan struct{}
}

// beat is what heartbeats tell.
type beat struct {
	Step     string        `json:"step"`
	Progress []dr.Progress `json:"progress,omitempty"`
}

// maxDisks is of how many disks a heartbeat tells.
const maxDisks = 200

// newHeart begins to beat, every so often; 0: as the limit demands.
func newHeart(c client.Client, i activity.Info, step string, every time.Duration, halt context.CancelCauseFunc) *heart {
	h := &heart{c: c, token: i.TaskToken, step: step, workflow: i.WorkflowExecution.ID, run: i.WorkflowExecution.RunID, limit: i.HeartbeatTimeout,
		halt: halt, now: beat{Step: step}, fresh: make(chan struct{}, 1), finished: make(chan struct{})}
	if h.every = min(h.limit/4, slowest); every > h.every {
		h.every = min(every, h.limit/4)
	}
	h.lost = time.AfterFunc(h.allowed(), func() { halt(errLost) })
	var ctx context.Context
	ctx, h.quit = context.WithCancel(context.Background())
	go h.loop(ctx)
	return h
}

// allowed is how long none may be heard: a little less than Temporal allows,
// whose own count began later.
func (h *heart) allowed() time.Duration { return h.limit * 3 / 4 }

// stop ends the heart.
func (h *heart) stop() {
	h.quit()
	<-h.finished
	h.lost.Stop()
}

// beat keeps the latest progress of each disk, to be told with the next beat.
func (h *heart) beat(p dr.Progress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.now.Progress)
	if i := slices.IndexFunc(all, func(o dr.Progress) bool { return o.Disk == p.Disk }); i >= 0 {
		all[i] = p
	} else if len(all) < maxDisks {
		all = append(all, p)
	}
	h.now.Progress = all
	select {
	case h.fresh <- struct{}{}:
	default:
	}
}

// Heartbeats come four times within the limit, so that one may be lost, and at
// least every five seconds, so that a cancelled action stops soon; less often
// where the run has many hearts (see crowd). Progress is told no more often
// than each half second.
const (
	slowest = 5 * time.Second
	quick   = 500 * time.Millisecond
)

func (h *heart) loop(ctx context.Context) {
	defer close(h.finished)
	wait := h.every
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-h.fresh:
			t.Stop()
			if !pause(ctx, min(h.every, max(quick, h.every/10))) {
				return
			}
		}
		heard, over := h.tell(ctx)
		if over {
			return
		}
		if wait = h.every; !heard {
			wait /= 2 // it was lost, and another may come through in time
		}
	}
}

// tell beats once. over: so is the attempt, whatever its action does.
func (h *heart) tell(ctx context.Context) (heard, over bool) {
	sent := time.Now()
	err := h.send(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return false, true
	case canceled(err):
		h.halt(errCancelled) // and goes on beating: the action takes its time to stop
	case isOver(err):
		h.halt(errGone)
		return false, true
	default:
		return false, false
	}
	h.lost.Reset(h.allowed() - time.Since(sent))
	return true, false
}

func (h *heart) send(ctx context.Context) error {
	h.mu.Lock()
	b := h.now
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, max(h.limit/4, 100*time.Millisecond))
	defer cancel()
	return h.c.RecordActivityHeartbeat(ctx, h.token, b)
}

// confirm asks Temporal whether the attempt is still this worker's, and wanted.
func (h *heart) confirm(ctx context.Context) error {
	return insist(ctx, func() error { return h.c.RecordActivityHeartbeat(ctx, h.token, beat{Step: h.step}) })
}

func canceled(err error) bool {
	var c *sdk.CanceledError
	return errors.As(err, &c)
}

// isOver reports whether Temporal says that the attempt, or its run, isn't open
// any more.
func isOver(err error) bool {
	var ns *serviceerror.NamespaceNotFound
	return gone(err) || errors.As(err, &ns)
}

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
	workflow, run string
	limit         time.Duration // of silence
	every         time.Duration // beats come at least so often
	pace          time.Duration // progress is told no more often
	halt          context.CancelCauseFunc

	sending  sync.Mutex // one beat after the other
	doubtful bool       // one was sent that Temporal may take in later

	mu       sync.Mutex
	now      beat
	fresh    chan struct{} // there is progress to be told
	lost     *time.Timer   // halts the attempt when none has been heard for too long
	quit     context.CancelFunc
	finished chan struct{}
}

// beat is what heartbeats tell.
type beat struct {
	Step string `json:"step"`
	// Begun says that the action is called, if it isn't yet, unless Temporal
	// answers that the attempt is not wanted any more. It is about this offer.
	Begun    bool          `json:"begun,omitempty"`
	Offer    int           `json:"offer,omitempty"`
	Attempt  int           `json:"attempt,omitempty"`
	Progress []dr.Progress `json:"progress,omitempty"`
}

// maxDisks is of how many disks a heartbeat tells.
const maxDisks = 200

// newHeart begins to beat, as often as the offer says, or its limit demands.
func newHeart(c client.Client, i activity.Info, o offer, halt context.CancelCauseFunc) *heart {
	h := &heart{c: c, token: i.TaskToken, workflow: i.WorkflowExecution.ID, run: i.WorkflowExecution.RunID, limit: i.HeartbeatTimeout,
		halt: halt, now: beat{Step: o.Step.ID, Offer: o.Seq, Attempt: o.Call.Attempt}, fresh: make(chan struct{}, 1), finished: make(chan struct{})}
	if h.every = min(h.limit/4, slowest); o.Every > h.every {
		h.every = min(o.Every, h.limit/4)
	}
	h.pace = min(h.every, max(quick, h.every/10, o.Every))
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
// than each half second, and likewise.
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
			if !pause(ctx, h.pace) {
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
	h.sending.Lock()
	defer h.sending.Unlock()
	ctx, cancel := context.WithTimeout(ctx, max(h.limit/4, 100*time.Millisecond))
	defer cancel()
	err := h.c.RecordActivityHeartbeat(ctx, h.token, h.told())
	h.doubtful = h.doubtful || err != nil
	return err
}

func (h *heart) told() beat {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// confirm asks Temporal whether the attempt is still this worker's, and wanted.
// All beats from now on say that it has begun.
func (h *heart) confirm(ctx context.Context) error {
	h.sending.Lock()
	defer h.sending.Unlock()
	return h.confirmed(ctx)
}

func (h *heart) confirmed(ctx context.Context) error {
	h.mu.Lock()
	h.now.Begun = true
	h.mu.Unlock()
	return insist(ctx, func() error { return h.c.RecordActivityHeartbeat(ctx, h.token, h.told()) })
}

// quietly is confirm for an attempt whose beginning is told by that alone. It
// reports false, and has asked nothing, if it can't be: of a beat that had no
// answer Temporal may hear later than of this one, and forget that it has begun.
func (h *heart) quietly(ctx context.Context) (bool, error) {
	h.sending.Lock()
	defer h.sending.Unlock()
	if h.doubtful {
		return false, nil
	}
	return true, h.confirmed(ctx)
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

package temporal

import (
	"encoding/json"
	"hash/fnv"
	"slices"
	"time"

	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// maxOffers is how many activities of one run are open at once. Temporal's
// server refuses more than 2,000.
const maxOffers = 1500

// maxCarried is how many bytes of results an offer carries; what is over that
// is asked for by query.
const maxCarried = 512 << 10

// crowd is what each attempt under way adds to the time between two heartbeats
// of the next one. Every heartbeat changes the one workflow, which the server
// does one after the other, at some milliseconds each: a thousand steps that
// beat each five seconds are more than it takes, and would all be taken for
// lost. So they cause about a hundred a second at most.
const crowd = 30 * time.Millisecond

// key tells tasks in hand apart.
type key struct {
	kind dr.TaskKind
	step string
}

// hand is a task that is in hand.
type hand struct {
	k      key
	task   dr.Task
	cancel workflow.CancelFunc
	idle   bool // a timer, which can be let go of at once

	since time.Time // when it was first offered, if it is an offer or about one

	// Of offers:
	offer     int  // its number, from 1
	quiet     bool // a worker needn't say so with a signal
	signalled bool // a worker has taken it up
	took      time.Duration
	begun     bool // and the fold knows
	withdrawn bool // it was to be given back
	stopped   bool // the fold has it stopped
	halted    bool // the run is continued as new: it is to be begun again
	done      bool
}

func (x *interp) hand(k key) *hand { return x.byKey[k] }

func (x *interp) offered(seq int) *hand {
	for _, h := range x.hands {
		if h.offer == seq {
			return h
		}
	}
	return nil
}

// take has a task in hand that isn't.
func (x *interp) take(h *hand) {
	x.hands = append(x.hands, h)
	x.byKey[h.k] = h
}

func (x *interp) drop(h *hand) {
	x.hands = slices.DeleteFunc(x.hands, func(o *hand) bool { return o == h })
	if x.byKey[h.k] == h {
		delete(x.byKey, h.k)
	}
}

// next lets go of what the fold doesn't want any more and begins what it does.
func (x *interp) next() {
	for again := true; again; {
		tasks := x.fold.Next()
		x.letGo(tasks)
		again = false
		for _, t := range tasks {
			if again = x.task(t); again {
				break
			}
		}
	}
}

func (x *interp) letGo(tasks []dr.Task) {
	want := make(map[key]bool, len(tasks))
	for _, t := range tasks {
		want[key{t.Kind, t.Step.ID}] = true
	}
	for _, h := range slices.Clone(x.hands) {
		if want[h.k] {
			continue
		}
		h.cancel()
		if h.idle {
			x.drop(h)
		}
	}
}

// task has one task in hand. It reports true if what is wanted has changed by
// that.
func (x *interp) task(t dr.Task) bool {
	k := key{t.Kind, t.Step.ID}
	if h := x.hand(k); h != nil {
		if t.Stop && h.begun && !h.stopped {
			h.stopped = true
			h.cancel()
		}
		return false
	}
	switch t.Kind {
	case dr.TaskClaim:
		return x.claim(k)
	case dr.TaskRelease:
		if len(x.hands) == 0 { // a claim may still be under way
			return x.release(k)
		}
	case dr.TaskGate:
		return x.gate(k, t)
	case dr.TaskDo, dr.TaskUndo:
		return x.attempt(k, t)
	}
	return false
}

func (x *interp) gate(k key, t dr.Task) bool {
	if t.Opened.IsZero() {
		x.apply(dr.Event{Kind: dr.EventOpened, At: x.now(), Step: t.Step.ID})
		return true
	}
	if t.Deadline.IsZero() {
		return false
	}
	x.timer(k, t, t.Deadline.Sub(x.now()), func() {
		_ = x.change(func() (*dr.Event, error) {
			for _, t := range x.fold.Next() { // settling may have let an answer come first
				if t.Kind == dr.TaskGate && t.Step.ID == k.step && !t.Opened.IsZero() {
					return &dr.Event{Kind: dr.EventExpired, At: x.now(), Step: k.step}, nil
				}
			}
			return nil, nil
		})
	})
	return false
}

// timer has the task in hand until the time is over, and then does what is due.
func (x *interp) timer(k key, t dr.Task, d time.Duration, due func()) {
	ctx, cancel := workflow.WithCancel(x.ctx)
	h := &hand{k: k, task: t, cancel: cancel, idle: true}
	x.take(h)
	f := workflow.NewTimer(ctx, max(d, time.Millisecond))
	workflow.Go(x.ctx, func(g workflow.Context) {
		if f.Get(g, nil) != nil {
			return
		}
		x.post(func() {
			if x.hand(k) != h {
				return
			}
			x.drop(h)
			due()
		})
	})
}

// attempt offers an attempt to the workers of its queue, when its time has
// come.
func (x *interp) attempt(k key, t dr.Task) bool {
	if e := t.Begin(x.now()); e.Kind == dr.EventFailed { // it took too many workers with it
		_ = x.change(func() (*dr.Event, error) { return &e, nil })
		return true
	}
	if !x.ready[k] {
		if d := max(x.backoff(k, t.Attempt, t.Failed), x.backoff(k, t.Attempt, x.misses[k])); d > 0 {
			x.timer(k, t, d, func() { x.ready[k] = true })
			return false
		}
	}
	if len(x.hands) >= maxOffers || x.length() >= draining {
		return false
	}
	delete(x.ready, k)
	x.offer(k, t)
	return false
}

// backoff is how long to wait before the next attempt after so many failures.
func (x *interp) backoff(k key, attempt, failed int) time.Duration {
	if failed <= 0 {
		return 0
	}
	d := x.in.Settings.BackoffFirst
	for ; failed > 1 && d < x.in.Settings.BackoffMost; failed-- {
		d *= 2
	}
	d = min(d, x.in.Settings.BackoffMost)
	h := fnv.New32a()
	_, _ = h.Write([]byte(string(x.in.Run) + "/" + k.step + "/" + time.Duration(attempt).String()))
	return d - time.Duration(int64(d/2)*int64(h.Sum32()%1024)/1024)
}

// offer schedules the activity. It is begun, for the fold, when a worker says
// that it has taken it up.
func (x *interp) offer(k key, t dr.Task) {
	e := t.Begin(x.now())
	x.offers++
	set := x.in.Settings
	every := time.Duration(len(x.hands)) * crowd
	ctx, cancel := workflow.WithCancel(workflow.WithActivityOptions(x.ctx, workflow.ActivityOptions{
		TaskQueue:           taskQueue(set.Queue, t.Step.Queue, t.Step.Waits),
		StartToCloseTimeout: longest,
		HeartbeatTimeout:    max(set.Heartbeat, 4*every),
		WaitForCancellation: true,
		RetryPolicy:         &sdk.RetryPolicy{MaximumAttempts: 1}, // the fold counts
		// Temporal doesn't start it later than that, so no worker has begun it.
		ScheduleToStartTimeout: t.Step.Patience,
		Summary:                summary(t, e.Attempt),
	}))
	h := &hand{k: k, task: t, cancel: cancel, offer: x.offers, quiet: x.alone(t), since: x.now()}
	if b, ok := x.busy[k]; ok {
		h.since = b.since
	}
	x.take(h)
	o := offerOf(x.fold.Call(t, e.Attempt), t, x.offers)
	o.Quiet = h.quiet
	if 4*every > set.Heartbeat || every > quick {
		o.Every = every
	}
	f := workflow.ExecuteActivity(ctx, stepName, o)
	workflow.Go(x.ctx, func(g workflow.Context) {
		var out outcome
		err := f.Get(g, &out)
		h.done = true
		if h.quiet && takenUp(h.offer, out, err) {
			h.signalled, h.took = true, out.Took
		}
		x.post(func() { x.ended(h, out, err) })
	})
}

// longest is how long an attempt may take, for Temporal: whether its worker
// lives is seen by its heartbeats, and its own limits are the worker's to keep.
const longest = 10 * 365 * 24 * time.Hour

func summary(t dr.Task, attempt int) string {
	s := t.Step.ID
	if t.Kind == dr.TaskUndo {
		s = "undo " + s
	}
	if attempt > 1 {
		s += ", attempt " + itoa(attempt)
	}
	return s
}

func offerOf(c *dr.Call, t dr.Task, seq int) offer {
	o := offer{Seq: seq, Kind: t.Kind, Suspect: t.Suspect(),
		Step: dr.Step{ID: t.Step.ID, Action: t.Step.Action, Undo: t.Step.Undo, Input: c.Input, Waits: t.Step.Waits, Timeout: t.Step.Timeout, Silence: t.Step.Silence},
		Call: call{Run: c.Run, Step: c.Step, Key: c.Key, Undo: c.Undo, Attempt: c.Attempt, Epochs: c.Epochs, Left: c.Left,
			Results: map[string]json.RawMessage{}}}
	carried := len(c.Input)
	for _, id := range sorted(c.Results) {
		if carried += len(c.Results[id]); carried > maxCarried {
			o.Fetch = append(o.Fetch, id)
			carried -= len(c.Results[id])
			continue
		}
		o.Call.Results[id] = c.Results[id]
	}
	return o
}

// begun records that an offer was taken up.
func (x *interp) begun(h *hand) {
	if h.begun {
		return
	}
	h.begun = true
	delete(x.misses, h.k)
	delete(x.busy, h.k)
	at := x.now()
	if t := at.Add(-h.took); t.After(h.since) {
		at = t
	}
	x.apply(h.task.Begin(at))
}

// ended takes in how an offer ended.
func (x *interp) ended(h *hand, out outcome, err error) {
	if h.signalled {
		x.begun(h)
	}
	x.drop(h)
	switch {
	case !h.begun && untaken(err) && !h.withdrawn:
		x.unheard(h)
		return
	case !h.begun && out.Kind == outcomeDeclined && !h.withdrawn && x.unable(h):
		return
	case !h.begun:
		// Nothing has happened. Where the worker was lost or refused it, it is
		// offered again, later each time.
		if !h.withdrawn {
			x.misses[h.k]++
		}
		return
	case err != nil:
		return // lost: the fold has it begun again
	}
	e := dr.Event{At: x.now(), Step: h.k.step, Undo: h.k.kind == dr.TaskUndo, Attempt: h.attempt(), Err: out.Err}
	switch out.Kind {
	case outcomeDone:
		e.Kind, e.Data = dr.EventDone, out.Data
	case outcomeFailed:
		e.Kind, e.Final = dr.EventFailed, out.Final
		if (h.withdrawn || h.halted) && !h.stopped && !out.Final {
			e.Kind = dr.EventStopped // it failed because it was to be given back
		}
	case outcomeStopped:
		e.Kind = dr.EventStopped
	default:
		return // no worker of ours said that
	}
	_ = x.change(func() (*dr.Event, error) { return &e, nil })
}

// attempt is the number under which the fold has it.
func (h *hand) attempt() int {
	if h.task.Open {
		return h.task.Attempt + 1
	}
	return h.task.Attempt
}

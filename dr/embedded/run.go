package embedded

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// run is an open run. What happens to it is put into its inbox; a goroutine
// that lives only while there is something in it takes all that has come,
// lets the fold decide, writes everything at once, and then lets it be seen
// and begins what follows. fold, seq and hand belong to that goroutine.
type run struct {
	e    *Engine
	id   dr.RunID
	n    int64 // its row
	fold *dr.Run
	seq  int64 // of the last event
	hand map[key]*hand
	// granted are tasks that have waited for their turn and hold a slot, with
	// what gives it back.
	granted map[key]func()

	mu     sync.Mutex
	inbox  []message
	active bool

	view     sync.Mutex
	seen     *dr.Run // what is durable
	gone     bool    // it was taken back: there is no such run
	progress map[string][]dr.Progress
	trouble  string        // why it can't claim, or give back, at present
	changed  chan struct{} // closed at the next change; nil while nobody watches
}

// message is something that happened: event looks at the fold and returns
// what is to be recorded, if anything.
type message struct {
	event func() (*dr.Event, error)
	reply chan error // may be nil
}

// key tells tasks in hand apart.
type key struct {
	kind dr.TaskKind
	step string
}

// hand is a task that is in hand.
type hand struct {
	stop func(cause error)
	// idle: it only waits, for its turn or for a time, and can be let go of
	// at once.
	idle bool
	// outside: Start has it in hand, not Serve.
	outside bool
	lapsed  bool // nobody has taken it up in time
}

func newRun(e *Engine, id dr.RunID, n int64, p dr.Plan) *run {
	return &run{e: e, id: id, n: n, fold: dr.NewRun(id, p), seen: dr.NewRun(id, p),
		hand: map[key]*hand{}, granted: map[key]func(){}}
}

// restore applies an event that is durable already. It is called before the
// run is shared.
func (r *run) restore(ev dr.Event) error {
	r.seq++
	if err := r.fold.Apply(ev); err != nil {
		return err
	}
	return r.seen.Apply(ev)
}

// post puts something into the inbox.
func (r *run) post(m message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inbox = append(r.inbox, m)
	if !r.active {
		r.active = true
		go r.loop()
	}
}

// tell posts and waits until what follows is durable and begun.
func (r *run) tell(event func() (*dr.Event, error)) error {
	reply := make(chan error, 1)
	r.post(message{event, reply})
	return <-reply
}

// poke lets the run look again at what is to be begun.
func (r *run) poke() { r.post(message{event: func() (*dr.Event, error) { return nil, nil }}) }

func (r *run) loop() {
	for {
		r.mu.Lock()
		batch := r.inbox
		r.inbox = nil
		if len(batch) == 0 {
			r.active = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		errs := r.turn(batch)
		for i, m := range batch {
			if m.reply != nil {
				m.reply <- errs[i]
			}
		}
	}
}

func (r *run) turn(batch []message) []error {
	errs := make([]error, len(batch))
	fail := func(err error) []error {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
		return errs
	}
	var t turn
	for i, m := range batch {
		if err := r.e.dead(); err != nil {
			return fail(err)
		}
		if r.gone {
			return fail(notFound(r.id))
		}
		ev, err := m.event()
		if err == nil && ev != nil {
			err = r.add(&t, *ev)
		}
		errs[i] = err
	}
	if r.gone {
		return errs
	}
	if err := r.plan(&t); err != nil {
		t.abandon()
		return fail(err)
	}
	if len(t.events) > 0 {
		if err := r.journal(t.events); err != nil {
			t.abandon()
			return fail(err)
		}
		r.publish(t.events)
	}
	for _, s := range t.starts {
		go s.run()
	}
	return errs
}

// turn is what one go of the loop comes to.
type turn struct {
	events []dr.Event
	starts []start
}

// start is a goroutine to be begun when the events are durable. A place in
// serving is taken for it already.
type start struct {
	run     func()
	abandon func()
}

func (t *turn) abandon() {
	for _, s := range t.starts {
		s.abandon()
	}
}

// add records an event with the fold. The fold's refusal would mean that the
// engine is wrong, and going on could only make it worse.
func (r *run) add(t *turn, ev dr.Event) error {
	if err := r.fold.Apply(ev); err != nil {
		r.e.fail(err)
		return r.e.dead()
	}
	t.events = append(t.events, ev)
	return nil
}

// journal makes the events durable. The run's end gives its claims back in
// the same transaction.
func (r *run) journal(events []dr.Event) error {
	bodies := make([][]byte, len(events))
	for i, ev := range events {
		b, err := json.Marshal(ev)
		if err != nil { // the fold has it already: only the journal can say what is true
			r.e.fail(err)
			return fmt.Errorf("run %s: event %q: %w", r.id, ev.Kind, err)
		}
		bodies[i] = b
	}
	first := r.seq + 1
	err := r.e.w.write(&change{
		do: func(w *writer) error {
			for i, b := range bodies {
				if err := w.exec(`INSERT INTO event VALUES(?, ?, ?)`, r.n, first+int64(i), b); err != nil {
					return err
				}
				if r.e.o.Claims != nil && events[i].Kind == dr.EventClaimed {
					if err := w.remember(events[i].Epochs); err != nil {
						return err
					}
				}
			}
			if !r.fold.Ended() {
				return nil
			}
			if r.e.o.Claims == nil {
				for _, l := range r.fold.Plan().Locks {
					if err := w.release(l, string(r.id)); err != nil {
						return err
					}
				}
			}
			return w.exec(`UPDATE run SET ended = ? WHERE n = ?`, events[len(events)-1].At.UnixNano(), r.n)
		},
		what: func() []string { return whatEvents(r.id, events) },
	})
	if err == nil {
		r.seq += int64(len(events))
	}
	return err
}

func whatEvents(id dr.RunID, events []dr.Event) []string {
	what := make([]string, len(events))
	for i, ev := range events {
		what[i] = fmt.Sprintf("run %s: %s", id, ev.Kind)
		if ev.Undo {
			what[i] += " undo"
		}
		if ev.Step != "" {
			what[i] += fmt.Sprintf(" %q", ev.Step)
		}
	}
	return what
}

// publish lets everybody see what is durable now.
func (r *run) publish(events []dr.Event) {
	r.view.Lock()
	for _, ev := range events {
		if err := r.seen.Apply(ev); err != nil { // the other fold took it
			r.e.fail(err)
		}
	}
	ended := r.seen.Ended()
	r.wake()
	r.view.Unlock()
	for _, ev := range events {
		r.e.log.Debug("run event", "run", r.id, "kind", ev.Kind, "step", ev.Step, "undo", ev.Undo, "attempt", ev.Attempt, "err", ev.Err)
	}
	if ended {
		r.e.mu.Lock()
		delete(r.e.live, r.id)
		r.e.mu.Unlock()
		r.e.log.Info("run ended", "run", r.id, "flow", r.seen.Plan().Flow, "state", r.seen.Status().State)
	}
}

// wake tells those who watch. The caller holds r.view.
func (r *run) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// forget takes the run back: whoever has found it learns that there is none.
// Only the loop, which alone writes gone, may call it.
func (r *run) forget() {
	r.view.Lock()
	defer r.view.Unlock()
	r.gone = true
	r.wake()
}

func notFound(id dr.RunID) error { return fmt.Errorf("run %s: %w", id, dr.ErrNotFound) }

// status is the run as it stands, and a channel that is closed when it has
// changed; nil if that can't happen any more or isn't asked for.
func (r *run) status(watch bool) (dr.Status, <-chan struct{}, error) {
	r.view.Lock()
	defer r.view.Unlock()
	if r.gone {
		return dr.Status{}, nil, notFound(r.id)
	}
	s := r.seen.Status()
	for i := range s.Steps {
		if p := r.progress[s.Steps[i].ID]; len(p) > 0 {
			s.Steps[i].Progress = append([]dr.Progress(nil), p...)
		}
	}
	if r.trouble != "" && !r.seen.Ended() {
		s.Reason = strings.TrimPrefix(s.Reason+"; "+r.trouble, "; ")
	}
	if !watch || r.seen.Ended() {
		return s, nil, nil
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return s, r.changed, nil
}

// beat keeps the latest progress of each disk.
func (r *run) beat(step string, p dr.Progress) {
	r.view.Lock()
	defer r.view.Unlock()
	if r.progress == nil {
		r.progress = map[string][]dr.Progress{}
	}
	all := r.progress[step]
	for i := range all {
		if all[i].Disk == p.Disk {
			all[i] = p
			r.wake()
			return
		}
	}
	r.progress[step] = append(all, p)
	r.wake()
}

// troubled lets everybody see what the run's claims wait for; "": nothing any
// more.
func (r *run) troubled(by string) {
	r.view.Lock()
	defer r.view.Unlock()
	if r.trouble != by {
		r.trouble = by
		r.wake()
	}
}

// until is how long a deadline is off, from the wall clock: deadlines are of
// times before a restart.
func until(t time.Time) time.Duration { return max(0, time.Until(t)) }

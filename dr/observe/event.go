package observe

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Kind says what happened. Kinds may be added.
type Kind string

// Kinds of events.
const (
	RunStarted   Kind = "run-started"   // Start succeeded: Flow, By
	RunRefused   Kind = "run-refused"   // Start failed: Flow, By, Err
	Decided      Kind = "decided"       // a gate or stuck step was answered: Step, Verdict, By, Text; Err if that was refused
	CancelAsked  Kind = "cancel-asked"  // By, Text; Err if it was refused
	AttemptBegun Kind = "attempt-begun" // Step, Action, Attempt, Undo
	AttemptEnded Kind = "attempt-ended" // likewise, with Took
	// AttemptFailed comes with Err; AttemptStopped too, but it was the context
	// that ended: the run is being cancelled, or the process.
	AttemptFailed  Kind = "attempt-failed"
	AttemptStopped Kind = "attempt-stopped"

	// What Runs sees: the run has come to another state. Flow, Text, Took
	// since its start for those that have ended.
	RunRunning   Kind = "run-running"
	RunWaiting   Kind = "run-waiting"
	RunUndoing   Kind = "run-undoing"
	RunStuck     Kind = "run-stuck"
	RunDone      Kind = "run-done"
	RunFailed    Kind = "run-failed"
	RunCancelled Kind = "run-cancelled"

	// What who runs replication cycles tells: Protection, and at the end Took
	// and Err; RPO is the age of the newest point.
	CycleBegun   Kind = "cycle-begun"
	CycleEnded   Kind = "cycle-ended"
	CycleFailed  Kind = "cycle-failed"
	RPOExceeded  Kind = "rpo-exceeded"
	RPORecovered Kind = "rpo-recovered"
)

// Event is something that happened. Fields that don't apply are empty.
type Event struct {
	At   time.Time
	Kind Kind
	Run  dr.RunID
	Flow string
	// Protection is the one that it is about, if it is one alone.
	Protection dr.ProtectionID
	Step       string
	Action     string
	Undo       bool
	Attempt    int
	Took       time.Duration
	RPO        time.Duration
	By         string // who asked
	Verdict    dr.Verdict
	Text       string // why, or what is waited for
	Err        error
}

// Observer is told events, from several goroutines at once. It should return
// soon: what it observes waits for it. It must not panic.
type Observer func(context.Context, Event)

// Join tells each of several observers, in order; nil ones are left out.
func Join(all ...Observer) Observer {
	return func(ctx context.Context, e Event) {
		for _, see := range all {
			if see != nil {
				see(ctx, e)
			}
		}
	}
}

type actorKey struct{}

// By returns a context that says who asks, for Start and Cancel, which have no
// other way to say it: put the authenticated name in where a request comes in.
func By(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, actorKey{}, who)
}

// Actor returns who asks, as [By] has said it, or "".
func Actor(ctx context.Context) string {
	who, _ := ctx.Value(actorKey{}).(string)
	return who
}

// only returns the protection that locks are of, if it is one alone.
func only(locks iter.Seq[string]) (one dr.ProtectionID) {
	n := 0
	for lock := range locks {
		if id, ok := strings.CutPrefix(lock, dr.ProtectionID("").Lock()); ok {
			one = dr.ProtectionID(id)
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return one
}

package dr

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ProtectionID names a protection; see [ProtectionID.Validate].
type ProtectionID string

// Place is a machine at a site.
type Place struct {
	Site    string    `json:"site"`
	Machine MachineID `json:"machine,omitempty"` // "" until there is one
	// Key is the one that the backend was given when it made the machine; ""
	// for a machine that was there before. Only what has a key may be removed.
	Key string `json:"key,omitempty"`
}

// Protection is the durable record of one protected machine. Both directions
// use the same record: after a failover Active and Standby have changed
// places, and everything that follows is the same code.
type Protection struct {
	ID   ProtectionID `json:"id"`
	Name string       `json:"name,omitempty"`
	Home string       `json:"home"` // the site where the machine belongs
	// Policy names the replication policy; "" is the default one. Which policy
	// that is a process knows, as it knows what site a name stands for.
	Policy string `json:"policy,omitempty"`
	// Group names the replication group whose machines share consistent
	// moments; "" is none.
	Group   string `json:"group,omitempty"`
	Active  Place  `json:"active"`  // where it runs
	Standby Place  `json:"standby"` // where it is, or would be, recovered

	State       State            `json:"state"`
	Replication ReplicationState `json:"replication,omitempty"`
	Test        *TestFailover    `json:"test,omitempty"`     // nil: none
	Failover    *Failover        `json:"failover,omitempty"` // the one not yet committed

	// Resync says of a paused protection that whole disks were to be compared
	// when it was paused: replication goes on as ResyncRequired.
	Resync bool `json:"resync,omitempty"`

	// Last is the newest recovery point of the present direction.
	Last Point `json:"last,omitzero"`
	// Common is the newest moment from which both sides' disks descend: what
	// either side changed since is all that can differ.
	Common Point `json:"common,omitzero"`
	// Pins are points that retention must not take, with who needs them.
	Pins map[PointID]string `json:"pins,omitempty"`
	// Expiring are points that retention is deleting: none of them may be
	// chosen or pinned any more. As both are written here, under one version,
	// a point is pinned or deleted, never both.
	Expiring []PointID `json:"expiring,omitempty"`
	// Upkeep is what is remembered of the cycles since the last good one.
	Upkeep Upkeep `json:"upkeep,omitzero"`

	// Accepted are points that looked like mass encryption and that a person
	// has found harmless, with who said so. Whatever judges points heeds it,
	// and calls what follows such a point clean of what came before.
	Accepted map[PointID]string `json:"accepted,omitempty"`

	// Run is the run that is changing the record; replication waits for it.
	Run RunID `json:"run,omitempty"`
	// Applied is the key of the last step that changed the record: it makes
	// a repeated step see that it already did.
	Applied string `json:"applied,omitempty"`
	Version uint64 `json:"version"` // raised by every save
	Epoch   uint64 `json:"epoch"`   // of the claim under which it was last saved by a run
}

// Upkeep is what can't be told from the newest point: how the cycles went that
// made none. It is written by a cycle that fails, and with the new point by one
// that succeeds, so that in good times it costs no write. The zero value says
// that the last cycle was good.
type Upkeep struct {
	Failures int       `json:"failures,omitempty"` // cycles in a row
	Tried    time.Time `json:"tried,omitzero"`     // when the last of them began
	Until    time.Time `json:"until,omitzero"`     // no cycle begins before
	// Err is the last one's error, shortened.
	Err string `json:"err,omitempty"`
	// Permanent: repeating is not expected to help.
	Permanent bool `json:"permanent,omitempty"`
	// Asked is when an application-consistent point was wanted last and could
	// not be had. A good cycle keeps it.
	Asked time.Time `json:"asked,omitzero"`
}

// MaxProtectionID is how many bytes a protection's ID may have. Its lock's name goes
// along with every call to a platform, and an agent takes 512 bytes of it.
const MaxProtectionID = 400

// Validate refuses an ID that is empty, has more than [MaxProtectionID] bytes or is
// not UTF-8: with such a one a machine could be protected, and not failed over.
func (id ProtectionID) Validate() error {
	if id == "" || len(id) > MaxProtectionID || !utf8.ValidString(string(id)) {
		return fmt.Errorf("%w: protection %.60q: want 1 to %d bytes of UTF-8", ErrInvalid, string(id), MaxProtectionID)
	}
	return nil
}

// Lock is the resource that runs on this protection claim.
func (id ProtectionID) Lock() string { return "protection/" + string(id) }

// AtHome reports whether the machine runs where it belongs.
func (p Protection) AtHome() bool { return p.Active.Site == p.Home }

// State is where a protection is in its cycle. Which way it looks is told by
// Active and Standby, not by the state.
type State string

// States, as Azure Site Recovery's articles tell them. FailedOver is uncommitted: the point may still be changed.
const (
	Unprotected   State = "unprotected"
	Synchronizing State = "synchronizing" // the first copy of this direction is under way
	Protected     State = "protected"
	FailedOver    State = "failed-over"
	Committed     State = "committed" // runs at Active, not protected
)

// ReplicationState is what replication does. The zero value is idle.
type ReplicationState string

// Replication states.
const (
	ReplicationIdle    ReplicationState = ""
	ReplicationRunning ReplicationState = "running"
	ReplicationPaused  ReplicationState = "paused"
	// ResyncRequired: the next cycle compares whole disks.
	ResyncRequired ReplicationState = "resync-required"
)

// TestState is how far a test failover is.
type TestState string

// Test failover states; none is told by Protection.Test being nil.
const (
	TestRunning    TestState = "running"
	TestCleaningUp TestState = "cleaning-up"
	TestFailed     TestState = "failed"
)

// TestFailover is a drill that has not been cleaned up yet.
type TestFailover struct {
	Run     RunID     `json:"run"`
	State   TestState `json:"state"`
	Place   Place     `json:"place"` // the drill's machine
	Point   PointID   `json:"point,omitempty"`
	Started time.Time `json:"started,omitzero"`
}

// Failover is one that is not committed.
type Failover struct {
	Run   RunID     `json:"run"`
	Kind  string    `json:"kind"` // the flow: "planned-failover", "unplanned-failover", "failback"
	From  State     `json:"from"` // where cancelling goes back to
	Point Point     `json:"point"`
	At    time.Time `json:"at,omitzero"` // when the machine was started from the point
	// Loss is what the failover cost.
	Loss Loss `json:"loss"`
	// Ran says that the former machine ran when the failover began, or that
	// its site could not be asked: cancelling starts it again, whoever has
	// switched it off.
	Ran bool `json:"ran,omitempty"`
	// Stopped says that it was off when the failover had ended, because the
	// flow shut it down.
	Stopped bool `json:"stopped,omitempty"`
	// Direct says that the disks were copied straight from the other site,
	// without recovery points: there is no other point to change to.
	Direct bool `json:"direct,omitempty"`
}

// Loss says what a failover lost.
type Loss struct {
	// None: the machine was shut down and its last changes were replicated.
	None bool `json:"none"`
	// Age is how old the point was at the failover; with None it is the time
	// since the shutdown, in which nothing was written.
	Age time.Duration `json:"age"`
	// Unreplicated counts bytes known to be written and not replicated; -1
	// when nobody can tell.
	Unreplicated int64 `json:"unreplicated"`
}

// Operation is what can be asked of a protection.
type Operation string

// Operations.
const (
	OpProtect           Operation = "protect"
	OpReplicate         Operation = "replicate"
	OpPause             Operation = "pause"
	OpResume            Operation = "resume"
	OpTestFailover      Operation = "test-failover"
	OpCleanUpTest       Operation = "clean-up-test"
	OpPlannedFailover   Operation = "planned-failover"
	OpUnplannedFailover Operation = "unplanned-failover"
	OpChangePoint       Operation = "change-point"
	OpCommit            Operation = "commit"
	OpCancelFailover    Operation = "cancel-failover"
	OpReprotect         Operation = "reprotect"
	OpFailback          Operation = "failback"
	OpUnprotect         Operation = "unprotect"
)

// rule is one row of the table of what is allowed.
type rule struct {
	op   Operation
	from []State
	when func(Protection) string // "" or why not
}

// rules is the table: an operation is allowed in the states listed, if no
// objection is made. Sources: the Azure Site Recovery articles on failover
// and failback; where several states are possible the strictest was taken,
// but for failback, which may begin in Committed, as with Hyper-V machines.
var rules = []rule{
	{OpProtect, []State{Unprotected}, nil},
	{OpReplicate, []State{Synchronizing, Protected}, notPaused},
	{OpPause, []State{Synchronizing, Protected}, notPaused},
	{OpResume, []State{Synchronizing, Protected}, onlyPaused},
	{OpTestFailover, []State{Protected}, noTest},
	{OpCleanUpTest, []State{Unprotected, Synchronizing, Protected, FailedOver, Committed}, hasTest},
	{OpPlannedFailover, []State{Protected}, noTest},
	{OpUnplannedFailover, []State{Protected}, nil},
	{OpChangePoint, []State{FailedOver}, notDirect},
	{OpCommit, []State{FailedOver}, nil},
	{OpCancelFailover, []State{FailedOver}, nil},
	{OpReprotect, []State{Committed}, noTest},
	{OpFailback, []State{Protected, Committed}, awayWithoutTest},
	{OpUnprotect, []State{Unprotected, Synchronizing, Protected, Committed}, noTest},
}

func notPaused(p Protection) string {
	if p.Replication == ReplicationPaused {
		return "replication is paused"
	}
	if p.Run != "" {
		return fmt.Sprintf("run %s holds replication", p.Run)
	}
	return ""
}

func onlyPaused(p Protection) string {
	if p.Replication != ReplicationPaused {
		return "replication is not paused"
	}
	return ""
}

func noTest(p Protection) string {
	if p.Test != nil {
		return fmt.Sprintf("a test failover is %s: clean it up first", p.Test.State)
	}
	return ""
}

func hasTest(p Protection) string {
	if p.Test == nil {
		return "there is no test failover"
	}
	return ""
}

func notDirect(p Protection) string {
	if p.Failover != nil && p.Failover.Direct {
		return "the disks were copied directly: there are no other points"
	}
	return ""
}

// awayWithoutTest is what failing back needs: it is a planned failover, and
// waits for a drill's clean-up as that does.
func awayWithoutTest(p Protection) string {
	if p.AtHome() {
		return "the machine is at home"
	}
	return noTest(p)
}

// Allow returns nil if the operation may begin now, else an error that wraps
// ErrNotAllowed, says why, and names the operations that are allowed.
func (p Protection) Allow(op Operation) error {
	why := "state is " + string(p.State)
	known := false
	for _, r := range rules {
		if r.op != op {
			continue
		}
		known = true
		if !slices.Contains(r.from, p.State) {
			continue
		}
		if r.when == nil {
			return nil
		}
		no := r.when(p)
		if no == "" {
			return nil
		}
		why += ", " + no
	}
	if !known {
		return fmt.Errorf("%w: operation %q", ErrInvalid, op)
	}
	var names []string
	for _, o := range p.Allowed() {
		names = append(names, string(o))
	}
	return fmt.Errorf("protection %s: %s: %w: %s; allowed now: %s", p.ID, op, ErrNotAllowed, why, strings.Join(names, ", "))
}

// Allowed lists the operations that may begin now.
func (p Protection) Allowed() []Operation {
	var ops []Operation
	for _, r := range rules {
		if slices.Contains(r.from, p.State) && (r.when == nil || r.when(p) == "") {
			ops = append(ops, r.op)
		}
	}
	return ops
}

// moves are the changes of state that a record may make.
var moves = map[State][]State{
	"":            {Unprotected},
	Unprotected:   {Synchronizing},
	Synchronizing: {Protected, Committed, Unprotected}, // back, if the flow is cancelled
	Protected:     {FailedOver, Unprotected},
	FailedOver:    {Committed, Protected}, // Protected: cancelled
	Committed:     {Synchronizing, FailedOver, Unprotected},
}

// Move changes the state, or refuses with ErrNotAllowed a change that is not
// in the table. Staying where one is is always allowed.
func (p *Protection) Move(to State) error {
	if p.State != to && !slices.Contains(moves[p.State], to) {
		return fmt.Errorf("protection %s: %w: from %q to %q", p.ID, ErrNotAllowed, p.State, to)
	}
	p.State = to
	return nil
}

// Pin keeps a point from retention for the sake of who. A point may be pinned
// by several; then Pins names all of them, ordered and separated by commas.
func (p *Protection) Pin(id PointID, who string) {
	if p.Pins == nil {
		p.Pins = map[PointID]string{}
	}
	all := strings.FieldsFunc(p.Pins[id], isComma)
	if i, found := slices.BinarySearch(all, who); !found {
		all = slices.Insert(all, i, who)
	}
	p.Pins[id] = strings.Join(all, ",")
}

// Unpin lets go of all points that who pinned; what others pinned stays.
func (p *Protection) Unpin(who string) {
	for id, w := range p.Pins {
		all := slices.DeleteFunc(strings.FieldsFunc(w, isComma), func(s string) bool { return s == who })
		if len(all) == 0 {
			delete(p.Pins, id)
			continue
		}
		p.Pins[id] = strings.Join(all, ",")
	}
}

// Pinned returns a point that who pinned; the first in order of names if there
// are several.
func (p Protection) Pinned(who string) (PointID, bool) {
	for _, id := range slices.Sorted(maps.Keys(p.Pins)) {
		if slices.Contains(strings.FieldsFunc(p.Pins[id], isComma), who) {
			return id, true
		}
	}
	return "", false
}

// Accept notes that who has found a suspicious point harmless. To accept all
// that the machine went through, accept its newest point.
func (p *Protection) Accept(id PointID, who string) {
	if p.Accepted == nil {
		p.Accepted = map[PointID]string{}
	}
	p.Accepted[id] = who
}

func isComma(r rune) bool { return r == ',' }

// Swap exchanges the two sides.
func (p *Protection) Swap() { p.Active, p.Standby = p.Standby, p.Active }

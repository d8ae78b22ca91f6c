package dr

import (
	"encoding/json"
	"time"
)

// FoldRev is the revision of the fold that [Run] is. It is raised when the
// same plan and events would come to mean something else; engines keep it
// beside each run's journal, and refuse journals of a later revision.
const FoldRev = 1

// Event is one entry of a run's journal. Everything that a run is follows from
// its plan and its events, in their order. The JSON form is stable: fields and
// kinds may be added, never changed.
type Event struct {
	Kind EventKind `json:"kind"`
	// At is when it happened, by the clock of the engine. The fold only
	// passes it on, and counts gates' deadlines from it.
	At   time.Time `json:"at,omitzero"`
	Step string    `json:"step,omitempty"`
	// Undo: the attempt that begins or ends takes the step back.
	Undo    bool `json:"undo,omitempty"`
	Attempt int  `json:"attempt,omitempty"` // which one begins or ends, from 1
	// Data is the step's result.
	Data json.RawMessage `json:"data,omitempty"`
	// Err is why an attempt failed or was stopped, why claims were refused,
	// or why the run was cancelled.
	Err string `json:"err,omitempty"`
	// Final: this failure is not to be tried again.
	Final    bool              `json:"final,omitempty"`
	Decision *Decision         `json:"decision,omitempty"`
	Epochs   map[string]uint64 `json:"epochs,omitempty"` // of the claims, by lock
}

// EventKind says what happened.
type EventKind string

// Kinds of events.
const (
	EventClaimed   EventKind = "claimed"   // the plan's locks are held under Epochs
	EventRefused   EventKind = "refused"   // they could not be had: Err
	EventBegun     EventKind = "begun"     // an attempt is about to start: journaled before its action is called
	EventDone      EventKind = "done"      // an attempt succeeded: Data
	EventFailed    EventKind = "failed"    // an attempt failed: Err, Final
	EventStopped   EventKind = "stopped"   // an attempt was stopped because the engine ends; it counts neither as failed nor as lost
	EventOpened    EventKind = "opened"    // a gate can be answered from now on
	EventDecided   EventKind = "decided"   // a person answered a gate or a stuck step: Decision
	EventExpired   EventKind = "expired"   // a gate's time ran out
	EventCancelled EventKind = "cancelled" // the run is to be cancelled, what runs is to be stopped: Err
	EventReleased  EventKind = "released"  // the claims are given back: the run has ended
)

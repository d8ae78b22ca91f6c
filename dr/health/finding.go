package health

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Level says how bad a finding is, and how well what it is about. The zero
// value is normal, and a greater one is worse.
type Level uint8

// Levels.
const (
	Normal   Level = iota
	Warning        // look at it in the morning
	Critical       // protection, or a machine, is lost or about to be: look at it now
)

// String returns "normal", "warning" or "critical".
func (l Level) String() string {
	switch l {
	case Normal:
		return "normal"
	case Warning:
		return "warning"
	case Critical:
		return "critical"
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// MarshalText makes reports readable.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (l *Level) UnmarshalText(b []byte) error {
	for _, v := range []Level{Normal, Warning, Critical} {
		if v.String() == string(b) {
			*l = v
			return nil
		}
	}
	return fmt.Errorf("health level %q is unknown", b)
}

// Type says what kind of thing a finding is.
type Type string

// Types.
const (
	Failure   Type = "failure"   // something was tried and failed
	Condition Type = "condition" // something is so, and should not be
)

// Category says what a finding endangers.
type Category string

// Categories.
const (
	Replication   Category = "replication"   // points are not young enough, or not made
	Failover      Category = "failover"      // a machine is between two sites
	Drill         Category = "drill"         // it is not proven that recovery works, or a drill was left
	Retention     Category = "retention"     // points are kept, or missing, against the policy
	Configuration Category = "configuration" // somebody has to set something right
	Connectivity  Category = "connectivity"  // something can't be reached
	Capacity      Category = "capacity"      // there is no room
	DataIntegrity Category = "data-integrity"
	Coordination  Category = "coordination" // somebody else is at it
	Internal      Category = "internal"     // a fault of the program
)

// Entity is what a finding is about. Kind and ID identify it, Name is for
// people and may change.
type Entity struct {
	Kind string `json:"kind"` // "protection", "site", "run", "step", "machine", ...
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

// Kinds of entities that are named here. Others may be used.
const (
	KindProtection = "protection"
	KindSite       = "site"
	KindRun        = "run"
	KindStep       = "step"
)

// String returns kind and ID.
func (e Entity) String() string { return e.Kind + " " + e.ID }

// Error is one health error: a finding about an entity. Its fields are those
// of the health errors of Azure Site Recovery. It is a value for consoles, not
// a Go error: findings are reported, not returned.
type Error struct {
	Source   string   `json:"source"` // the part that found it: "replication", "failover", or a site's side
	Type     Type     `json:"type"`
	Level    Level    `json:"level"`
	Category Category `json:"category"`
	// Code says what was found, and never changes its meaning; see [Codes].
	Code string `json:"code"`
	// ID is that of this finding about this entity, for as long as it lasts.
	ID      string `json:"id"`
	Summary string `json:"summary"` // one line for a list; the same for all findings of the code
	Message string `json:"message"` // what exactly, with names and numbers
	// PossibleCauses, likeliest first.
	PossibleCauses    []string `json:"possibleCauses,omitempty"`
	RecommendedAction string   `json:"recommendedAction,omitempty"`
	// Time is when it began, as far as that is known; else when it was seen.
	Time   time.Time `json:"time,omitzero"`
	Entity Entity    `json:"entity"`
	// Inner are the findings that this one follows from or sums up.
	Inner []Error `json:"innerErrors,omitempty"`
}

// ID derives a finding's ID from its code and entity, and from whatever else
// tells it from others of the same code about the same entity: an operation, a
// disk, a point. Parts are told apart whatever they contain.
func ID(code string, about Entity, also ...string) string {
	h := sha256.New()
	for _, s := range append([]string{code, about.Kind, about.ID}, also...) {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Worst is the highest level among findings: Normal if there are none.
func Worst(findings []Error) Level {
	worst := Normal
	for _, f := range findings {
		worst = max(worst, f.Level)
	}
	return worst
}

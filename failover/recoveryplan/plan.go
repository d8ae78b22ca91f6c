package recoveryplan

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/networks"
)

// DefaultGroups and DefaultMachines are the limits of a plan that sets none:
// those of Azure Site Recovery, "at most 7 groups and 100 machines".
const (
	DefaultGroups   = 7
	DefaultMachines = 100
)

// Plan is a recovery plan: which machines belong together, in which order they
// start, and what happens between. It says nothing of how a particular run
// goes: which point, which network, with a shutdown or without (see [Options]).
//
// In YAML and JSON durations are written as "90s" or "10m".
type Plan struct {
	// Name tells the plan from all others; letters, digits, '-', '_' and '.'.
	Name string `json:"name"`
	// Groups start in this order, the machines of each side by side.
	Groups []Group `json:"groups"`
	// Before runs before anything else, AfterShutdown when all machines are
	// off (in flows that shut down), After when all groups are up.
	Before        []Action `json:"before,omitempty"`
	AfterShutdown []Action `json:"afterShutdown,omitempty"`
	After         []Action `json:"after,omitempty"`
	// ShutdownInReverse shuts machines down group by group, the last first, so
	// that nobody loses what it depends on; else all at once.
	ShutdownInReverse bool `json:"shutdownInReverse,omitempty"`
	// Networks say where machines' cards are connected at the other site, and
	// with which addresses: a mapping for each pair of sites. The way home takes
	// one that is given for it, else, for machines that are built anew, the way
	// out reversed; machines that come home to themselves keep their cards. What
	// a Machine says itself wins. With a mapping every card must be mapped.
	Networks []networks.Mapping `json:"networks,omitempty"`
	// Objective is what a drill is measured by.
	Objective Objective `json:"objective,omitzero"`
	// Limits replace the default ones; 0 is the default.
	Limits Limits `json:"limits,omitzero"`
}

// Limits of a plan's size.
type Limits struct {
	Groups   int `json:"groups,omitempty"`
	Machines int `json:"machines,omitempty"`
}

// Objective is what the business was promised. The zero value promises nothing.
type Objective struct {
	RPO Duration `json:"rpo,omitempty"` // age of a machine's point when the run began, at most
	RTO Duration `json:"rto,omitempty"` // from the run's beginning until the last group is up, at most
}

// Group is a set of machines that start side by side.
type Group struct {
	Name     string    `json:"name"`
	Machines []Machine `json:"machines"`
	// Before runs when the group's machines are ready to start and all groups
	// before it are up, After when they run and are healthy.
	Before []Action `json:"before,omitempty"`
	After  []Action `json:"after,omitempty"`
	// Health is waited for when the group's machines have been started, before
	// After and before the next group.
	Health []Health `json:"health,omitempty"`
	// OnFailure says what a machine of this group that fails does to the plan;
	// "": continue.
	OnFailure Rule `json:"onFailure,omitempty"`
}

// Machine is a machine of a plan. In YAML and JSON the protection's ID alone
// will do.
type Machine struct {
	Protection dr.ProtectionID `json:"protection"`
	// Out is how the machine is made at the other site, Home how at home, if it
	// is gone there, Drill how for tests; Drill is laid over the one of the
	// direction.
	Out   failover.Where `json:"out,omitzero"`
	Home  failover.Where `json:"home,omitzero"`
	Drill failover.Where `json:"drill,omitzero"`
	// VerifyTimeout and ShutdownTimeout as in failover.Options.
	VerifyTimeout   Duration `json:"verifyTimeout,omitempty"`
	ShutdownTimeout Duration `json:"shutdownTimeout,omitempty"`
	// PowerOff as in failover.Options.
	PowerOff bool `json:"powerOff,omitempty"`
	// Alternate makes a new machine when reprotecting, although there may be
	// the former one.
	Alternate bool `json:"alternate,omitempty"`
}

// Rule says what a failure does.
type Rule string

// Rules. What stops a flow that loses nothing (planned failover, failback,
// reprotection) makes it fail, and it is taken back whole. What stops any other
// keeps the run from starting more machines, and leaves what runs.
const (
	Continue Rule = "continue"
	Stop     Rule = "stop"
)

// Flows, for [Action.Only].
const (
	FlowTest      = "test"
	FlowDrill     = "drill" // a test that cleans up after itself
	FlowPlanned   = "planned"
	FlowUnplanned = "unplanned"
	FlowFailback  = "failback"
	FlowReprotect = "reprotect"
	FlowCommit    = "commit"
	FlowCancel    = "cancel"
	FlowCleanUp   = "clean-up"
)

// flows lists all; those that bring machines up come first.
var flows = []string{FlowTest, FlowDrill, FlowPlanned, FlowUnplanned, FlowFailback, FlowReprotect, FlowCommit, FlowCancel, FlowCleanUp}

// bringUps are the flows in which an action runs that doesn't say in which.
const bringUps = 5

// lossless are the flows that are taken back whole by what stops them.
func lossless(flow string) bool {
	return flow == FlowPlanned || flow == FlowFailback || flow == FlowReprotect
}

// Direction is which way machines go.
type Direction string

// Directions.
const (
	Out  Direction = "out"  // from home to the other site
	Home Direction = "home" // back
)

// Action is something that happens beside the machines. It is exactly one of
// Script, Callback and Manual.
type Action struct {
	// Name tells the action from others of the plan.
	Name string `json:"name"`
	// Script is a program on the computer that serves the run, in the folder
	// that [Env.Scripts] names, with its arguments.
	Script []string `json:"script,omitempty"`
	// Callback names a function of [Env.Callbacks].
	Callback string `json:"callback,omitempty"`
	// Manual is a question for a person, who approves or rejects. A rejection
	// cancels the run, whatever OnFailure says; time that runs out is a failure.
	Manual string `json:"manual,omitempty"`

	// Only are the flows in which it runs; none: all that bring machines up.
	Only []string `json:"only,omitempty"`
	// Direction in which it runs; "": both.
	Direction Direction `json:"direction,omitempty"`
	// Timeout of one attempt; 0: 10 minutes, and none for Manual.
	Timeout Duration `json:"timeout,omitempty"`
	// Attempts before it counts as failed; 0: one.
	Attempts int `json:"attempts,omitempty"`
	// OnFailure: "" stops planned failovers, failbacks and reprotections, and
	// no other flow.
	OnFailure Rule `json:"onFailure,omitempty"`
	// Undo runs the script or callback once more when the run is taken back,
	// and tells it so.
	Undo bool `json:"undo,omitempty"`
	// Input is handed to the script or callback as it is. No secrets: it is
	// kept in the journal.
	Input json.RawMessage `json:"input,omitempty"`
	// Site whose workers run it; "": any.
	Site string `json:"site,omitempty"`
}

// Health is a sign that a machine of a group serves. It is exactly one of TCP,
// HTTP and Callback. That the machine lives at all is waited for anyway, where
// its platform can tell.
type Health struct {
	Name string `json:"name"`
	// Machine that is asked, one of the group; needed for an address without a
	// host and for callbacks that want to know.
	Machine dr.ProtectionID `json:"machine,omitempty"`
	// TCP is "host:port", or ":port" of the first address that the machine's
	// platform tells.
	TCP string `json:"tcp,omitempty"`
	// HTTP is a URL that must answer with a status below 400; with an empty host
	// ("http://:8080/ready") that of the machine, as in TCP.
	HTTP string `json:"http,omitempty"`
	// Callback names a function of [Env.Callbacks]; it is asked again until it
	// returns no error.
	Callback string `json:"callback,omitempty"`
	// Timeout bounds the wait; 0: 5 minutes.
	Timeout Duration `json:"timeout,omitempty"`
	// OnFailure as in [Action].
	OnFailure Rule `json:"onFailure,omitempty"`
	// Only and Direction as in [Action].
	Only      []string  `json:"only,omitempty"`
	Direction Direction `json:"direction,omitempty"`
}

// Machines lists the plan's machines, group by group.
func (p Plan) Machines() []dr.ProtectionID {
	var ids []dr.ProtectionID
	for _, g := range p.Groups {
		for _, m := range g.Machines {
			ids = append(ids, m.Protection)
		}
	}
	return ids
}

// applies says whether something runs in a flow and direction.
func applies(only []string, d Direction, flow string, to Direction) bool {
	if d != "" && d != to {
		return false
	}
	if len(only) == 0 {
		only = flows[:bringUps]
	}
	return slices.Contains(only, flow) || flow == FlowDrill && slices.Contains(only, FlowTest)
}

// Duration is a time.Duration that is written as "1h30m" in files.
type Duration time.Duration

// String is that of time.Duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is the inverse of UnmarshalText.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads "90s", "10m", "1h30m".
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf(`%w: duration %q: write it as "90s" or "10m"`, dr.ErrInvalid, b)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON takes an ID alone as well.
func (m *Machine) UnmarshalJSON(b []byte) error {
	var id dr.ProtectionID
	if json.Unmarshal(b, &id) == nil {
		*m = Machine{Protection: id}
		return nil
	}
	type plain Machine
	var v plain
	if err := strict(b, &v); err != nil {
		return err
	}
	*m = Machine(v)
	return nil
}

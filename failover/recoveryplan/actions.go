package recoveryplan

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Env is what the steps of plans work with. Replication and Runs are needed.
// It is safe for concurrent use and must not be changed while it serves.
type Env struct {
	Replication *replication.Env
	// Runs is the orchestrator that the machines' runs are started with: the
	// one that serves these actions, or another that shares its claims.
	Runs dr.Orchestrator
	// Callbacks are what plans may call, by name.
	Callbacks map[string]Callback
	// Scripts is the folder of the programs that plans may run; "": none.
	// Whoever can write a plan can run what is in it, and nothing else.
	Scripts string
	// Dial and HTTP are how health checks reach machines; nil: the usual.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	HTTP *http.Client
}

// Callback is a function of the embedding program that a plan calls by name,
// as an action or as a health check. It must be idempotent under Context.Key,
// and stop when ctx ends. What it returns is kept in the journal, 1 MiB at most;
// nil is nothing. An error that dr.IsPermanent is not tried again.
type Callback func(ctx context.Context, c Context) (any, error)

// Context tells a script or a callback what it is called for. Scripts read it
// as JSON from their standard input.
type Context struct {
	Plan      string    `json:"plan"`
	Flow      string    `json:"flow"`
	Direction Direction `json:"direction"`
	Run       dr.RunID  `json:"run"`
	Step      string    `json:"step"`
	// Key names the effect: what is called again with the same Key did perhaps
	// happen already.
	Key     string `json:"key"`
	Attempt int    `json:"attempt"`
	// Undo: the run is being taken back, and so should be what the same call
	// without it did. Its Key is the one of that call.
	Undo     bool             `json:"undo,omitempty"`
	Input    json.RawMessage  `json:"input,omitempty"`
	Machines []ContextMachine `json:"machines"`
}

// ContextMachine is a machine of the plan as it stands when a script or
// callback is called.
type ContextMachine struct {
	Protection dr.ProtectionID `json:"protection"`
	State      dr.State        `json:"state"`
	// At is where it runs; in a drill, where the drill's machine runs, if it
	// does.
	At        dr.Place `json:"at"`
	Addresses []string `json:"addresses,omitempty"` // as its platform tells them
}

// Actions are the steps of all flows planned here. Register them with the
// orchestrator, together with those of packages replication, failover and
// failback.
func Actions(e *Env) dr.Actions {
	return dr.Actions{
		"plan.begin@1":    e.begin,
		"plan.machine@1":  e.machine,
		"plan.clean@1":    e.clean,
		"plan.judge@1":    judge1,
		"plan.health@1":   e.health,
		"plan.script@1":   e.script,
		"plan.callback@1": e.callback,
		"plan.finish@1":   e.finish,
	}
}

func read(c *dr.Call, v any) error {
	if err := json.Unmarshal(c.Input, v); err != nil {
		return dr.Permanent(fmt.Errorf("input of step %s: %w", c.Step, err))
	}
	return nil
}

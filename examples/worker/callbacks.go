package main

import (
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// callbacks are what recovery plans may call by name. A team adds its own here:
// DNS, load balancers, checks of its applications.
func callbacks() map[string]recoveryplan.Callback { return map[string]recoveryplan.Callback{} }

// ownActions are a team's own steps, by the names that its plans use. Names have
// a revision, "dns.move@1", which is raised with what their input means: a run
// under way needs the one that it was planned with.
func ownActions() dr.Actions { return dr.Actions{} }

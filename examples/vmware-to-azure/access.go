package main

import (
	"encoding/json"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// operators are those who may connect to machines at Azure.
const operators = "198.51.100.0/24"

// thenLetIn puts before a failover's end what makes its machine reachable: a
// public address, a rule that lets operators in, a look at its console.
func thenLetIn(plan dr.Plan) (dr.Plan, error) {
	in, err := json.Marshal(azure.AccessInput{Site: away, From: operators})
	if err != nil {
		return plan, err
	}
	for _, s := range []dr.Step{
		{ID: "public-address", Action: azure.ActionPublicAddress, Undo: azure.ActionPublicAddress, Input: in},
		{ID: "allow", Action: azure.ActionAllow, Undo: azure.ActionAllow, Input: in},
		{ID: "screenshot", Action: azure.ActionScreenshot, Input: in, Optional: true, Attempts: 1},
	} {
		if plan, err = plan.InsertBefore(failover.StepFinish, s); err != nil {
			return plan, err
		}
	}
	return plan, nil
}

// letIn tells how to get to the machine, if the flow has seen to it.
func letIn(st dr.Status) (string, error) {
	var address azure.PublicAddress
	var allowed azure.Allowed
	var console backend.Evidence
	for id, into := range map[string]any{"public-address": &address, "allow": &allowed, "screenshot": &console} {
		s, ok := st.Step(id)
		if !ok || len(s.Result) == 0 {
			continue
		}
		if err := json.Unmarshal(s.Result, into); err != nil {
			return "", fmt.Errorf("result of %s, step %s: %w", st.Run, id, err)
		}
	}
	if address.Address == "" {
		return "", nil
	}
	return fmt.Sprintf("%s: the machine was at %s, ports %v, for %s; %s (a %s of %d bytes).",
		st.Run, address.Address, allowed.Ports, operators, console.What, console.Kind, len(console.Data)), nil
}

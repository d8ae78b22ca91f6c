package azuretest

import (
	"fmt"
	"net/http"
	"path"
	"strings"
)

// operation is a long one: accepted, asked for, ended. What it works on is
// busy meanwhile.
type operation struct {
	id   string
	on   []*entry // the first is what the operation is about
	left int      // polls until it ends
	code string   // that it fails with

	request string // that began it
	status  int    // that this was answered with

	before func()     // without the lock, before it ends well
	end    func()     // with the lock, if it ends well
	failed func()     // with the lock, if it fails
	result func() any // what Location answers in the end; nil: nothing
	after  []func()   // without the lock, after it ended

	ending, done bool
}

func operationRoutes() []route {
	const at = inSubscription + "/providers/Microsoft.Compute/locations/*/"
	return []route{
		handle("GET", at+"operations/*", (*Cloud).pollOperation),
		handle("GET", at+"operationResults/*", (*Cloud).operationResult),
	}
}

func (c *Cloud) pollURL(kind string, op *operation) string {
	return fmt.Sprintf("%s/subscriptions/%s/providers/Microsoft.Compute/locations/%s/%s/%s?api-version=2025-04-01",
		c.server.URL, subscription, c.o.Location, kind, op.id)
}

// accept begins an operation on what is in the path, whose entry now is in the
// given state, and on more. If the operation has a code it will fail: it must
// have no effect then.
func (c *Cloud) accept(q *request, state string, on ...*entry) *operation {
	c.lro++
	op := &operation{id: c.newID(), on: on, left: c.o.Polls, request: q.key()}
	if c.failLRO != nil {
		op.code = c.failLRO(Call{N: c.lro, Service: ServiceARM, Method: q.Method, Path: q.URL.Path, Query: q.URL.RawQuery})
	}
	for _, e := range on {
		e.op = op
	}
	on[0].state = state
	c.ops[op.id], c.under[op.request] = op, op
	return op
}

// also makes more entries busy with the operation.
func (op *operation) also(on ...*entry) {
	for _, e := range on {
		e.op = op
		op.on = append(op.on, e)
	}
}

// key tells requests apart that are not the same again.
func (q *request) key() string {
	return q.Method + " " + cleanID(q.id) + "?" + q.URL.RawQuery + "\n" + string(q.body)
}

// join answers a request that was made before and whose operation is under way,
// as it is when a client repeats a call whose answer was lost.
func (c *Cloud) join(q *request) (reply, bool) {
	if q.Method == http.MethodGet || q.Header.Get("If-None-Match")+q.Header.Get("If-Match") != "" || strings.HasSuffix(strings.ToLower(q.id), "/runcommand") {
		return reply{}, false
	}
	op := c.under[q.key()]
	if op == nil || op.done || op.ending {
		return reply{}, false
	}
	answer := reply{status: op.status, op: op}
	if r, there := look[resource](c, q.id); there && q.Method != http.MethodDelete {
		answer.body = r.view(c)
	}
	return answer, true
}

// preempt ends what an entry is busy with, without any effect.
func (c *Cloud) preempt(e *entry) {
	if op := e.op; op != nil {
		op.done, op.code = true, "OperationPreempted"
		for _, e := range op.on {
			e.op = nil
		}
	}
}

// tick lets time pass for an operation. It is called with mu held, which it
// gives up while hooks run.
func (c *Cloud) tick(op *operation) {
	if op.done || op.ending {
		return
	}
	if op.left--; op.left <= 0 {
		c.finish(op)
	}
}

func (c *Cloud) finish(op *operation) {
	op.ending = true
	if op.before != nil && op.code == "" {
		c.mu.Unlock()
		op.before()
		c.mu.Lock()
		if op.done { // it was preempted
			return
		}
	}
	state, effect := "Succeeded", op.end
	if op.code != "" {
		state, effect = "Failed", op.failed
	}
	op.on[0].state = state
	if effect != nil {
		effect()
	}
	for _, e := range op.on {
		if e.op == op {
			e.op = nil
		}
	}
	op.done = true
	if c.under[op.request] == op {
		delete(c.under, op.request)
	}
	if len(op.after) > 0 && op.code == "" {
		c.mu.Unlock()
		for _, f := range op.after {
			f()
		}
		c.mu.Lock()
	}
}

// settle ends what an entry is busy with.
func (c *Cloud) settle(e *entry) {
	for e.op != nil && !e.op.ending {
		c.finish(e.op)
	}
}

// ready refuses what is being made, changed or deleted itself. What it is part
// of may be busy.
func (c *Cloud) ready(e *entry) error {
	if e.op != nil && e.op.on[0] == e {
		return c.free(e)
	}
	return nil
}

// free refuses if an entry is busy. Network resources say so in other words
// than those of compute.
func (c *Cloud) free(entries ...*entry) error {
	for _, e := range entries {
		switch {
		case e.op == nil:
		case e.network():
			return refuse(http.StatusConflict, "AnotherOperationInProgress", "another operation on %s is in progress", e.id)
		default:
			return refuse(http.StatusConflict, "Conflict", "the request failed due to conflict with a concurrent request on %s", e.id)
		}
	}
	return nil
}

// poll lets time pass for the operation that a path asks for, if any.
func (c *Cloud) poll(asked string) {
	if op := c.ops[path.Base(asked)]; op != nil {
		c.tick(op)
	}
}

func (c *Cloud) operation(q *request) (*operation, error) {
	op := c.ops[q.name()]
	if op == nil {
		return nil, refuse(http.StatusNotFound, "NotFound", "operation %s was not found", q.name())
	}
	return op, nil
}

func (c *Cloud) pollOperation(q *request) (reply, error) {
	op, err := c.operation(q)
	if err != nil {
		return reply{}, err
	}
	body := map[string]any{"name": op.id, "status": "InProgress"}
	switch {
	case !op.done:
		return reply{status: http.StatusOK, body: body, op: op}, nil
	case op.code != "":
		body["status"] = "Failed"
		body["error"] = map[string]string{"code": op.code, "message": "simulated"}
	default:
		body["status"] = "Succeeded"
	}
	return ok(body)
}

func (c *Cloud) operationResult(q *request) (reply, error) {
	op, err := c.operation(q)
	switch {
	case err != nil:
		return reply{}, err
	case !op.done:
		return reply{status: http.StatusAccepted, op: op}, nil
	case op.code != "":
		return reply{}, refuse(http.StatusConflict, op.code, "simulated")
	case op.result == nil:
		return reply{status: http.StatusOK}, nil
	}
	return ok(op.result())
}

package hypervtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Call is one call of a [host.Conn], a [host.Disks] or a [host.Disk].
type Call struct {
	N int // the number of the call at this host, from 1
	// Op is the method: "Query", "Get", "Associators", "Text", "TextOf",
	// "Invoke", or "Disks.Open", "Disk.WriteAt" and the like.
	Op string
	// Target is the WMI class or, for disks, the path.
	Target string
	Method string // of WMI that is invoked
	// After tells that the call has had its effect.
	After bool
}

// Name is the method for "Invoke", the operation and its class for other calls
// of WMI, and the operation for disks.
func (c Call) Name() string {
	switch {
	case c.Method != "":
		return c.Method
	case c.WMI():
		return c.Op + " " + c.Target
	}
	return c.Op
}

// WMI tells whether it is a call of a host.Conn.
func (c Call) WMI() bool { return !strings.HasPrefix(c.Op, "Disk") }

// Fail hangs a function into all calls. It is called twice for each, before and
// after its effect, and an error that it returns is the call's, without its
// effect the first time and in spite of it the second. It may use the host. The
// returned function takes it out again.
func (h *Host) Fail(f func(Call) error) (undo func()) {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fails = append(k.fails, f)
	at := len(k.fails) - 1
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.fails[at] = nil
	}
}

// FailNth makes the n-th call from now on fail, from 1, before or after its
// effect. With wmi only those of a host.Conn count.
func (h *Host) FailNth(n int, wmi, after bool, err error) (undo func()) {
	var mu sync.Mutex
	seen, chosen := 0, 0
	return h.Fail(func(c Call) error {
		mu.Lock()
		defer mu.Unlock()
		if !c.After && (!wmi || c.WMI()) {
			if seen++; seen == n {
				chosen = c.N
			}
		}
		if c.N == chosen && c.After == after {
			return err
		}
		return nil
	})
}

type jobFault struct {
	method string
	refusal
}

// FailJob makes the next job of this method end in an exception with this code
// and text, before it has had its effect.
func (h *Host) FailJob(method string, code uint32, text string) {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	k.jobs = append(k.jobs, jobFault{method, refusal{code, text}})
}

// Deny refuses a method with 32769, or queries and reads of a class with
// 0x80041003, until the returned function is called.
func (h *Host) Deny(methodOrClass string) (allow func()) {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	k.denied[strings.ToLower(methodOrClass)] = true
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.denied, strings.ToLower(methodOrClass))
	}
}

// Calls returns how often what was called, by [Call.Name].
func (h *Host) Calls() map[string]int {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.counts)
}

// Trace returns the calls so far, but for reads and writes of disks.
func (h *Host) Trace() []Call {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.trace)
}

func (k *hooks) jobFault(method string) *refusal {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, f := range k.jobs {
		if strings.EqualFold(f.method, method) {
			k.jobs = slices.Delete(k.jobs, i, i+1)
			return &f.refusal
		}
	}
	return nil
}

func (k *hooks) isDenied(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.denied[strings.ToLower(name)]
}

// Hang makes the host answer nobody, until it is called with false: calls wait as
// long as their context lets them. Guests go on.
func (h *Host) Hang(hung bool) {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case hung && k.hung == nil:
		k.hung = make(chan struct{})
	case !hung && k.hung != nil:
		close(k.hung)
		k.hung = nil
	}
}

// before counts the call, waits while the host hangs, and asks the hooks.
func (k *hooks) before(ctx context.Context, c *Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	k.mu.Lock()
	hung := k.hung
	k.mu.Unlock()
	if hung != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hung:
		}
	}
	k.mu.Lock()
	k.n++
	c.N = k.n
	k.counts[c.Name()]++
	if c.Op != "Disk.ReadAt" && c.Op != "Disk.WriteAt" {
		k.trace = append(k.trace, *c)
	}
	k.mu.Unlock()
	return k.ask(*c)
}

func (k *hooks) after(c Call) error {
	c.After = true
	return k.ask(c)
}

func (k *hooks) ask(c Call) error {
	k.mu.Lock()
	fails := slices.Clone(k.fails)
	k.mu.Unlock()
	for _, f := range fails {
		if f == nil {
			continue
		}
		if err := f(c); err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	return nil
}

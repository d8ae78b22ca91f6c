package hypervtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
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

// JobEnd is how a job ends.
type JobEnd struct {
	Method string
	// State is what Msvm_ConcreteJob.JobState says: 32768 completed with
	// warnings, 8 terminated, 9 killed, 10 exception.
	State int
	Code  uint32
	Text  string
	// Effect tells that it has had its effect all the same.
	Effect bool
}

// EndJob makes the next job of a method end in another way than it would.
func (h *Host) EndJob(e JobEnd) {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ends = append(k.ends, e)
}

// FailJob makes the next job of this method end in an exception with this code
// and text, before it has had its effect.
func (h *Host) FailJob(method string, code uint32, text string) {
	h.EndJob(JobEnd{Method: method, State: jobException, Code: code, Text: text})
}

// Alter lets f change what WMI tells of each object, in queries and elsewhere:
// properties that are missing, lists that don't belong together. f must not
// change arrays in place, nor use the host. The returned function takes it out
// again.
func (h *Host) Alter(f func(*host.Object)) (undo func()) {
	k := &h.hooks
	k.mu.Lock()
	defer k.mu.Unlock()
	k.alters = append(k.alters, f)
	at := len(k.alters) - 1
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.alters[at] = nil
	}
}

func (k *hooks) alter(o *host.Object) {
	k.mu.Lock()
	alters := slices.Clone(k.alters)
	k.mu.Unlock()
	for _, f := range alters {
		if f != nil {
			f(o)
		}
	}
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

// jobEnd is how a job of a method is to end, nil if nobody has said so.
func (k *hooks) jobEnd(method string) *JobEnd {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, e := range k.ends {
		if strings.EqualFold(e.Method, method) {
			k.ends = slices.Delete(k.ends, i, i+1)
			return &e
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

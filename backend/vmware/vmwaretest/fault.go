package vmwaretest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// When says at which moment of a call a Fault strikes.
type When int

const (
	// BeforeEffect: the call fails and nothing was done.
	BeforeEffect When = iota
	// AfterEffect: everything was done, its task is over, and the caller
	// doesn't learn of it. A download is answered as with BeforeEffect, for it
	// has no effect.
	AfterEffect
	// InsteadOfTask: the call is answered with a task, which fails; nothing
	// was done. On methods that are no tasks it is BeforeEffect.
	InsteadOfTask
	// AfterTask: the call is answered with a task, which fails although
	// everything was done. On methods that are no tasks it is AfterEffect.
	AfterTask
)

// Fault is a failure to come.
type Fault struct {
	// Call is the name of a method as on the wire ("CreateSnapshot_Task"), or
	// of a transfer: "GET /folder", "HEAD /folder", "PUT /folder",
	// "GET /nfc", "PUT /nfc", "GET /guest", "PUT /guest". "" is any of them.
	Call string
	// Object restricts a method to one managed object; zero is any.
	Object types.ManagedObjectReference
	// Nth is the first matching call that fails, counted from 1 beginning
	// with the call to Simulator.Fault; 0 is 1.
	Nth int
	// Times is how many calls fail from there on: 0 is one, negative is all.
	Times int
	When  When
	// Err is what the API answers, or the task ends with; nil is SystemError.
	Err types.BaseMethodFault
	// Drop closes the connection without an answer.
	Drop bool
	// Status is the answer of a transfer; 0 is 500.
	Status int
	// AfterBytes lets that much of a transfer through, in either direction,
	// then drops the connection. When means nothing then.
	AfterBytes int64
	// Hold, if set, delays the failure until it is closed or the client leaves.
	Hold <-chan struct{}
}

// Injected is a Fault that has been armed.
type Injected struct {
	fault      Fault
	set        *faults
	seen, hits int
}

// Hits is how many calls have failed by it.
func (i *Injected) Hits() int {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	return i.hits
}

// Remove disarms it. A second call is a no-op.
func (i *Injected) Remove() {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	i.set.armed = slices.DeleteFunc(i.set.armed, func(o *Injected) bool { return o == i })
}

// Fault arms a failure. Where several fit a call, the oldest strikes. Calls
// without a session or a privilege are refused before faults are looked at, and
// not counted.
func (s *Simulator) Fault(f Fault) *Injected {
	f.Nth = max(f.Nth, 1)
	if f.Times == 0 {
		f.Times = 1
	}
	i := &Injected{fault: f, set: &s.faults}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.armed = append(s.faults.armed, i)
	return i
}

type faults struct {
	mu    sync.Mutex
	armed []*Injected
}

// take returns the fault that strikes this call, if any. Every armed fault
// counts the call, whichever strikes.
func (fs *faults) take(call string, this types.ManagedObjectReference) *Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var struck *Fault
	for _, i := range fs.armed {
		f := &i.fault
		if f.Call != "" && f.Call != call || f.Object.Value != "" && f.Object != this {
			continue
		}
		i.seen++
		if struck != nil || i.seen < f.Nth || f.Times > 0 && i.seen >= f.Nth+f.Times {
			continue
		}
		i.hits++
		copied := *f
		struck = &copied
	}
	return struck
}

func (f *Fault) hold(ctx context.Context) {
	if f.Hold == nil {
		return
	}
	select {
	case <-f.Hold:
	case <-ctx.Done():
	}
}

func (f *Fault) fault() types.BaseMethodFault {
	if f.Err == nil {
		return &types.SystemError{Reason: "injected"}
	}
	return f.Err
}

// reply answers a call of the API.
func (f *Fault) reply(w http.ResponseWriter) {
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	writeSOAP(w, nil, simulator.Fault("injected fault", f.fault()))
}

// transfer lets a fault strike a transfer, which serve does. It takes the place
// of serve's answer, or breaks off its bytes.
func (f *Fault) transfer(out *meter, r *http.Request, serve func(http.ResponseWriter)) {
	f.hold(r.Context())
	switch {
	case f.AfterBytes > 0:
		out.left = f.AfterBytes
		r.Body = &cut{r.Body, f.AfterBytes}
		serve(out)
		return
	case f.When == AfterEffect || f.When == AfterTask:
		if r.Method == http.MethodPut || r.Method == http.MethodPost {
			serve(httptest.NewRecorder())
		}
	}
	f.replyHTTP(out)
}

// cut drops the connection after so many bytes of an upload.
type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left <= 0 {
		panic(http.ErrAbortHandler)
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// replyHTTP answers a transfer.
func (f *Fault) replyHTTP(w http.ResponseWriter) {
	if f.Drop {
		panic(http.ErrAbortHandler)
	}
	status := f.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	http.Error(w, "injected fault", status)
}

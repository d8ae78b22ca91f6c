package azuretest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"
)

// Services that calls go to.
const (
	ServiceARM  = "arm"  // the Resource Manager
	ServiceBlob = "blob" // Blob storage, and disks and snapshots by SAS
)

// Call is one request to the simulator.
type Call struct {
	N       int // from 1, in the order of arrival, over all services
	Service string
	Method  string
	Path    string // without the query, which may hold a signature
	Query   string // names and values, but for signatures
}

// String tells the call on one line.
func (c Call) String() string {
	s := c.Service + " " + c.Method + " " + c.Path
	if c.Query != "" {
		s += "?" + c.Query
	}
	return s
}

// Fault is what happens to a call instead of what should.
type Fault struct {
	// Status and Code are answered without the call having any effect.
	Status int
	Code   string
	// RetryAfter, if set, is told in the answer, in whole seconds.
	RetryAfter time.Duration
	// Lost cuts the connection instead of answering: before the call had any
	// effect, or after it had, if Effect is set.
	Lost, Effect bool
}

// faults sees every call of all services.
type faults struct {
	mu   sync.Mutex
	n    int
	hook func(Call) *Fault
	see  func(Call, http.Header, []byte)
}

// OnCall sets what is asked before each call, once it has arrived whole: what
// becomes of its client meanwhile doesn't change what the call does. nil lets all
// happen. It is called by many goroutines, and may block.
func (f *faults) OnCall(hook func(Call) *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// OnRequest sets what sees each call whole before anything comes of it, also of
// its fault: the headers and the body as they were sent, signatures and all. nil
// sees nothing. It is called by many goroutines, and must not keep the body.
func (f *faults) OnRequest(see func(c Call, h http.Header, body []byte)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.see = see
}

// Calls returns how many calls there were.
func (f *faults) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

func (f *faults) begin(service string, r *http.Request) (Call, *Fault) {
	q := r.URL.Query()
	for _, secret := range []string{"sig", "se", "st", "sv", "sr", "sp", "si"} {
		q.Del(secret)
	}
	f.mu.Lock()
	f.n++
	c := Call{N: f.n, Service: service, Method: r.Method, Path: r.URL.Path, Query: q.Encode()}
	hook, see := f.hook, f.see
	f.mu.Unlock()
	if see == nil && hook == nil {
		return c, nil
	}
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failing{err}))
	if see != nil {
		see(c, r.Header, body)
	}
	if hook == nil {
		return c, nil
	}
	return c, hook(c)
}

// failing ends a body as it had ended.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// wrap puts the faults before a service.
func (f *faults) wrap(service string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, fault := f.begin(service, r)
		switch {
		case fault == nil:
			h.ServeHTTP(w, r)
		case fault.Lost:
			if fault.Effect {
				h.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
			}
			panic(http.ErrAbortHandler) // the server cuts the connection
		default:
			if fault.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(fault.RetryAfter/time.Second)))
			}
			w.Header().Set("x-ms-error-code", fault.Code)
			if service == ServiceBlob {
				w.Header().Set("Content-Type", "application/xml")
				w.WriteHeader(fault.Status)
				fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code><Message>simulated</Message></Error>`, fault.Code)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(fault.Status)
			fmt.Fprintf(w, `{"error":{"code":%q,"message":"simulated"}}`, fault.Code)
		}
	})
}

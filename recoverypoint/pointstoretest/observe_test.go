package pointstoretest

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

// witness is a testing.TB that remembers failures instead of failing: so the
// suite can be watched rejecting a store.
type witness struct {
	testing.TB // of the outer test, for its context, folders and clean-up

	mu       sync.Mutex
	failures []string
	skipped  bool
}

// observe runs a check and returns what failed; a panic is a failure too.
func observe(t testing.TB, check func(testing.TB)) []string {
	w := &witness{TB: t}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				w.Errorf("panic: %v", p)
			}
		}()
		check(w)
	})
	wg.Wait()
	return w.failures
}

func (w *witness) Errorf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, fmt.Sprintf(format, args...))
}

func (w *witness) FailNow() {
	if !w.Failed() {
		w.Errorf("failed")
	}
	runtime.Goexit()
}

func (w *witness) Failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.failures) > 0
}

func (w *witness) SkipNow() {
	w.skipped = true
	runtime.Goexit()
}

func (w *witness) Fail()                             { w.Errorf("failed") }
func (w *witness) Error(args ...any)                 { w.Errorf("%s", fmt.Sprint(args...)) }
func (w *witness) Fatal(args ...any)                 { w.Error(args...); w.FailNow() }
func (w *witness) Fatalf(format string, args ...any) { w.Errorf(format, args...); w.FailNow() }
func (w *witness) Skip(...any)                       { w.SkipNow() }
func (w *witness) Skipf(string, ...any)              { w.SkipNow() }
func (w *witness) Skipped() bool                     { return w.skipped }
func (w *witness) Log(...any)                        {}
func (w *witness) Logf(string, ...any)               {}
func (w *witness) Helper()                           {}

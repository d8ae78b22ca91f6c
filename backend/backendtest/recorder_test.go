package backendtest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// recorder is a runner whose failures are facts, not failures: so a suite that
// has to fail can be watched.
type recorder struct {
	name   string
	ctx    context.Context
	result *outcome

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

// outcome is what all subtests of a run have in common.
type outcome struct {
	mu     sync.Mutex
	failed map[string]string // by subtest: the first line of why
}

func (r *recorder) Helper()                  {}
func (r *recorder) Name() string             { return r.name }
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Logf(string, ...any)      {}
func (r *recorder) Skipf(string, ...any)     { runtime.Goexit() }
func (r *recorder) FailNow()                 { r.fail("failed"); runtime.Goexit() }

func (r *recorder) Errorf(format string, args ...any) { r.fail(fmt.Sprintf(format, args...)) }

func (r *recorder) fail(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	r.result.mu.Lock()
	defer r.result.mu.Unlock()
	if _, ok := r.result.failed[r.name]; !ok {
		r.result.failed[r.name] = why
	}
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// Run runs f in a goroutine of its own, which FailNow and Skipf can end.
func (r *recorder) Run(name string, f func(runner)) bool {
	ctx, cancel := context.WithCancel(r.ctx)
	sub := &recorder{name: r.name + "/" + name, ctx: ctx, result: r.result}
	if r.name == "" {
		sub.name = name
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			cancel()
			for i := len(sub.cleanups) - 1; i >= 0; i-- {
				sub.cleanups[i]()
			}
		}()
		f(sub)
	}()
	<-done
	return !sub.failed
}

// record runs the groups of the suite that are named, or all if none are, and
// returns the subtests that failed and why.
func record(h Harness, groups ...string) map[string]string {
	res := &outcome{failed: map[string]string{}}
	r := &recorder{ctx: context.Background(), result: res}
	run(r, h, func(g string) bool { return len(groups) == 0 || slices.Contains(groups, g) })
	return res.failed
}

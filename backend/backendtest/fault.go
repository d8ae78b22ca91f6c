package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// ErrInjected is what FailNth fails with.
var ErrInjected = errors.New("injected failure")

// When says on which side of a call's effect it fails.
type When bool

// Before: the call has no effect. After: it has its effect, and the caller
// doesn't learn of it, as when an answer is lost.
const (
	Before When = false
	After  When = true
)

// Fault fails one call. Its Intercept is the Interceptor. Count the calls with
// n = 1, 2, 3 and so on until Fired says that nothing was left to fail.
type Fault struct {
	n    int64
	when When
	ops  []Op
	seen atomic.Int64
}

// FailNth returns a fault that fails the n-th call, counted from 1, of the
// given methods, or of all if there are none. Close is never counted unless it
// is named.
func FailNth(n int, when When, ops ...Op) *Fault {
	return &Fault{n: int64(n), when: when, ops: ops}
}

// Fired tells whether there was an n-th call.
func (f *Fault) Fired() bool { return f.seen.Load() >= f.n }

// Intercept is an Interceptor. A call that fails by itself keeps its error.
func (f *Fault) Intercept(_ context.Context, c Call, do func() error) error {
	counts := slices.Contains(f.ops, c.Op) || len(f.ops) == 0 && c.Op != OpClose
	if !counts || f.seen.Add(1) != f.n {
		return do()
	}
	if f.when == After {
		if err := do(); err != nil {
			return err
		}
		return fmt.Errorf("%w after %s %s", ErrInjected, c.Op, c.Machine)
	}
	return fmt.Errorf("%w before %s %s", ErrInjected, c.Op, c.Machine)
}

// Latency returns an interceptor that waits before each call for as long as d
// says; a context that ends meanwhile ends the call without effect.
func Latency(d func(Call) time.Duration) Interceptor {
	return func(ctx context.Context, c Call, do func() error) error {
		if wait := d(c); wait > 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return do()
	}
}

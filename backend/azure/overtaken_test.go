package azure_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// unknown are the snapshots and restore points that no base is read from.
func (e *errand) unknown() (list []string) {
	e.t.Helper()
	bases, err := e.a.Bases(e.t.Context())
	require.NoError(e.t, err)
	known := map[string]bool{}
	for _, b := range bases {
		known[b] = true
	}
	for _, id := range e.r.cloud.Resources() {
		i := strings.LastIndex(id, "/snapshots/")
		if i >= 0 && !known[id[i+len("/snapshots/"):]] || strings.Contains(id, "/restorepoints/") {
			list = append(list, id)
		}
	}
	return list
}

// overtake captures with a process, and lets another one act before the n-th
// call of the first one. Before the m-th, if it isn't 0, the first one is told
// to stop. It returns how many calls the first one made.
func (e *errand) overtake(slow *azure.Azure, name dr.PointID, want dr.Consistency, n, m int, act func()) (calls int, err error) {
	ctx, cancel := context.WithCancel(e.t.Context())
	defer cancel()
	var acting atomic.Bool
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if acting.Load() { // it makes one call after the other
			return nil
		}
		calls++
		if calls == n {
			acting.Store(true)
			act()
			acting.Store(false)
		}
		if calls == m {
			cancel()
		}
		return nil
	})
	defer e.r.cloud.OnCall(nil)
	img, err := slow.Capture(ctx, e.id, name, want)
	if err == nil {
		err = img.Close()
	}
	return calls, err
}

// Whenever a process that captures is overtaken by another one, and whatever
// that does, nothing is left that nobody would find.
func TestOvertakenCaptureLeavesNothing(t *testing.T) {
	type process = *azure.Azure
	take := func(e *errand, a process, name dr.PointID) {
		if img, err := a.Capture(context.Background(), e.id, name, dr.CrashConsistent); err == nil {
			_ = img.Close()
		}
	}
	for _, c := range []struct {
		what string
		act  func(e *errand, a process, name dr.PointID)
		want dr.Consistency
	}{
		{"capture", take, dr.CrashConsistent},
		{"capture", take, dr.ApplicationConsistent},
		{"release", func(e *errand, a process, name dr.PointID) { _ = a.Release(context.Background(), e.id, name) }, dr.ApplicationConsistent},
		{"capture and release", func(e *errand, a process, name dr.PointID) {
			take(e, a, name)
			_ = a.Release(context.Background(), e.id, name)
		}, dr.CrashConsistent},
		{"sweep", func(e *errand, a process, name dr.PointID) {
			_, _ = a.Sweep(context.Background(), e.id, func(p dr.PointID) bool { return false })
		}, dr.ApplicationConsistent},
	} {
		t.Run(fmt.Sprintf("%s %s", c.what, c.want), func(t *testing.T) {
			var clock hours
			e := newErrandOf(t, t.Name(), azuretest.Options{Clock: clock.now})
			e.start()
			slow := e.a
			e.begin()
			slow.Serially()
			e.a.Serially()
			seed := uint64(time.Now().UnixNano())
			random := rand.New(rand.NewPCG(seed, 0))
			failures := 0
			for n := 1; ; n++ {
				clock.advance(4 * time.Hour)
				stop := 0
				if n%2 == 0 {
					stop = n + random.IntN(12)
				}
				name := dr.PointID(fmt.Sprintf("c%d", n))
				calls, err := e.overtake(slow, name, c.want, n, stop, func() { c.act(e, e.a, name) })
				if calls < n {
					break
				}
				if err != nil {
					failures++
				}
				require.NoError(t, e.a.Release(t.Context(), e.id, name))
				require.Empty(t, e.unknown(), "overtaken before call %d, told to stop before call %d (seed %d): %v", n, stop, seed, err)
			}
			require.Greater(t, failures, 5, "nobody was overtaken")
		})
	}
}

// The same where the machine is removed.
func TestCaptureOvertakenByRemove(t *testing.T) {
	for n, more := 1, true; more; n += 3 {
		e := newErrand(t, fmt.Sprintf("removed before call %d", n))
		e.start()
		slow := e.a
		e.begin()
		slow.Serially()
		calls, err := e.overtake(slow, "c1", dr.CrashConsistent, n, 0, func() { _ = e.a.Remove(context.Background(), e.id) })
		more = calls >= n
		if more {
			require.Error(t, err, e.what)
		}
		require.NoError(t, e.a.Remove(t.Context(), e.id))
		for _, id := range e.r.cloud.Resources() {
			require.NotContains(t, id, "/snapshots/", e.what)
		}
	}
}

// What makes a snapshot is never cut off: its effect would come after all was
// cleaned up.
func TestCaptureWaitsForTheSnapshotsItAskedFor(t *testing.T) {
	e := started(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	returned := make(chan struct{})
	var late atomic.Int32
	var wg sync.WaitGroup
	wg.Add(1)
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Method != http.MethodPut || !strings.Contains(c.Path, "/snapshots/") {
			return nil
		}
		wg.Add(1)
		defer wg.Done()
		cancel()
		select {
		case <-returned:
			late.Add(1)
		case <-time.After(200 * time.Millisecond): // it waits for us
		}
		return nil
	})
	_, err := e.a.Capture(ctx, e.id, "c1", dr.CrashConsistent)
	close(returned)
	wg.Done()
	wg.Wait()
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, late.Load(), "snapshots were made after all was cleaned up")
	e.r.cloud.OnCall(nil)
	require.Empty(t, e.unknown())
}

// A capture that was recorded as done, though its process was stopped before the
// answer came, is the one that is found later.
func TestCaptureThatWasDoneStays(t *testing.T) {
	e := started(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var written, made atomic.Int32
	var lost atomic.Bool
	e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		switch {
		case lost.Swap(false): // it asks again: by now the effect is there
			cancel()
			return &azuretest.Fault{Lost: true}
		case c.Method == http.MethodPut && strings.Contains(c.Path, "/snapshots/"):
			made.Add(1)
		case c.Method == http.MethodPut && strings.Contains(c.Path, "/machines/"):
			if written.Add(1) == 2 { // the first says that it begins
				lost.Store(true)
				return &azuretest.Fault{Lost: true, Effect: true}
			}
		}
		return nil
	})
	_, err := e.a.Capture(ctx, e.id, "c1", dr.CrashConsistent)
	require.Error(t, err)
	before := made.Load()
	require.NotZero(t, before)
	require.NoError(t, e.capture("c1", dr.CrashConsistent, nil, nil, nil)(t.Context()))
	require.Equal(t, before, made.Load(), "it was captured anew")
	e.r.cloud.OnCall(nil)
	require.NoError(t, e.a.Release(t.Context(), e.id, "c1"))
	require.Empty(t, e.unknown())
}

package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// stage is a place on the way to a common moment that no machine leaves before
// all have come to it. Their order is the proof that the moment is common.
type stage int

const (
	looked   stage = iota // what the stores have is known: the moment can be named
	copied                // of machines that are captured live little is left to be read
	ready                 // and nothing is left to do but to freeze
	quiesced              // no machine writes
	captured              // and every one was captured since
	thawed                // and none had thawed before
	stages
)

// moment brings the machines of a group together, each of which has a
// goroutine. It is earned when all have come to the last stage, or it breaks,
// for all of them, for the first reason that any has. What is decided stays.
type moment struct {
	n      int           // machines
	freeze time.Duration // from ready on
	now    func() time.Time

	mu     sync.Mutex
	here   [stages]int
	all    [stages]chan struct{} // closed when all have come
	broken chan struct{}         // closed when why is set
	why    error
	name   dr.PointID // of the moment; known from looked on
	after  dr.PointID // the last name that a cycle of any machine was given

	window context.Context // ends when the machines must thaw
	end    context.CancelCauseFunc
	timer  *time.Timer

	first, last time.Time // of the freeze, over all machines
}

func newMoment(ctx context.Context, n int, freeze time.Duration, now func() time.Time) *moment {
	m := &moment{n: n, freeze: freeze, now: now, broken: make(chan struct{})}
	for i := range m.all {
		m.all[i] = make(chan struct{})
	}
	m.window, m.end = context.WithCancelCause(ctx)
	return m
}

// close ends the window; it is called when nobody is in it any more.
func (m *moment) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
	}
	m.end(nil)
}

// meet waits until all machines have come to the stage. It returns why if there
// will be no common moment; that a machine's ctx ends is a reason for all. For a
// stage that was reached it returns nil to every machine.
func (m *moment) meet(ctx context.Context, s stage) error {
	m.mu.Lock()
	if m.why == nil && ctx.Err() == nil {
		if m.here[s]++; m.here[s] == m.n {
			m.reach(s)
		}
	}
	m.mu.Unlock()
	select {
	case <-m.all[s]:
	case <-m.broken:
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.here[s] == m.n {
		return nil
	}
	return m.breakLocked(context.Cause(ctx))
}

// reach needs m.mu.
func (m *moment) reach(s stage) {
	switch s {
	case looked:
		m.name = laterName(m.now(), m.after)
	case ready:
		m.timer = time.AfterFunc(m.freeze, func() {
			why := fmt.Errorf("%w: the machines had been frozen for %v, which is the limit", dr.ErrNotConsistent, m.freeze)
			m.fail(why)
			m.end(why)
		})
	}
	close(m.all[s])
}

// fail breaks the moment, unless it is broken already, and returns why it is.
func (m *moment) fail(why error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.breakLocked(why)
}

func (m *moment) breakLocked(why error) error {
	if m.why == nil {
		m.why = why
		close(m.broken)
	}
	return m.why
}

// follow makes the moment's name later than that of any cycle of a machine.
func (m *moment) follow(last dr.PointID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.after = max(m.after, last)
}

// called is the name of the moment.
func (m *moment) called() dr.PointID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.name
}

// froze takes down that a machine may have been frozen from one time to the other.
func (m *moment) froze(from, to time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first.IsZero() || from.Before(m.first) {
		m.first = from
	}
	if to.After(m.last) {
		m.last = to
	}
}

// verdict is nil when the moment was earned.
func (m *moment) verdict() (frozen time.Duration, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.here[thawed] == m.n {
		return m.last.Sub(m.first), nil
	}
	return m.last.Sub(m.first), m.why
}

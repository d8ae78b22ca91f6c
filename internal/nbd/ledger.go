package nbd

import (
	"context"
	"sync"
)

// ledger knows which acknowledged writes no flush has covered yet. It is shared
// by a Client's connections, and is where the loss of a connection and a reply
// that came just before it are put in order.
type ledger struct {
	mu      sync.Mutex
	acked   uint64 // changes acknowledged, without FUA
	flushed uint64 // how many of them a successful flush has covered
	broken  bool   // a connection was lost while acked > flushed

	adrift int           // cancelled changes that have no reply yet
	calm   chan struct{} // closed when there are none; made by who waits for it
}

// drift notes a change that its caller has given up and the server has not.
func (b *ledger) drift(l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !l.lost {
		l.adrift++
		b.adrift++
	}
}

// landed notes that the server has done, or refused, such a change.
func (b *ledger) landed(l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !l.lost {
		l.adrift--
		b.settleDown(1)
	}
}

// settleDown is called with mu held.
func (b *ledger) settleDown(n int) {
	if b.adrift -= n; b.adrift == 0 && b.calm != nil {
		close(b.calm)
		b.calm = nil
	}
}

// wait returns when nothing is adrift.
func (b *ledger) wait(ctx context.Context) error {
	for {
		b.mu.Lock()
		if b.adrift == 0 {
			b.mu.Unlock()
			return nil
		}
		if b.calm == nil {
			b.calm = make(chan struct{})
		}
		calm := b.calm
		b.mu.Unlock()
		select {
		case <-calm:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// written counts the changes acknowledged so far: what a flush that is sent
// now will cover.
func (b *ledger) written() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acked
}

// settle counts an outcome; false if the link was lost already, which means
// that the outcome must not be believed.
func (b *ledger) settle(l *link, s *slot, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.lost {
		return false
	}
	if err != nil {
		return true
	}
	switch {
	case s.req.changes() && s.req.flags&cmdFlagFUA == 0:
		b.acked++
	case s.req.cmd == cmdFlush:
		b.flushed = max(b.flushed, s.before)
	}
	return true
}

// lose notes that a link's end has come.
func (b *ledger) lose(l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.lost = true
	b.broken = b.broken || b.acked > b.flushed
	b.settleDown(l.adrift)
	l.adrift = 0
}

func (b *ledger) intact() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.broken
}

package nbd

import "sync"

// ledger knows which acknowledged writes no flush has covered yet. It is shared
// by a Client's connections, and is where the loss of a connection and a reply
// that came just before it are put in order.
type ledger struct {
	mu      sync.Mutex
	acked   uint64 // changes acknowledged, without FUA
	flushed uint64 // how many of them a successful flush has covered
	broken  bool   // a connection was lost while acked > flushed
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
	switch s.req.cmd {
	case cmdWrite, cmdWriteZeros, cmdTrim:
		if s.req.flags&cmdFlagFUA == 0 {
			b.acked++
		}
	case cmdFlush:
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
}

func (b *ledger) intact() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.broken
}

package nbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// The pauses between attempts to reconnect.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// lanes are a Client's connections through all their lives.
type lanes struct {
	mu     sync.Mutex
	links  []*link       // nil while there is none
	next   int           // where pick begins to look
	over   error         // why no request will be sent any more
	change chan struct{} // closed, and made anew, at every change of the others
}

// set replaces a link. The first error is final for all: a client that goes on
// with a part of its connections would hide that one was lost.
func (n *lanes) set(i int, l *link, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[i] = l
	if n.over == nil {
		n.over = err
	}
	close(n.change)
	n.change = make(chan struct{})
}

// pick chooses the link with the most room, or waits for one.
func (n *lanes) pick(ctx context.Context) (*link, error) {
	for {
		n.mu.Lock()
		var best *link
		n.next++
		for i := range n.links {
			l := n.links[(n.next+i)%len(n.links)]
			if l != nil && l.alive() && (best == nil || len(l.free) > len(best.free)) {
				best = l
			}
		}
		over, change := n.over, n.change
		n.mu.Unlock()
		switch {
		case over != nil:
			return nil, over
		case best != nil:
			return best, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// keep replaces a link whenever it is lost, until the client closes or can't.
func (c *Client) keep(i int, l *link) {
	pause := time.Duration(0) // before the next attempt to connect
	for {
		born := time.Now()
		if c.wait(l) != nil {
			l.close()
		}
		if c.ctx.Err() != nil {
			c.lanes.set(i, nil, ErrClosed)
			return
		}
		c.log.Warn("nbd: connection lost", "err", l.err)
		c.lanes.set(i, nil, nil)
		if time.Since(born) >= lastPause {
			pause = 0
		}
		next, err := c.restore(l.err, &pause)
		if err != nil {
			c.lanes.set(i, nil, err)
			return
		}
		c.log.Info("nbd: reconnected")
		c.lanes.set(i, next, nil)
		l = next
	}
}

// wait returns when the link has ended, or an error if it should. Meanwhile it
// watches for a server that is there and does nothing.
func (c *Client) wait(l *link) error {
	var look <-chan time.Time
	if c.opts.Stall > 0 {
		t := time.NewTicker(c.opts.Stall / 4)
		defer t.Stop()
		look = t.C
	}
	moved, since := int64(-1), time.Now()
	for {
		select {
		case <-l.ended:
			return nil
		case <-c.ctx.Done():
			return ErrClosed
		case <-look:
			switch m := l.moved.Load(); {
			case m != moved || len(l.free) == cap(l.free):
				moved, since = m, time.Now()
			case time.Since(since) >= c.opts.Stall:
				l.fail(fmt.Errorf("the server has been silent for %v, with %d requests in flight", c.opts.Stall, cap(l.free)-len(l.free)))
			}
		}
	}
}

// restore connects again, for as long as the options say. pause is kept from one
// loss to the next: a server that takes connections and loses them at once must
// not be hammered.
func (c *Client) restore(cause error, pause *time.Duration) (*link, error) {
	if c.opts.Reconnect == 0 {
		return nil, fmt.Errorf("%w: %w", ErrLost, cause)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Reconnect)
	defer cancel()
	err := errors.New("no attempt was made yet")
	for {
		if *pause > 0 {
			t := time.NewTimer(*pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
		*pause = min(max(2**pause, firstPause), lastPause)
		switch {
		case c.ctx.Err() != nil:
			return nil, ErrClosed
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: %w; reconnecting failed for %v, last with: %w", ErrLost, cause, c.opts.Reconnect, err)
		}
		var g *negotiation
		if g, err = c.opts.connect(ctx); err != nil {
			c.log.Debug("nbd: reconnecting failed", "err", err, "pause", *pause)
			continue
		}
		if err = c.same(g); err != nil {
			g.raw.Close()
			return nil, err
		}
		return newLink(g, c.inFlight, &c.book), nil
	}
}

// same refuses to go on with an export that isn't what it was: what callers
// were told about it would be wrong.
func (c *Client) same(n *negotiation) error {
	var what string
	switch {
	case n.export.size != uint64(c.info.Size):
		what = fmt.Sprintf("its size is %d, was %d bytes", n.export.size, c.info.Size)
	case n.export.flags != c.flags:
		what = fmt.Sprintf("its transmission flags are %#x, were %#x", n.export.flags, c.flags)
	case n.blocks.minimum != uint32(c.info.MinBlock) || n.blocks.maxPayload < uint32(c.info.MaxPayload):
		what = fmt.Sprintf("its block sizes are %d to %d, were %d to %d", n.blocks.minimum, n.blocks.maxPayload, c.info.MinBlock, c.info.MaxPayload)
	case n.structured != c.info.Structured:
		what = "structured replies are no longer, or newly, understood"
	case !slices.Equal(contextNames(n.contexts), c.info.Contexts):
		what = fmt.Sprintf("its metadata contexts are %q, were %q", contextNames(n.contexts), c.info.Contexts)
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrChanged, what)
}

// isLost reports that a request's fate is unknown.
func isLost(err error) bool { return errors.Is(err, errLinkLost) }

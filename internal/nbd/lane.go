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

// lane is one of a Client's connections through all its lives.
type lane struct {
	mu     sync.Mutex
	link   *link         // nil while there is none
	err    error         // why there will never be one again
	change chan struct{} // closed, and made anew, at every change of the others
}

func (n *lane) set(l *link, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link, n.err = l, err
	close(n.change)
	n.change = make(chan struct{})
}

// now returns the link if it is in order.
func (n *lane) now() *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.link == nil || !n.link.alive() {
		return nil
	}
	return n.link
}

// get waits for a link.
func (n *lane) get(ctx context.Context) (*link, error) {
	for {
		n.mu.Lock()
		l, err, change := n.link, n.err, n.change
		n.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case l != nil && l.alive():
			return l, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// keep replaces the lane's link whenever it is lost, until the client closes
// or can't.
func (c *Client) keep(n *lane) {
	l := n.link
	for {
		select {
		case <-l.ended:
		case <-c.ctx.Done():
			l.close()
		}
		if c.ctx.Err() != nil {
			n.set(nil, ErrClosed)
			return
		}
		c.log.Warn("nbd: connection lost", "err", l.err)
		n.set(nil, nil)
		next, err := c.restore(l.err)
		if err != nil {
			n.set(nil, err)
			return
		}
		c.log.Info("nbd: reconnected")
		n.set(next, nil)
		l = next
	}
}

// restore connects again, for as long as the options say.
func (c *Client) restore(cause error) (*link, error) {
	if c.opts.Reconnect == 0 {
		return nil, fmt.Errorf("%w: %w", ErrLost, cause)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Reconnect)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		g, err := c.opts.connect(ctx)
		if err == nil {
			if err = c.same(g); err == nil {
				return newLink(g, c.inFlight, &c.book), nil
			}
			g.raw.Close()
			return nil, err
		}
		if c.ctx.Err() != nil {
			return nil, ErrClosed
		}
		c.log.Debug("nbd: reconnecting failed", "err", err, "pause", pause)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if c.ctx.Err() != nil {
				return nil, ErrClosed
			}
			return nil, fmt.Errorf("%w: %w; reconnecting failed for %v, last with: %w", ErrLost, cause, c.opts.Reconnect, err)
		}
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

// isLost reports that a request's fate is unknown and that it may be repeated.
func isLost(err error) bool { return errors.Is(err, errLinkLost) }

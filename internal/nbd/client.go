package nbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
)

// What callers branch on. All come wrapped in a [RequestError].
var (
	// ErrClosed says that Close was called.
	ErrClosed = fmt.Errorf("nbd: the client is closed: %w", net.ErrClosed)
	// ErrLost says that the connection was lost and not regained in time. A
	// write that fails with it may or may not have happened.
	ErrLost = errors.New("nbd: the connection was lost")
	// ErrChanged says that the export was another one after reconnecting.
	ErrChanged = errors.New("nbd: the export changed")
	// ErrUnflushed says that a connection was lost after writes that were
	// acknowledged and before a flush covered them: a server that crashed has
	// forgotten them. Write again all that was written since the last
	// successful Flush, with a new Client.
	ErrUnflushed = errors.New("nbd: acknowledged writes that no flush had covered may be lost")
	// ErrNoContext says that a metadata context was not negotiated: the server
	// doesn't have it, or Options.Contexts doesn't ask for it.
	ErrNoContext = errors.New("nbd: no such metadata context")
)

// Info is what a server says of an export, and what follows from it.
type Info struct {
	// Size is in bytes.
	Size int64
	// Description is for people, and may be empty. It is foreign text.
	Description string
	// ReadOnly refuses all changes; the others say which requests there are.
	ReadOnly, CanFlush, CanFUA, CanTrim, CanZero, CanCache, CanMultiConn bool
	// MinBlock is what requests are aligned to on the wire, 1 if the server
	// doesn't say; PreferredBlock is the size of efficient requests, and
	// MaxPayload the largest READ or WRITE that is sent. In bytes. Callers
	// need not align anything.
	MinBlock, PreferredBlock, MaxPayload int64
	// Contexts are the metadata contexts that were negotiated, sorted.
	Contexts []string
	// Structured replies say where an error is, and need no bytes for zeros.
	Structured bool
}

// Client uses one export of a server. It is a [Device] with every ability; what
// the server lacks is answered with errors.ErrUnsupported. All methods may be
// called concurrently, and that is how speed is had: each call is one request
// in flight (more if it is longer than Info.MaxPayload), and calls don't wait
// for each other.
//
// # Cancellation
//
// A call whose context ends returns at once; the connection stays in use, and
// the reply is drained when it comes, a write that was begun is sent to its end
// from a copy. Only if the call's own bytes are half way through the socket does
// it wait for the next 256 KiB of them; if they don't get through for 5 s the
// connection is given up. A cancelled write may still happen, at any time until
// the next Flush returns.
//
// # Lost connections
//
// Without Options.Reconnect every call fails with [ErrLost] from the loss on, be
// it of one of several connections, and nothing is sent twice. With it calls wait
// for a connection, within their contexts. If the export's size, flags, block
// sizes or contexts are different on a new one, all calls fail with [ErrChanged].
//
// With Reconnect, requests that were in flight are sent again: repeating a read,
// write, trim, zeroing or flush has the effect of doing it once. A request that
// loses every connection it is sent on for as long as Reconnect says fails with
// ErrLost, and others go on. One thing can't be excluded
// from this side: a server that still carries out a write of the lost
// connection after the repeated one, and after a later write to the same bytes.
// Servers that finish or drop what a connection left before they accept another
// don't; leave Reconnect at 0 where this can't be known.
//
// What was acknowledged, but not covered by a successful Flush or written with
// FUA, may be gone if the server crashed. A Client that loses a connection in
// this state says so: from then on every change and every flush fails with
// [ErrUnflushed], reads go on. It never forgets, so no later Flush can succeed
// by accident. Flush from time to time to bound what must be written again.
// This holds for each of several connections: losing one is enough.
type Client struct {
	opts     Options
	inFlight int
	log      *slog.Logger
	info     Info
	flags    uint16
	book     ledger
	lanes    lanes
	edge     chan struct{} // has room for one write of a part of a block; see unaligned.go

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	keeps  sync.WaitGroup
}

var (
	_ Device     = (*Client)(nil)
	_ Writer     = (*Client)(nil)
	_ Flusher    = (*Client)(nil)
	_ Trimmer    = (*Client)(nil)
	_ Zeroer     = (*Client)(nil)
	_ Mapper     = (*Client)(nil)
	_ Prefetcher = (*Client)(nil)
)

// Dial connects to a server and negotiates the use of one export. ctx bounds
// that only. Failures are not repeated: Reconnect is about connections that
// were there. The error wraps ErrNoExport or ErrTLSRequired where it is that.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	n, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &Client{opts: o, inFlight: cmp.Or(o.InFlight, 64), log: o.log(), flags: n.export.flags, info: infoOf(n), edge: make(chan struct{}, 1)}
	c.lanes.change = make(chan struct{})
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	add := func(n *negotiation) {
		l := newLink(n, c.inFlight, &c.book)
		c.lanes.mu.Lock()
		c.lanes.links = append(c.lanes.links, l)
		i := len(c.lanes.links) - 1
		c.lanes.mu.Unlock()
		c.keeps.Go(func() { c.keep(i, l) })
	}
	add(n)
	for have := 1; c.info.CanMultiConn && have < o.Connections; have++ {
		if n, err = o.connect(ctx); err == nil {
			if err = c.same(n); err == nil {
				add(n)
				continue
			}
			n.raw.Close()
		}
		_ = c.Close()
		return nil, fmt.Errorf("connection %d of %d: %w", have+1, o.Connections, err)
	}
	return c, nil
}

func infoOf(n *negotiation) Info {
	can := func(f uint16) bool { return n.export.flags&f != 0 }
	writes := !can(sendReadOnly)
	return Info{
		Size: int64(n.export.size), Description: n.describe, ReadOnly: !writes,
		CanFlush: can(sendFlush), CanFUA: writes && can(sendFUA), CanTrim: writes && can(sendTrim),
		CanZero: writes && can(sendWriteZeros), CanCache: can(sendCache), CanMultiConn: can(canMultiConn),
		MinBlock: int64(n.blocks.minimum), PreferredBlock: int64(n.blocks.preferred), MaxPayload: int64(n.blocks.maxPayload),
		Contexts: contextNames(n.contexts), Structured: n.structured,
	}
}

func contextNames(m map[string]uint32) []string { return slices.Sorted(maps.Keys(m)) }

// Info returns what was negotiated. It does not change.
func (c *Client) Info() Info {
	i := c.info
	i.Contexts = slices.Clone(i.Contexts)
	return i
}

// Size is the export's length in bytes.
func (c *Client) Size() int64 { return c.info.Size }

// Close disconnects. It does not flush; requests in flight fail with ErrClosed,
// and whether they happened is unknown. A second call waits and does nothing.
// It always returns nil.
func (c *Client) Close() error {
	c.cancel()
	c.keeps.Wait()
	return nil
}

package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

// RequestError is a request that failed: which, where, and why. Err is an
// [Errno] (wrapped) if the server refused it, a context's error, or one of this
// package's; errors.Is and errors.As see through it.
type RequestError struct {
	Op             string // "read", "write", "flush", "trim", "zero", "cache", "block status"
	Server, Export string
	Off, Len       int64 // in bytes; both 0 for a flush
	Err            error
}

// Error tells all of it.
func (e *RequestError) Error() string {
	where := ""
	if e.Len != 0 {
		where = fmt.Sprintf(" of %d bytes at %d", e.Len, e.Off)
	}
	return fmt.Sprintf("nbd: %s%s, export %q on %s: %v", e.Op, where, e.Export, e.Server, e.Err)
}

// Unwrap returns the cause.
func (e *RequestError) Unwrap() error { return e.Err }

func (c *Client) failed(op string, off, n int64, err error) error {
	var r *RequestError
	if errors.As(err, &r) {
		return err
	}
	return &RequestError{op, c.opts.server(), c.opts.Export, off, n, err}
}

// maxRange is the longest range of a request that carries no data. The protocol
// takes 32 bits; this is aligned to every block size.
const maxRange = 1 << 30

// together is how many requests one long call has in flight.
const together = 4

// changes reports that a request changes what is read.
func (r request) changes() bool {
	return r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeros
}

// exchange is one request and what came of it.
type exchange struct {
	req     request
	data    []byte
	context string
	status  []descriptor
}

var opNames = map[uint16]string{
	cmdRead: "read", cmdWrite: "write", cmdFlush: "flush", cmdTrim: "trim",
	cmdWriteZeros: "zero", cmdCache: "cache", cmdBlockStatus: "block status",
}

// exchange sends a request until its fate is known.
func (c *Client) exchange(ctx context.Context, x *exchange) error {
	err := c.attempt(ctx, x)
	if err != nil {
		return c.failed(opNames[x.req.cmd], int64(x.req.offset), int64(x.req.length), err)
	}
	return nil
}

func (c *Client) attempt(ctx context.Context, x *exchange) error {
	var first time.Time // when the request was lost with a connection
	flush := x.req.cmd == cmdFlush
	for {
		if flush {
			if err := c.book.wait(ctx); err != nil {
				return err
			}
		}
		l, err := c.lanes.pick(ctx)
		if err != nil {
			return err
		}
		if (flush || x.req.changes()) && !c.book.intact() {
			return ErrUnflushed
		}
		switch err = l.roundTrip(ctx, x); {
		case !isLost(err):
			return err
		case c.ctx.Err() != nil:
			return ErrClosed
		case c.opts.Reconnect == 0:
			return fmt.Errorf("%w: %w", ErrLost, l.err)
		case first.IsZero():
			first = time.Now()
		case time.Since(first) > c.opts.Reconnect:
			return fmt.Errorf("%w each time that it was sent, for %v, last with: %w", ErrLost, c.opts.Reconnect, l.err)
		}
	}
}

// split cuts [off, off+n) into requests of at most limit bytes, a few of which
// run side by side; the first failure stops the rest.
func split(ctx context.Context, off, n, limit int64, f func(ctx context.Context, off, n int64) error) error {
	if n <= limit {
		return f(ctx, off, n)
	}
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(together)
	end := off + n
	for ; off < end && some.Err() == nil; off += limit {
		at, k := off, min(limit, end-off)
		g.Go(func() error { return f(some, at, k) })
	}
	if err := g.Wait(); err != nil || off >= end {
		return err
	}
	return ctx.Err()
}

// ReadAt fills p from off as io.ReaderAt does: at the end of the export fewer
// bytes come with io.EOF. After another error p's content is undefined, and the
// count is 0.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, c.failed("read", off, int64(len(p)), EINVAL)
	}
	if off > c.info.Size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.info.Size-off)
	if n > 0 {
		if err := c.readUnaligned(ctx, p[:n], off); err != nil {
			return 0, err
		}
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (c *Client) readWhole(ctx context.Context, p []byte, off int64) error {
	return split(ctx, off, int64(len(p)), c.info.MaxPayload, func(ctx context.Context, at, n int64) error {
		return c.exchange(ctx, &exchange{
			req:  request{cmd: cmdRead, offset: uint64(at), length: uint32(n)},
			data: p[at-off:][:n],
		})
	})
}

// WriteAt writes all of p, or fails: the count is len(p) or 0, and after a
// failure the range's content is undefined. What it wrote is safe from a crash
// of the server after the next Flush. Beyond the end it fails with ENOSPC and
// writes nothing.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return c.write(ctx, p, off, 0)
}

// WriteThrough is WriteAt, made durable before it returns: with FUA, or with a
// flush if the server has no FUA.
func (c *Client) WriteThrough(ctx context.Context, p []byte, off int64) (int, error) {
	if c.info.CanFUA {
		return c.write(ctx, p, off, cmdFlagFUA)
	}
	if !c.info.CanFlush {
		return 0, c.failed("write", off, int64(len(p)), fmt.Errorf("the server has neither FUA nor flush: %w", errors.ErrUnsupported))
	}
	n, err := c.write(ctx, p, off, 0)
	if err == nil {
		err = c.Flush(ctx)
	}
	if err != nil {
		n = 0
	}
	return n, err
}

func (c *Client) write(ctx context.Context, p []byte, off int64, flags uint16) (int, error) {
	n := int64(len(p))
	if err := c.changeable("write", off, n); err != nil || n == 0 {
		return 0, err
	}
	if err := c.writeUnaligned(ctx, p, off, flags); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *Client) writeWhole(ctx context.Context, p []byte, off int64, flags uint16) error {
	return split(ctx, off, int64(len(p)), c.info.MaxPayload, func(ctx context.Context, at, n int64) error {
		return c.exchange(ctx, &exchange{
			req:  request{cmd: cmdWrite, flags: flags, offset: uint64(at), length: uint32(n)},
			data: p[at-off:][:n],
		})
	})
}

// changeable refuses what the server would.
func (c *Client) changeable(op string, off, n int64) error {
	switch {
	case c.info.ReadOnly:
		return c.failed(op, off, n, EPERM)
	case off < 0 || n < 0:
		return c.failed(op, off, n, EINVAL)
	case off > c.info.Size || n > c.info.Size-off:
		return c.failed(op, off, n, fmt.Errorf("the export ends at %d: %w", c.info.Size, ENOSPC))
	}
	return nil
}

// inside checks a range that is only asked about.
func (c *Client) inside(op string, off, n int64) error {
	if off < 0 || n < 0 || off > c.info.Size || n > c.info.Size-off {
		return c.failed(op, off, n, fmt.Errorf("the export ends at %d: %w", c.info.Size, EINVAL))
	}
	return nil
}

func (c *Client) unsupported(op string, off, n int64) error {
	return c.failed(op, off, n, fmt.Errorf("the server does not offer it: %w", errors.ErrUnsupported))
}

// Flush makes durable what every write, trim and zeroing did that returned
// before it was called, on whichever connection. Of those that were cancelled it
// waits for the server's answer first: none of them happens after Flush returns.
func (c *Client) Flush(ctx context.Context) error {
	if !c.info.CanFlush {
		return c.unsupported("flush", 0, 0)
	}
	return c.exchange(ctx, &exchange{req: request{cmd: cmdFlush}})
}

// Trim tells the server that the range is not needed. What it reads as
// afterwards is the server's choice. Parts of blocks are left as they are.
func (c *Client) Trim(ctx context.Context, off, n int64) error {
	if err := c.changeable("trim", off, n); err != nil {
		return err
	}
	if !c.info.CanTrim {
		return c.unsupported("trim", off, n)
	}
	from, to := c.inner(off, n)
	return c.control(ctx, cmdTrim, from, to-from)
}

// Zero makes the range read as zeros, without sending them. The server may give
// its space back. A server without WRITE_ZEROES is errors.ErrUnsupported, and
// nothing has changed then.
func (c *Client) Zero(ctx context.Context, off, n int64) error {
	if err := c.changeable("zero", off, n); err != nil {
		return err
	}
	if !c.info.CanZero {
		return c.unsupported("zero", off, n)
	}
	return c.zeroUnaligned(ctx, off, n)
}

// Prefetch tells the server that the range will be read soon.
func (c *Client) Prefetch(ctx context.Context, off, n int64) error {
	if err := c.inside("cache", off, n); err != nil {
		return err
	}
	if !c.info.CanCache {
		return c.unsupported("cache", off, n)
	}
	from, to := c.outer(off, n)
	return c.control(ctx, cmdCache, from, to-from)
}

// control sends a request without data, in parts.
func (c *Client) control(ctx context.Context, cmd uint16, off, n int64) error {
	if n <= 0 {
		return nil
	}
	return split(ctx, off, n, maxRange, func(ctx context.Context, off, n int64) error {
		return c.exchange(ctx, &exchange{req: request{cmd: cmd, offset: uint64(off), length: uint32(n)}})
	})
}

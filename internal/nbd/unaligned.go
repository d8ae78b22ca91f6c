package nbd

import "context"

// Servers may demand that requests are aligned to Info.MinBlock (VDDK's unit is
// the sector). What callers ask for is aligned here: reads are widened, writes
// of parts of blocks read the rest of the block first.

// inner is the largest range of whole blocks inside [off, off+n); to < from if
// there is none.
func (c *Client) inner(off, n int64) (from, to int64) {
	m := c.info.MinBlock
	from, to = off+m-1-(off+m-1)%m, (off+n)/m*m
	if off+n == c.info.Size {
		to = off + n // a last block that isn't whole
	}
	return from, to
}

// outer is the smallest range of whole blocks around [off, off+n).
func (c *Client) outer(off, n int64) (from, to int64) {
	m := c.info.MinBlock
	end := off + n
	return off / m * m, min(end+m-1-(end+m-1)%m, c.info.Size)
}

// pieces calls whole for the blocks that lie inside, and part for what is cut at
// either side: block is where its block begins, and how long that is.
func (c *Client) pieces(off, n int64, whole func(off, n int64) error, part func(off, n, block, size int64) error) error {
	from, to := c.inner(off, n)
	if from == off && to == off+n {
		return whole(off, n)
	}
	cut := func(off, n int64) error {
		lo, hi := c.outer(off, n)
		return part(off, n, lo, hi-lo)
	}
	if from > to { // inside one block
		return cut(off, n)
	}
	if from > off {
		if err := cut(off, from-off); err != nil {
			return err
		}
	}
	if to > from {
		if err := whole(from, to-from); err != nil {
			return err
		}
	}
	if to < off+n {
		return cut(to, off+n-to)
	}
	return nil
}

func (c *Client) readUnaligned(ctx context.Context, p []byte, off int64) error {
	return c.pieces(off, int64(len(p)),
		func(at, n int64) error { return c.readWhole(ctx, p[at-off:][:n], at) },
		func(at, n, block, size int64) error {
			b := make([]byte, size)
			if err := c.readWhole(ctx, b, block); err != nil {
				return err
			}
			copy(p[at-off:][:n], b[at-block:])
			return nil
		})
}

func (c *Client) writeUnaligned(ctx context.Context, p []byte, off int64, flags uint16) error {
	return c.pieces(off, int64(len(p)),
		func(at, n int64) error { return c.writeWhole(ctx, p[at-off:][:n], at, flags) },
		func(at, n, block, size int64) error {
			return c.patch(ctx, block, size, flags, func(b []byte) { copy(b[at-block:][:n], p[at-off:]) })
		})
}

func (c *Client) zeroUnaligned(ctx context.Context, off, n int64) error {
	if n == 0 {
		return nil
	}
	return c.pieces(off, n,
		func(at, n int64) error { return c.control(ctx, cmdWriteZeros, at, n) },
		func(at, n, block, size int64) error {
			return c.patch(ctx, block, size, 0, func(b []byte) { clear(b[at-block:][:n]) })
		})
}

// patch changes a part of one block. Callers that write different bytes of the
// same block at once don't undo each other: only one patches at a time, and
// who writes the whole block writes the same bytes, which is a race of theirs.
func (c *Client) patch(ctx context.Context, block, size int64, flags uint16, change func([]byte)) error {
	select {
	case c.edge <- struct{}{}:
		defer func() { <-c.edge }()
	case <-ctx.Done():
		return c.failed("write", block, size, ctx.Err())
	}
	b := make([]byte, size)
	if err := c.readWhole(ctx, b, block); err != nil {
		return err
	}
	change(b)
	return c.writeWhole(ctx, b, block, flags)
}

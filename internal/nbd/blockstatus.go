package nbd

import (
	"context"
	"iter"
	"slices"
)

// ContextAllocation is the metadata context that says what is allocated and what
// reads as zeros; every Client asks for it.
const ContextAllocation = contextAllocation

// DirtyBitmap names the metadata context of a bitmap that qemu exports; its
// flags are [FlagDirty].
func DirtyBitmap(name string) string { return "qemu:dirty-bitmap:" + name }

// The flags of [Status]; which of them mean something depends on the context.
const (
	FlagHole uint32 = stateHole // base:allocation: takes no space
	FlagZero uint32 = stateZero // base:allocation: reads as zeros
	// FlagDirty, of qemu:dirty-bitmap: was changed since the bitmap began.
	FlagDirty uint32 = 1 << 0
)

// Status is what a context says of [Off, Off+Len), in bytes.
type Status struct {
	Off, Len int64
	Flags    uint32
}

// statusAtOnce is how much one BLOCK_STATUS asks about.
const statusAtOnce = maxRange

// BlockStatus yields what a negotiated context says of [off, off+n): ascending,
// gapless, clipped to the range; neighbours may have the same flags. It asks the
// server as it goes, so what is written meanwhile may or may not show. An error
// ends the sequence: ErrNoContext for a context that was not negotiated.
func (c *Client) BlockStatus(ctx context.Context, off, n int64, context string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		err := c.inside("block status", off, n)
		if err == nil && !slices.Contains(c.info.Contexts, context) {
			err = c.failed("block status", off, n, ErrNoContext)
		}
		if err != nil {
			yield(Status{}, err)
			return
		}
		end := off + n
		lo, hi := c.outer(off, n)
		for at := lo; at < end; {
			x := exchange{
				req:     request{cmd: cmdBlockStatus, offset: uint64(at), length: uint32(min(statusAtOnce, hi-at))},
				context: context,
			}
			if err := c.exchange(ctx, &x); err != nil {
				yield(Status{}, err)
				return
			}
			stop := at + int64(x.req.length) // the last one may reach beyond
			for _, d := range x.status {
				from, to := max(at, off), min(at+int64(d.length), stop, end)
				if at += int64(d.length); to > from && !yield(Status{from, to - from, d.status}, nil) {
					return
				}
				if at >= stop {
					at = stop
					break
				}
			}
		}
	}
}

// Extents yields the export's map, from base:allocation. A server that has no
// map is one extent of data.
func (c *Client) Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if !slices.Contains(c.info.Contexts, ContextAllocation) {
			if err := c.inside("block status", off, n); err != nil {
				yield(Extent{}, err)
			} else if n > 0 {
				yield(Extent{Off: off, Len: n}, nil)
			}
			return
		}
		for s, err := range c.BlockStatus(ctx, off, n, ContextAllocation) {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if !yield(Extent{s.Off, s.Len, s.Flags&FlagHole != 0, s.Flags&FlagZero != 0}, nil) {
				return
			}
		}
	}
}

package remote

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// maxBlocks is how many blocks one call sums: 64 MiB of the disk, which a host
// reads in less than a second.
const maxBlocks = 1 << 10

// readAt is one Read.
func (w *wire) readAt(ctx context.Context, handle uint64, disk dr.DiskID, p []byte, off int64) (int, error) {
	var b [64]byte
	c, err := w.begin(ctx, agentwire.OpRead, handle, p, agentwire.Span{Off: off, N: int64(len(p)), Disk: disk}.Append(b[:0]))
	if err != nil {
		return 0, err
	}
	err = c.wait(ctx)
	select {
	case <-c.done:
		return c.got, err
	default:
		return 0, err
	}
}

// writeAt is one Write.
func (w *wire) writeAt(ctx context.Context, handle uint64, disk dr.DiskID, p []byte, off int64) error {
	var b [128]byte
	head := agentwire.Span{Off: off, N: int64(len(p)), Disk: disk}.Append(b[:0])
	head, parts := agentwire.Runs(head, p, w.runs, make([][]byte, 1, 4))
	parts[0] = head
	c, err := w.begin(ctx, agentwire.OpWrite, handle, nil, parts...)
	if err != nil {
		return err
	}
	return c.wait(ctx)
}

// span makes a bulk call that has no body, and returns its answer.
func (w *wire) span(ctx context.Context, op agentwire.Op, handle uint64, s agentwire.Span) ([]byte, error) {
	c, err := w.begin(ctx, op, handle, nil, s.Append(nil))
	if err == nil {
		err = c.wait(ctx)
	}
	if err != nil {
		return nil, err
	}
	return c.answer, nil
}

// sums asks for block sums, in several calls if there are many.
func (w *wire) sums(ctx context.Context, handle uint64, disk dr.DiskID, off int64, sums []dr.Sum) error {
	for first := true; first || len(sums) > 0; first = false {
		part := sums[:min(len(sums), maxBlocks)]
		b, err := w.span(ctx, agentwire.OpSums, handle, agentwire.Span{Off: off, N: int64(len(part)), Disk: disk})
		if err != nil {
			return err
		}
		if len(b) != len(part)*len(dr.Sum{}) {
			return fmt.Errorf("%w: %d bytes for %d sums", agentwire.ErrProtocol, len(b), len(part))
		}
		for i := range part {
			copy(part[i][:], b[i*len(dr.Sum{}):])
		}
		sums, off = sums[len(part):], off+int64(len(part))*dr.SumBlock
	}
	return nil
}

func (w *wire) packed(ctx context.Context, handle uint64, disk dr.DiskID, off int64, sizes []int32) error {
	for first := true; first || len(sizes) > 0; first = false {
		part := sizes[:min(len(sizes), maxBlocks)]
		b, err := w.span(ctx, agentwire.OpPacked, handle, agentwire.Span{Off: off, N: int64(len(part)), Disk: disk})
		if err != nil {
			return err
		}
		if len(b) != 4*len(part) {
			return fmt.Errorf("%w: %d bytes for %d sizes", agentwire.ErrProtocol, len(b), len(part))
		}
		for i := range part {
			part[i] = int32(binary.BigEndian.Uint32(b[4*i:]))
		}
		sizes, off = sizes[len(part):], off+int64(len(part))*dr.SumBlock
	}
	return nil
}

// pieces does with parts of p, none longer than a call carries and four at once,
// what f does with one. It returns how many bytes are done without a gap, and the
// error behind them.
func pieces(p []byte, off int64, f func(p []byte, off int64) (int, error)) (int, error) {
	if len(p) <= agentwire.MaxBulk {
		return f(p, off)
	}
	type piece struct {
		n   int
		err error
	}
	count := (len(p) + agentwire.MaxBulk - 1) / agentwire.MaxBulk
	done := make([]piece, count)
	cut := func(k int) []byte { return p[k*agentwire.MaxBulk : min((k+1)*agentwire.MaxBulk, len(p))] }
	var wg sync.WaitGroup
	var mu sync.Mutex
	next, failed := 0, false
	for range min(4, count) {
		wg.Go(func() {
			for {
				mu.Lock()
				k := next
				next++
				stop := failed || k >= count
				mu.Unlock()
				if stop {
					return
				}
				done[k].n, done[k].err = f(cut(k), off+int64(k)*agentwire.MaxBulk)
				if done[k].err != nil {
					mu.Lock()
					failed = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	all := 0
	for k := range done {
		all += done[k].n
		if done[k].err != nil || done[k].n < len(cut(k)) {
			return all, done[k].err
		}
	}
	return all, nil
}

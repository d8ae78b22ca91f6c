package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
)

// Errors of overlays that callers can act on; each is wrapped with details.
var (
	// ErrOtherBase says that the file holds an overlay above another base.
	ErrOtherBase = errors.New("nbd: overlay belongs to another base")
	// ErrNotOverlay says that the file holds something that is not an overlay,
	// or one that is damaged.
	ErrNotOverlay = errors.New("nbd: not an overlay")
)

// File is where an overlay is kept; *os.File satisfies it. Bytes that were
// never written read as zeros or as the end of the file. If it also has a
// method PunchHole(off, n int64) error, zeroed ranges are given to it, so that
// they take no space; on Linux an *os.File is punched without one.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

type puncher interface {
	PunchHole(off, n int64) error
}

// OverlayOptions says where an overlay is kept.
type OverlayOptions struct {
	// File keeps the overlay. It must be empty, or hold an overlay above the
	// same base, which is then continued. It must not be shared, and stays the
	// caller's to close after the last call. Nil keeps the overlay in memory.
	File File
	// Identity names the base's exact content, for example by a recovery
	// point's ID and the disk's; at most 2,048 bytes. A file whose overlay was
	// made with another identity is refused with ErrOtherBase, one made for
	// another size with ErrNotOverlay, for its header lies elsewhere: blocks
	// must not be laid over bytes that they do not fit.
	Identity string
	// MemoryLimit bounds an overlay in memory, in bytes of changed blocks and
	// one more block; writes beyond it fail with ENOSPC, and zeroing frees.
	// 0 means 1 GiB. Unused with a File.
	MemoryLimit int64
}

const (
	// overlayBlock is the granularity: 4 KiB, the block of most guests' file
	// systems, so that their writes need no reading of the base.
	overlayBlock = 4 << 10
	// overlayRegion is what one lock covers. The server cuts requests at the
	// same size, so that an operation takes one lock.
	overlayRegion = pieceSize
)

// Overlay is a writable Device above a base that is only read: blocks that were
// written or zeroed come from the overlay, all others from the base. Writes are
// durable after Flush; after a crash each block holds what the last Flush
// covered or something written to it later, as a disk's would. All methods may
// be called concurrently; overlapping writes land in some order.
type Overlay struct {
	base Device
	size int64
	file File
	// volatile: the file is memory, and there is nothing to make durable.
	volatile bool

	regions [64]sync.Mutex // serialises changes of blocks, striped by region
	states  stateMap

	flushing sync.Mutex
	broken   error // set by a failed Sync: what the kernel dropped is unknown
}

// OpenOverlay makes or continues an overlay above base, whose size and content
// must not change while overlays of it are in use. A new overlay is durable, in
// a file whose directory entry is, when OpenOverlay returns.
func OpenOverlay(base Device, o OverlayOptions) (*Overlay, error) {
	v := &Overlay{base: base, size: base.Size(), file: o.File, volatile: o.File == nil}
	if v.volatile {
		limit := o.MemoryLimit
		if limit == 0 {
			limit = 1 << 30
		}
		v.file = &memFile{limit: limit}
	}
	want := overlayHeader{size: v.size, identity: o.Identity}
	if err := openOverlayHeader(v.file, want); err != nil {
		return nil, err
	}
	v.states = newStateMap(v.file, v.size)
	return v, nil
}

// Size is the base's size.
func (v *Overlay) Size() int64 { return v.size }

// ReadAt implements Device.
func (v *Overlay) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off > v.size {
		return 0, fmt.Errorf("nbd: overlay: read at %d of %d bytes: %w", off, v.size, EINVAL)
	}
	whole := len(p)
	p = p[:min(int64(len(p)), v.size-off)]
	done := 0
	for done < len(p) {
		st, n, err := v.states.run(off+int64(done), int64(len(p)-done))
		if err != nil {
			return done, err
		}
		part := p[done:][:n]
		at := off + int64(done)
		switch st {
		case stateBase:
			if k, err := v.base.ReadAt(ctx, part, at); k < len(part) {
				return done + k, fmt.Errorf("nbd: overlay: base at %d: %w", at, noEOF(err))
			}
		case stateData:
			if k, err := v.file.ReadAt(part, at); k < len(part) {
				return done + k, fmt.Errorf("nbd: overlay: file at %d: %w", at, noEOF(err))
			}
		case stateZeroed:
			clear(part)
		}
		done += int(n)
	}
	if done < whole {
		return done, io.EOF
	}
	return done, nil
}

// noEOF makes an early end a failure: inside the size there is none.
func noEOF(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// WriteAt implements Writer. Blocks that are written in part are filled up from
// what they held before.
func (v *Overlay) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := v.inside(off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		at := off + int64(done)
		n := min(len(p)-done, int(overlayRegion-at%overlayRegion))
		if err := v.change(ctx, at, p[done:][:n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// change writes p within one region.
func (v *Overlay) change(ctx context.Context, off int64, p []byte) error {
	mu := v.lock(off)
	defer mu.Unlock()
	end := off + int64(len(p))
	from, to := off-off%overlayBlock, min(roundUp(end, overlayBlock), v.size)
	// The edges: where the block is not in the file yet, it becomes so whole.
	first := int(min(overlayBlock-off%overlayBlock, int64(len(p))))
	if off != from || first == len(p) && end != to {
		if err := v.fill(ctx, from, off, p[:first]); err != nil {
			return err
		}
		p, off = p[first:], off+int64(first)
	}
	if tail := end % overlayBlock; len(p) > 0 && end != to && tail != 0 {
		at := len(p) - int(tail)
		if err := v.fill(ctx, end-tail, end-tail, p[at:]); err != nil {
			return err
		}
		p = p[:at]
	}
	if len(p) > 0 {
		if _, err := v.file.WriteAt(p, off); err != nil {
			return fmt.Errorf("nbd: overlay: file at %d: %w", off, err)
		}
	}
	// Last: a reader, and a Flush, must not believe in bytes not yet there.
	return v.states.set(from, to, stateData)
}

// fill writes p at off into the block that begins at block, and what the block
// held around it if the file does not hold that already.
func (v *Overlay) fill(ctx context.Context, block, off int64, p []byte) error {
	st, _, err := v.states.run(block, 1)
	if err != nil {
		return err
	}
	if st != stateData {
		var buf [overlayBlock]byte
		b := buf[:min(overlayBlock, v.size-block)]
		if st == stateBase {
			if k, err := v.base.ReadAt(ctx, b, block); k < len(b) {
				return fmt.Errorf("nbd: overlay: base at %d: %w", block, noEOF(err))
			}
		}
		copy(b[off-block:], p)
		p, off = b, block
	}
	if _, err := v.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("nbd: overlay: file at %d: %w", off, err)
	}
	return nil
}

// Zero implements Zeroer: the range reads as zeros, without the base's bytes
// or space for zeros, save in blocks at its edges.
func (v *Overlay) Zero(ctx context.Context, off, n int64) error {
	if err := v.inside(off, n); err != nil {
		return err
	}
	end := off + n
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		stop := min(end, off-off%overlayRegion+overlayRegion)
		if err := v.zeroRegion(ctx, off, stop); err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// Trim implements Trimmer. A trimmed range reads as zeros: the base's old bytes
// must not come back.
func (v *Overlay) Trim(ctx context.Context, off, n int64) error { return v.Zero(ctx, off, n) }

func (v *Overlay) zeroRegion(ctx context.Context, off, end int64) error {
	from, to := roundUp(off, overlayBlock), end-end%overlayBlock
	if end == v.size {
		to = end // the last block may be short
	}
	if from >= to {
		return v.change(ctx, off, zeros[:end-off])
	}
	if off < from {
		if err := v.change(ctx, off, zeros[:from-off]); err != nil {
			return err
		}
	}
	if to < end {
		if err := v.change(ctx, to, zeros[:end-to]); err != nil {
			return err
		}
	}
	mu := v.lock(from)
	defer mu.Unlock()
	if err := v.states.set(from, to, stateZeroed); err != nil {
		return err
	}
	// Space is given back at once. Should a crash undo the state, the blocks
	// read as zeros all the same: what an unflushed zeroing may leave.
	return punch(v.file, from, to-from)
}

// Flush implements Flusher: data first, then the states that point to it.
// Once syncing has failed the overlay can't be made durable any more, since the
// system may have dropped what it failed to write; every later Flush fails.
func (v *Overlay) Flush(context.Context) error {
	if v.volatile {
		return nil
	}
	v.flushing.Lock()
	defer v.flushing.Unlock()
	if v.broken != nil {
		return v.broken
	}
	// States taken before the sync belong to data written before it.
	dirty := v.states.takeDirty()
	if err := v.flush(dirty); err != nil {
		v.broken = fmt.Errorf("nbd: overlay can't be made durable; changes since its last flush are in doubt: %w", err)
		return v.broken
	}
	return nil
}

func (v *Overlay) flush(dirty []dirtyPage) error {
	if err := v.file.Sync(); err != nil {
		return fmt.Errorf("syncing data: %w", err)
	}
	if len(dirty) == 0 {
		return nil
	}
	for i := range dirty {
		d := &dirty[i]
		if _, err := v.file.WriteAt(d.bits[:], v.states.offset(d.index)); err != nil {
			return fmt.Errorf("writing the states of page %d: %w", d.index, err)
		}
	}
	if err := v.file.Sync(); err != nil {
		return fmt.Errorf("syncing states: %w", err)
	}
	return nil
}

// Extents implements Mapper, with the base's own map where the base shows.
func (v *Overlay) Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	below := newTarget(Export{Device: v.base, ReadOnly: true})
	return func(yield func(Extent, error) bool) {
		pos, end := max(off, 0), min(off+n, v.size)
		for pos < end {
			st, k, err := v.states.run(pos, end-pos)
			if err != nil {
				yield(Extent{Off: pos, Len: end - pos}, err)
				return
			}
			switch st {
			case stateBase:
				for e, err := range below.extents(ctx, pos, k) {
					if !yield(e, err) || err != nil {
						return
					}
				}
			default:
				zero := st == stateZeroed
				if !yield(Extent{Off: pos, Len: k, Hole: zero, Zero: zero}, nil) {
					return
				}
			}
			pos += k
		}
	}
}

// Changed yields what differs, or may differ, from the base: the blocks that
// were written or zeroed, ascending, in whole blocks. It is what has to travel
// when a point that ran from an overlay becomes a new point.
func (v *Overlay) Changed(ctx context.Context) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for pos := int64(0); pos < v.size; {
			if err := ctx.Err(); err != nil {
				yield(Extent{Off: pos, Len: v.size - pos}, err)
				return
			}
			st, k, err := v.states.run(pos, v.size-pos)
			if err != nil {
				yield(Extent{Off: pos, Len: v.size - pos}, err)
				return
			}
			zero := st == stateZeroed
			if st != stateBase && !yield(Extent{Off: pos, Len: k, Hole: zero, Zero: zero}, nil) {
				return
			}
			pos += k
		}
	}
}

func (v *Overlay) inside(off, n int64) error {
	if off < 0 || n < 0 || off > v.size || n > v.size-off {
		return fmt.Errorf("nbd: overlay: %d bytes at %d reach beyond its %d: %w", n, off, v.size, ENOSPC)
	}
	return nil
}

func (v *Overlay) lock(off int64) *sync.Mutex {
	mu := &v.regions[off/overlayRegion%int64(len(v.regions))]
	mu.Lock()
	return mu
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

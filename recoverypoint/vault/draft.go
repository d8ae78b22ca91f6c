package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// draft is a new point being written. Chunks are compressed on the goroutine
// that brings them, and appended to the draft's log.
type draft struct {
	store   *Store
	ctx     context.Context // outlives Create's
	point   dr.Point
	session sessionID
	resumed map[sessionID]bool // of earlier processes
	data    *logWriter
	maps    *mapset
	pieces  pieces

	mu     sync.Mutex
	state  draftState
	pins   []io.Closer
	leave  func() // the writer lock
	unbusy func() // the machine
}

type draftState int

const (
	draftOpen draftState = iota
	draftCommitted
	draftClosed
)

var (
	_ dr.Zeroer  = (*draft)(nil)
	_ dr.Summer  = (*draft)(nil)
	_ dr.Resumer = (*draft)(nil)
)

func (d *draft) fail(op string, disk dr.DiskID, off int64, err error) error {
	var known *dr.Error
	if errors.As(err, &known) {
		return err
	}
	return readError(op, d.point.Machine.ID, d.point.ID, disk, off, err)
}

// begin checks a request and finds its disk.
func (d *draft) begin(ctx context.Context, op string, disk dr.DiskID, off, n int64) (*diskMap, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	state := d.state
	d.mu.Unlock()
	if state != draftOpen {
		return nil, d.fail(op, disk, off, fmt.Errorf("%w: the draft is committed or closed", dr.ErrInvalid))
	}
	for _, m := range d.maps.disks {
		if m.id != disk {
			continue
		}
		if off < 0 || n < 0 || off > m.size || n > m.size-off {
			return nil, d.fail(op, disk, off, fmt.Errorf("%w: %d bytes, and the disk has %d", dr.ErrOutOfRange, n, m.size))
		}
		return m, nil
	}
	return nil, d.fail(op, disk, off, fmt.Errorf("%w: the point has no such disk", dr.ErrNotFound))
}

func (d *draft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	m, err := d.begin(ctx, "write", disk, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		chunk := at / chunkSize
		in := int(at % chunkSize)
		size := chunkLen(m.size, chunk)
		n := min(len(p)-done, size-in)
		if n < size {
			err = d.pieces.write(ctx, d, m, chunk, in, p[done:done+n])
		} else {
			n = wholeChunks(m.size, chunk, len(p)-done)
			for c := chunk; d.pieces.any() && c*chunkSize < at+int64(n); c++ {
				d.pieces.drop(d, m, c)
			}
			err = d.put(ctx, m, chunk, p[done:done+n], true)
		}
		if err != nil {
			return done, d.fail("write", disk, at, err)
		}
		done += n
	}
	return done, nil
}

// maxBatch bounds the chunks that are stored in one row.
const maxBatch = 16

// wholeChunks is how many of n bytes from a chunk on make whole chunks, at
// most a batch of them. The disk's last chunk may be short, and whole.
func wholeChunks(size, chunk int64, n int) int {
	n = min(n, maxBatch*chunkSize)
	if chunk*chunkSize+int64(n) == size {
		return n
	}
	return n &^ (chunkSize - 1)
}

// put makes p the content of the chunks from one on, of which there are
// maxBatch at most. What they hold already is not stored again. The others are
// packed first and then appended in one row: neighbours on the disk are
// neighbours in the segment, and are read back at once. whole says that none
// of it is the parent's.
//
// It must not be called with a packer in hand, and whoever has one must not
// wait for the pieces: those who hold these wait for packers.
func (d *draft) put(ctx context.Context, m *diskMap, chunk int64, p []byte, whole bool) error {
	var row [maxBatch]blob
	n := 0
	for ; len(p) > 0; chunk++ {
		size := min(len(p), chunkSize)
		b := blob{entry: entry{chunk: chunk, disk: m.index, level: -1}, sum: blocksum.Sum(p[:size]), bytes: p[:size]}
		if whole {
			b.flags = entryWhole
		}
		p = p[size:]
		old, err := d.maps.get(ctx, m, chunk)
		if err != nil {
			return err
		}
		switch {
		case b.sum == old.sum:
		case b.sum.IsZero():
			if err := d.putZero(ctx, m, b.entry, old); err != nil {
				return err
			}
		default:
			row[n] = b
			n++
		}
	}
	if n == 0 {
		return nil
	}
	k := d.store.packers.get()
	defer d.store.packers.put(k)
	k.pack(d.store.codec, row[:n])
	if err := d.data.append(row[:n]); err != nil {
		return err
	}
	for _, b := range row[:n] {
		if err := d.maps.set(ctx, m, b.chunk, b.ref); err != nil {
			return err
		}
	}
	return nil
}

func (d *draft) putZero(ctx context.Context, m *diskMap, e entry, old ref) error {
	if d.ours(old.seg.session()) {
		// A resumed draft must not take the older content for the last.
		if err := d.data.note(e); err != nil {
			return err
		}
	}
	return d.maps.set(ctx, m, e.chunk, ref{})
}

// ours tells whether a segment was written by this draft, in this process or
// an earlier one.
func (d *draft) ours(id sessionID) bool { return id == d.session || d.resumed[id] }

// base reads a chunk as the draft has it now.
func (d *draft) base(ctx context.Context, m *diskMap, chunk int64, p []byte) error {
	r, err := d.maps.get(ctx, m, chunk)
	if err != nil {
		return err
	}
	if !r.isZero() {
		if err := d.data.settle(r.seg); err != nil {
			return err
		}
	}
	return d.store.chunk(ctx, &r, p)
}

// Zero costs no bytes.
func (d *draft) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	m, err := d.begin(ctx, "zero", disk, off, n)
	if err != nil {
		return err
	}
	for end := off + n; off < end; {
		chunk := off / chunkSize
		in := int(off % chunkSize)
		size := chunkLen(m.size, chunk)
		k := int(min(end-off, int64(size-in)))
		if k < size {
			tmp := d.store.blocks.Get()
			clear(tmp[:k])
			err = d.pieces.write(ctx, d, m, chunk, in, tmp[:k])
			d.store.blocks.Put(tmp)
			off += int64(k)
		} else {
			off, err = d.zeroChunks(ctx, m, chunk, end)
		}
		if err != nil {
			return d.fail("zero", disk, off, err)
		}
	}
	return nil
}

// zeroChunks zeroes whole chunks from one on, up to the end of its leaf or of
// the range, and returns where it stopped. What is zero already is passed over
// a leaf at a time.
func (d *draft) zeroChunks(ctx context.Context, m *diskMap, chunk, end int64) (int64, error) {
	last := chunk&^(pageRefs-1) + pageRefs // first chunk of the next leaf
	if whole := end / chunkSize; end < m.size {
		last = min(last, whole)
	}
	last = min(last, chunks(m.size))
	var full []int64
	err := d.maps.view(ctx, m, chunk, last, func(refs []ref) {
		for i := range refs {
			if !refs[i].isZero() {
				full = append(full, chunk+int64(i))
			}
		}
	})
	for c := chunk; err == nil && d.pieces.any() && c < last; c++ {
		d.pieces.drop(d, m, c)
	}
	for _, c := range full {
		if err != nil {
			break
		}
		err = d.put(ctx, m, c, zeroChunk[:chunkLen(m.size, c)], true)
	}
	return min(last*chunkSize, m.size), err
}

var zeroChunk [chunkSize]byte

// Sums sums the draft as it is now, from its maps.
func (d *draft) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	m, err := d.begin(ctx, "sum", disk, 0, 0)
	if err != nil {
		return err
	}
	if err := checkSums(m.size, off, len(sums)); err != nil {
		return d.fail("sum", disk, off, err)
	}
	if err := d.pieces.flush(ctx, d); err != nil {
		return d.fail("sum", disk, off, err)
	}
	for len(sums) > 0 {
		chunk := off / chunkSize
		n := min(int64(len(sums)), pageRefs-int64(slot(chunk, 0)))
		err := d.maps.view(ctx, m, chunk, chunk+n, func(refs []ref) {
			for i := range refs {
				sums[i] = refs[i].sum
			}
		})
		if err != nil {
			return d.fail("sum", disk, off, err)
		}
		sums, off = sums[n:], off+n*chunkSize
	}
	return nil
}

// Durable yields what earlier processes stored of this draft. Chunks that they
// found to be zero or equal to the parent's are not told: they cost little to
// find again.
func (d *draft) Durable(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		m, err := d.begin(ctx, "resume", disk, 0, 0)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		if len(d.resumed) == 0 {
			return
		}
		out := merger{size: m.size, yield: yield}
		var refs [pageRefs]ref
		for leaf, err := range d.maps.leaves(ctx, m, d.ours) {
			if err == nil {
				err = ctx.Err()
			}
			n := 0
			if err == nil {
				err = d.maps.view(ctx, m, leaf[0], leaf[0]+leaf[1], func(r []ref) { n = copy(refs[:], r) })
			}
			for i := range refs[:n] {
				if err == nil && d.resumed[refs[i].seg.session()] {
					err = out.emit(leaf[0]+int64(i), 1, false)
				}
			}
			if err != nil {
				out.end(err, func(err error) { yield(dr.Extent{}, d.fail("resume", disk, -1, err)) })
				return
			}
		}
		out.end(nil, nil)
	}
}

// Close keeps what was received durable, so that Create of the same moment
// goes on from there.
func (d *draft) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == draftClosed {
		return nil
	}
	var err error
	if d.state == draftOpen {
		err = errors.Join(d.pieces.flush(d.ctx, d), d.data.seal(), d.maps.log.seal())
		if err != nil {
			err = d.fail("close", "", -1, err)
		}
	}
	d.state = draftClosed
	for _, p := range d.pins {
		err = errors.Join(err, p.Close())
	}
	d.unbusy()
	d.leave()
	return err
}

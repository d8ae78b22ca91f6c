package vault

import (
	"context"
	"crypto/cipher"
	"encoding/binary"
	"hash/crc32"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// partSize is what is written at once: the smallest request at which
	// direct I/O reached the disk's full rate.
	partSize = 1 << 20
	// maxParts bounds the parts of one log that wait for the disk.
	maxParts = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// logWriter appends blobs to a session's segments. Order is kept: a segment
// holds what was appended after the one before it. All methods are safe for
// concurrent use, except that seal must not run together with append.
type logWriter struct {
	ctx     context.Context // of the draft: outlives any one call
	store   *Store
	owner   owner
	session sessionID
	next    uint32 // number of the next segment
	names   int    // bytes that the owner takes in each footer

	slots chan struct{} // parts in flight
	work  sync.WaitGroup

	mu         sync.Mutex
	cur        *openSegment
	sealed     []byte        // scratch
	committing chan struct{} // closed when the segment before is committed

	failMu  sync.Mutex // alone: whoever holds mu may wait for a part that fails
	failure error      // the first; nothing can be appended after it
}

// openSegment is the segment being written.
type openSegment struct {
	id    segID
	w     Writer
	aead  cipher.AEAD // nil: not encrypted
	part  []byte      // the part being filled, from the pool
	start int         // of part in the segment
	fill  int         // bytes used of part
	foot  footer
	parts sync.WaitGroup
}

func (s *Store) newLog(ctx context.Context, o owner, session sessionID, first uint32) *logWriter {
	return &logWriter{ctx: context.WithoutCancel(ctx), store: s, owner: o, session: session, next: first, slots: make(chan struct{}, maxParts),
		names: len(appendFooterBody(nil, &footer{owner: o})) + s.keys.overhead()}
}

// fail remembers the first failure and returns it.
func (w *logWriter) fail(err error) error {
	w.failMu.Lock()
	defer w.failMu.Unlock()
	if w.failure == nil {
		w.failure = &dr.Error{Op: "write segment", Side: dr.StoreSide, Machine: w.owner.machine, Point: w.owner.point, Err: err,
			Remedy: "what was committed before is whole; make room or mend the storage, then run it again: it resumes"}
	}
	return w.failure
}

func (w *logWriter) failed() error {
	w.failMu.Lock()
	defer w.failMu.Unlock()
	return w.failure
}

func (w *logWriter) begin() error {
	var id segID
	copy(id[:], w.session[:])
	binary.BigEndian.PutUint32(id[12:], w.next)
	w.next++
	ow, err := w.store.bucket.Create(w.ctx, segmentName(id, 0))
	if err != nil {
		return err
	}
	seg := &openSegment{id: id, w: ow, part: w.store.parts.Get(), foot: footer{owner: w.owner}}
	if w.store.keys != nil {
		seg.aead = w.store.keys.aead("segment", id[:])
	}
	seg.fill = copy(seg.part, w.store.keys.segmentHeader(id, 0))
	w.cur = seg
	return nil
}

// blob is what is to be appended, with its line in the footer.
type blob struct {
	entry
	sum   dr.Sum // of the plain bytes
	codec Codec
	bytes []byte
}

// append stores blobs one behind the other and fills in their places and refs.
// The bytes are copied.
func (w *logWriter) append(row []blob) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range row {
		if err := w.failed(); err != nil {
			return err
		}
		if err := w.store1(&row[i]); err != nil {
			return err
		}
	}
	return w.failed()
}

// store1 stores one; w.mu is held.
func (w *logWriter) store1(b *blob) error {
	size := len(b.bytes) + w.store.keys.overhead()
	if w.cur != nil && !w.cur.fits(size+w.names, w.store.segSize) {
		w.endSegment()
	}
	if w.cur == nil {
		if err := w.begin(); err != nil {
			return w.fail(err)
		}
	}
	c := w.cur
	off := c.start + c.fill
	stored := b.bytes
	if c.aead != nil {
		// Sealed aside, because a blob may span two parts.
		w.sealed = c.aead.Seal(w.sealed[:0], nonce(uint32(off)), stored, nil)
		stored = w.sealed
	}
	b.phys, b.crc = uint32(off), crc32.Checksum(stored, castagnoli)
	b.ref = ref{seg: c.id, off: uint32(off), len: makeCodecLen(b.codec, len(stored)), sum: b.sum}
	w.put(stored)
	c.foot.entries = append(c.foot.entries, b.entry)
	return nil
}

// note writes a line without a blob: a chunk of this draft turned to zeros.
func (w *logWriter) note(e entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failed(); err != nil {
		return err
	}
	if w.cur != nil && !w.cur.fits(w.names, w.store.segSize) {
		w.endSegment()
	}
	if w.cur == nil {
		if err := w.begin(); err != nil {
			return w.fail(err)
		}
	}
	e.flags |= entryZero
	w.cur.foot.entries = append(w.cur.foot.entries, e)
	return nil
}

// fits tells whether so many more bytes leave room for the footer's entries.
func (c *openSegment) fits(size, limit int) bool {
	n := len(c.foot.entries) + 1
	return n <= maxEntries && c.start+c.fill+size+n*entrySize+segmentTrailer+segmentAlign <= limit
}

// put copies bytes into parts, and sends those that are full on their way.
func (w *logWriter) put(b []byte) {
	c := w.cur
	for len(b) > 0 {
		n := copy(c.part[c.fill:], b)
		b = b[n:]
		if c.fill += n; c.fill == len(c.part) {
			w.flush(c.fill)
			c.part, c.fill = w.store.parts.Get(), 0
		}
	}
}

// flush writes the current part in the background; w.mu is held. It waits
// while maxParts are on their way: that is what bounds memory.
func (w *logWriter) flush(n int) {
	c, part, at := w.cur, w.cur.part, w.cur.start
	c.start += n
	w.slots <- struct{}{}
	c.parts.Add(1)
	w.work.Add(1)
	go func() {
		defer w.work.Done()
		_, err := c.w.WriteAt(part[:n], int64(at))
		w.store.parts.Put(part)
		if err != nil {
			w.fail(err)
		}
		<-w.slots
		c.parts.Done()
	}()
}

// endSegment writes the footer and commits the current segment in the
// background, after its parts; w.mu is held.
func (w *logWriter) endSegment() {
	c := w.cur
	tail := w.store.keys.appendFooter(nil, c.id, c.start+c.fill, &c.foot)
	w.put(tail)
	if c.fill > 0 {
		w.flush(c.fill)
	} else {
		w.store.parts.Put(c.part)
	}
	c.part = nil
	w.cur = nil
	prev := w.committing
	done := make(chan struct{})
	w.committing = done
	w.work.Add(1)
	go func() {
		defer w.work.Done()
		defer close(done)
		c.parts.Wait()
		if prev != nil {
			<-prev // in order: a resumed draft must not find gaps
		}
		if w.failed() != nil {
			c.w.Abort()
			return
		}
		if err := c.w.Commit(w.ctx); err != nil {
			w.fail(err)
		}
	}()
}

// seal ends the current segment and waits until everything appended is
// durable. After a failure it drops what isn't.
func (w *logWriter) seal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.cur; c != nil && w.failed() == nil {
		w.endSegment()
	} else if c != nil {
		c.parts.Wait()
		w.store.parts.Put(c.part)
		c.w.Abort()
		w.cur = nil
	}
	w.work.Wait()
	return w.failed()
}

// settle waits until a segment can be read, if it is one of this log; the
// current one is ended for that.
func (w *logWriter) settle(id segID) error {
	if id.session() != w.session {
		return nil
	}
	w.mu.Lock()
	if w.cur != nil && w.cur.id == id {
		w.endSegment()
	}
	done := w.committing
	w.mu.Unlock()
	if done != nil {
		// Segments are committed in order, so this one is among them.
		<-done
	}
	return w.failed()
}

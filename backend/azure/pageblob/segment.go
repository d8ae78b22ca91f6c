package pageblob

import (
	"bytes"
	"container/list"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// segmentSize is how much data a segment has, at most; maxSegment is what is
// believed when one is read.
const (
	segmentSize = 8 << 20
	maxSegment  = 64 << 20
	// maxRecords is how many writes a segment has.
	maxRecords = 1 << 15
)

// record is one write in a segment. The data of those that aren't zeros follow
// each other in the segment, in the same order.
type record struct {
	disk   int // its number among the draft's disks
	off, n int64
	zero   bool
}

// A segment is the data, the index and a footer: the lengths of both, 8 bytes
// each, the BLAKE3 sum of the data, that of the segment's name, the index and
// the footer up to there, and the magic. The index is the number of records,
// then for each the disk's number doubled, one more for zeros, its offset and
// its length, all of variable length.
const (
	segmentMagic  = "LBstage\x01"
	segmentFooter = 8 + 8 + 32 + 32 + len(segmentMagic)
)

// appendSegmentTail appends index and footer to a segment's data.
func appendSegmentTail(b []byte, name string, records []record) []byte {
	data := len(b)
	sum := blake3.Sum256(b)
	b = binary.AppendUvarint(b, uint64(len(records)))
	for _, r := range records {
		kind := uint64(r.disk) << 1
		if r.zero {
			kind |= 1
		}
		b = binary.AppendUvarint(b, kind)
		b = binary.AppendUvarint(b, uint64(r.off))
		b = binary.AppendUvarint(b, uint64(r.n))
	}
	index := len(b) - data
	b = binary.LittleEndian.AppendUint64(b, uint64(data))
	b = binary.LittleEndian.AppendUint64(b, uint64(index))
	b = append(b, sum[:]...)
	tail := tailSum(name, b[data:])
	b = append(b, tail[:]...)
	return append(b, segmentMagic...)
}

// tailSum is of a segment's name and of its index and footer up to the sum.
func tailSum(name string, tail []byte) [32]byte {
	h := blake3.New()
	h.WriteString(name + "\x00")
	h.Write(tail)
	return [32]byte(h.Sum(nil))
}

// footer is what a segment's last bytes tell.
type footer struct {
	data, index int64
	sum         [32]byte // of the data
}

// parseFooter reads the last segmentFooter bytes of a segment of that size.
func parseFooter(b []byte, size int64) (footer, bool) {
	if len(b) != segmentFooter || string(b[len(b)-len(segmentMagic):]) != segmentMagic {
		return footer{}, false
	}
	data, index := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	if data > maxSegment || index > maxSegment || int64(data+index)+int64(segmentFooter) != size {
		return footer{}, false
	}
	return footer{int64(data), int64(index), [32]byte(b[16:48])}, true
}

// parseTail reads index and footer, which the footer says are all of b, of a
// draft whose disks have those sizes.
func parseTail(b []byte, name string, f footer, sizes []int64) ([]record, bool) {
	if int64(len(b)) != f.index+int64(segmentFooter) {
		return nil, false
	}
	signed := len(b) - len(segmentMagic) - 32
	if tailSum(name, b[:signed]) != [32]byte(b[signed:signed+32]) {
		return nil, false
	}
	r := numbers{b: b[:f.index]}
	count := r.next(math.MaxInt32)
	if count > int64(len(r.b)/3) {
		return nil, false
	}
	records := make([]record, 0, count)
	data := int64(0)
	for range count {
		kind := r.next(math.MaxInt32)
		x := record{disk: int(kind >> 1), zero: kind&1 == 1}
		if x.disk >= len(sizes) {
			return nil, false
		}
		size := sizes[x.disk]
		x.off = r.next(size)
		x.n = r.next(size - x.off)
		if !x.zero {
			data += x.n
		}
		if r.bad || data > f.data {
			return nil, false
		}
		records = append(records, x)
	}
	return records, len(r.b) == 0 && data == f.data
}

// readTail reads what a segment says of itself, without its data.
func (s *Store) readTail(ctx context.Context, name string, size int64, sizes []int64) ([]record, error) {
	const guess = 64 << 10
	bad := func() error { return fmt.Errorf("%w: segment %s", dr.ErrCorrupt, name) }
	if size < int64(segmentFooter) || size > 2*maxSegment {
		return nil, bad()
	}
	c := s.c.NewBlobClient(name)
	b := make([]byte, min(size, guess))
	if err := readRange(ctx, c, b, size-int64(len(b))); err != nil {
		return nil, err
	}
	f, ok := parseFooter(b[len(b)-segmentFooter:], size)
	if !ok {
		return nil, bad()
	}
	if want := f.index + int64(segmentFooter); want > int64(len(b)) {
		b = make([]byte, want)
		if err := readRange(ctx, c, b, size-want); err != nil {
			return nil, err
		}
	} else {
		b = b[int64(len(b))-want:]
	}
	records, ok := parseTail(b, name, f, sizes)
	if !ok {
		return nil, bad()
	}
	return records, nil
}

// segmentCache reads segments as wholes, so that what is read was checked, and
// keeps the last ones: pieces that lie near each other on a disk were written
// near each other.
type segmentCache struct {
	s    *Store
	mu   sync.Mutex
	of   map[string]*list.Element // of *cachedSegment
	used list.List                // most recently used first
}

const cachedSegments = 12 // three for each of parallelDisks

type cachedSegment struct {
	name string
	done chan struct{}
	data []byte
	err  error
}

func newSegmentCache(s *Store) *segmentCache {
	return &segmentCache{s: s, of: map[string]*list.Element{}}
}

// read fills p from the segment's data.
func (c *segmentCache) read(ctx context.Context, name string, p []byte, at int64) error {
	for {
		c.mu.Lock()
		e, ok := c.of[name]
		if !ok {
			e = c.used.PushFront(&cachedSegment{name: name, done: make(chan struct{})})
			c.of[name] = e
			if c.used.Len() > cachedSegments {
				last := c.used.Back()
				delete(c.of, last.Value.(*cachedSegment).name)
				c.used.Remove(last)
			}
		}
		c.used.MoveToFront(e)
		c.mu.Unlock()
		seg := e.Value.(*cachedSegment)
		if !ok {
			seg.data, seg.err = c.s.readSegment(ctx, name)
			if seg.err != nil {
				c.forget(name, e)
			}
			close(seg.done)
		}
		select {
		case <-seg.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if seg.err != nil {
			if ok && ctx.Err() == nil && isContextEnd(seg.err) {
				continue // it was another's context that ended
			}
			return seg.err
		}
		if at < 0 || at+int64(len(p)) > int64(len(seg.data)) {
			return fmt.Errorf("%w: segment %s is too short", dr.ErrCorrupt, name)
		}
		copy(p, seg.data[at:])
		return nil
	}
}

func (c *segmentCache) forget(name string, e *list.Element) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[name] == e {
		delete(c.of, name)
		c.used.Remove(e)
	}
}

// readSegment returns a segment's data, checked.
func (s *Store) readSegment(ctx context.Context, name string) ([]byte, error) {
	b, _, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	bad := fmt.Errorf("%w: segment %s", dr.ErrCorrupt, name)
	if len(b) < segmentFooter {
		return nil, bad
	}
	f, ok := parseFooter(b[len(b)-segmentFooter:], int64(len(b)))
	if !ok {
		return nil, bad
	}
	signed := len(b) - len(segmentMagic) - 32
	if tailSum(name, b[f.data:signed]) != [32]byte(b[signed:signed+32]) {
		return nil, bad
	}
	sum := blake3.Sum256(b[:f.data])
	if !bytes.Equal(sum[:], f.sum[:]) {
		return nil, bad
	}
	return b[:f.data:f.data], nil
}

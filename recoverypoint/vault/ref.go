package vault

import (
	"encoding/hex"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// chunkSize is the granularity of everything: references, sums, changes.
const chunkSize = dr.SumBlock

// segID names a segment: 12 random bytes of the writing session, then the
// segment's number in it, big endian.
type segID [16]byte

func (id segID) session() sessionID { return sessionID(id[:12]) }

// sessionID names one process's work on one draft.
type sessionID [12]byte

func (id sessionID) String() string { return hex.EncodeToString(id[:]) }

// ref says where a chunk or a map page is. The zero ref stands for zeros: a
// chunk of them, or a page with nothing below.
type ref struct {
	seg segID
	off uint32 // logical: where it was in the segment's first generation
	len codecLen
	sum dr.Sum
}

// codecLen is the stored length in the lower 24 bits, and the codec above.
type codecLen uint32

func makeCodecLen(c Codec, n int) codecLen { return codecLen(c)<<24 | codecLen(n) }

func (l codecLen) codec() Codec { return Codec(l >> 24) }
func (l codecLen) stored() int  { return int(l & (1<<24 - 1)) }

func (r *ref) isZero() bool { return r.sum.IsZero() }

// follows reports whether r lies right behind q.
func (r *ref) follows(q *ref) bool {
	return r.seg == q.seg && r.off == q.off+uint32(q.len.stored())
}

func (r ref) String() string {
	return fmt.Sprintf("segment %x at %d", r.seg, r.off)
}

// Tree geometry: a page of level l refers to 512 of level l-1; pages of level
// 0 refer to chunks.
const (
	pageRefs = 512
	pageBits = 9
)

// chunks is the number of chunks of a disk.
func chunks(size int64) int64 { return (size + chunkSize - 1) / chunkSize }

// rootLevel is the level of the root page of a disk.
func rootLevel(size int64) int {
	level := 0
	for n := (chunks(size) - 1) >> pageBits; n > 0; n >>= pageBits {
		level++
	}
	return level
}

// chunkLen is the length of a disk's chunk, in bytes; the last may be shorter.
func chunkLen(size, chunk int64) int { return int(min(chunkSize, size-chunk*chunkSize)) }

// slot is the place of a chunk in its page of a level.
func slot(chunk int64, level int) int { return int(chunk>>(level*pageBits)) & (pageRefs - 1) }

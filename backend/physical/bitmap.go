package physical

import (
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// BitmapTracker is a [Tracker] for guests whose writes pass through this
// process: who writes calls Mark. It lives in memory; another process, or
// another BitmapTracker, knows none of its marks. It takes a bit for each
// block of written regions and wanted mark: 2 MiB a TiB at most with blocks of
// 64 KiB, for each mark.
type BitmapTracker struct {
	block   int64
	session string

	mu     sync.Mutex
	n      uint64
	epochs map[dr.MachineID][]epoch // oldest first
}

// epoch is the time from its mark to the next one.
type epoch struct {
	mark  dr.Cursor
	dirty map[dr.DiskID]bitmap
}

// bitmap has a bit for each block, in pages that exist once one of their bits
// is set.
type bitmap map[int64]*[pageWords]uint64

const (
	pageWords = 64
	pageBits  = 64 * pageWords
)

// NewBitmapTracker makes a tracker that tells blocks of blockSize bytes apart;
// 0: 64 KiB.
func NewBitmapTracker(blockSize int64) *BitmapTracker {
	if blockSize <= 0 {
		blockSize = 64 << 10
	}
	return &BitmapTracker{block: blockSize, session: rand.Text(), epochs: map[dr.MachineID][]epoch{}}
}

// Mark implements [Tracker]. Guests call it as drafts do: before the write and
// again after it, whether or not it succeeded.
func (t *BitmapTracker) Mark(m dr.MachineID, d dr.DiskID, off, n int64) {
	if n <= 0 || off < 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	es := t.epochs[m]
	if len(es) == 0 {
		return // nobody can ask for anything before the first mark
	}
	dirty := es[len(es)-1].dirty
	b := dirty[d]
	if b == nil {
		b = bitmap{}
		dirty[d] = b
	}
	for i, last := off/t.block, (off+n-1)/t.block; i <= last; i++ {
		page := b[i/pageBits]
		if page == nil {
			page = new([pageWords]uint64)
			b[i/pageBits] = page
		}
		page[i%pageBits/64] |= 1 << (i % 64)
	}
}

// Cut implements [Tracker].
func (t *BitmapTracker) Cut(_ context.Context, m dr.MachineID) (dr.Cursor, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	mark := dr.Cursor(fmt.Sprintf("%s.%d", t.session, t.n))
	t.epochs[m] = append(t.epochs[m], epoch{mark, map[dr.DiskID]bitmap{}})
	return mark, nil
}

// Since implements [Tracker]. It yields what was written when the iteration
// began.
func (t *BitmapTracker) Since(ctx context.Context, m dr.MachineID, d dr.DiskID, mark dr.Cursor) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		union, ok := t.union(m, d, mark)
		if !ok {
			yield(dr.Extent{}, fmt.Errorf("machine %s, disk %s: the tracker has no mark %q: %w", m, d, mark, dr.ErrChangesLost))
			return
		}
		var run dr.Extent
		for _, number := range slices.Sorted(maps.Keys(union)) {
			if err := ctx.Err(); err != nil {
				yield(dr.Extent{}, err)
				return
			}
			for w, word := range union[number] {
				for ; word != 0; word &= word - 1 {
					off := (number*pageBits + int64(w)*64 + int64(bits.TrailingZeros64(word))) * t.block
					if run.Len > 0 && run.End() == off {
						run.Len += t.block
						continue
					}
					if run.Len > 0 && !yield(run, nil) {
						return
					}
					run = dr.Extent{Off: off, Len: t.block}
				}
			}
		}
		if run.Len > 0 {
			yield(run, nil)
		}
	}
}

func (t *BitmapTracker) union(m dr.MachineID, d dr.DiskID, mark dr.Cursor) (bitmap, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	es := t.epochs[m]
	i := slices.IndexFunc(es, func(e epoch) bool { return e.mark == mark })
	if i < 0 {
		return nil, false
	}
	union := bitmap{}
	for _, e := range es[i:] {
		union.add(e.dirty[d])
	}
	return union, true
}

// Keep implements [Tracker].
func (t *BitmapTracker) Keep(_ context.Context, m dr.MachineID, marks []dr.Cursor) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var kept []epoch
	for _, e := range t.epochs[m] {
		switch {
		case slices.Contains(marks, e.mark):
			kept = append(kept, e)
		case len(kept) > 0:
			// Its time now belongs to the wanted mark before it.
			into := kept[len(kept)-1].dirty
			for d, b := range e.dirty {
				if into[d] == nil {
					into[d] = bitmap{}
				}
				into[d].add(b)
			}
		}
	}
	t.epochs[m] = kept
	return nil
}

func (b bitmap) add(other bitmap) {
	for number, words := range other {
		page := b[number]
		if page == nil {
			page = new([pageWords]uint64)
			b[number] = page
		}
		for i, w := range words {
			page[i] |= w
		}
	}
}

package crashfs

import (
	"maps"
	"math"
	"math/rand/v2"
)

// sync makes the seen content durable, or, after one that failed, what was
// changed since.
func (c *content) sync() {
	if c.failed {
		done := newContent(c.durable, c.durableSize)
		for _, ch := range c.pending {
			done.apply(ch)
		}
		done.settle()
		c.durable, c.durableSize, c.shared = done.durable, done.durableSize, done.shared
		c.pending = nil
		return
	}
	c.settle()
}

// settle turns the seen content into the durable one.
func (c *content) settle() {
	if len(c.over) > 0 || c.hidden != math.MaxInt64 {
		if c.shared || c.durable == nil {
			if c.durable = maps.Clone(c.durable); c.durable == nil {
				c.durable = map[int64]page{}
			}
			c.shared = false
		}
		if c.hidden != math.MaxInt64 {
			maps.DeleteFunc(c.durable, func(i int64, _ page) bool { return i >= c.hidden })
		}
		for i, p := range c.over {
			if p == nil {
				delete(c.durable, i)
			} else {
				c.durable[i] = p
			}
		}
	}
	c.over, c.hidden, c.durableSize, c.pending = nil, math.MaxInt64, c.size, nil
}

// failSync is what a kernel makes of a Sync that fails: some of the pending
// changes are durable, none will be tried again, all are still seen.
func (c *content) failSync(rng *rand.Rand) {
	over := make(map[int64]page, c.pages)
	for _, i := range c.list() {
		over[i] = c.page(i)
	}
	left := c.afterCut(newLoss(rng))
	c.durable, c.durableSize, c.shared = left.durable, left.durableSize, true
	c.over, c.hidden, c.pending, c.failed = over, 0, nil, true
}

// loss draws what becomes of what was not synced.
type loss struct {
	rng    *rand.Rand
	sector int64   // what the disk writes whole
	keep   float64 // share of everything unsynced that survives; negative: drawn for each file
}

func newLoss(rng *rand.Rand) loss {
	l := loss{rng: rng, sector: []int64{512, 4096}[rng.IntN(2)], keep: -1}
	// The extremes are the likeliest to find a missing sync, so they are
	// likelier here than in nature.
	switch rng.IntN(8) {
	case 0:
		l.keep = 0
	case 1:
		l.keep = 1
	}
	return l
}

func (l loss) share() float64 {
	if l.keep >= 0 {
		return l.keep
	}
	switch l.rng.IntN(4) {
	case 0:
		return 0
	case 1:
		return 1
	}
	return l.rng.Float64()
}

// afterCut is the content after a power cut: the durable one and a part of the
// pending changes. c stays as it is, but shares its pages from now on.
func (c *content) afterCut(l loss) content {
	c.shared = true
	left := newContent(c.durable, c.durableSize)
	if len(c.pending) == 0 {
		return left
	}
	keep := l.share()
	// Sizes and holes are in the journal, which survives up to a point; data
	// is not.
	journal := len(c.pending)
	if l.keep == 0 {
		journal = 0
	} else if l.keep < 0 && l.rng.IntN(2) == 0 {
		journal = l.rng.IntN(len(c.pending) + 1)
	}
	room := int64(math.MaxInt64) // behind it, blocks were given up by a truncation that is lost
	var holes []change           // as were these, by punches that are lost
	for i, ch := range c.pending {
		known := i < journal
		switch {
		case ch.data != nil:
			left.survive(ch, known, room, holes, keep, l)
		case known:
			left.apply(ch)
		case ch.truncates():
			room = min(room, ch.off)
		default:
			holes = append(holes, ch)
		}
	}
	left.settle()
	return left
}

// survive applies some sectors of a write. One whose metadata is known extends
// the file whatever becomes of its data; one whose isn't reaches only the
// blocks that the file had.
func (c *content) survive(ch change, known bool, room int64, holes []change, keep float64, l loss) {
	end := ch.off + ch.n
	if known {
		c.size = max(c.size, end)
	}
	end = min(end, c.size, room)
	run := ch.off // sectors from here on survive and are yet to be written
	for at := ch.off; at < end; {
		next := min(end, at-at%l.sector+l.sector)
		if keep < 1 && l.rng.Float64() >= keep || overlaps(holes, at, next) {
			c.write(ch.data[run-ch.off:at-ch.off], run)
			run = next
		}
		at = next
	}
	if run < end {
		c.write(ch.data[run-ch.off:end-ch.off], run)
	}
}

func overlaps(holes []change, from, to int64) bool {
	for _, h := range holes {
		if from < h.off+h.n && h.off < to {
			return true
		}
	}
	return false
}

package memory

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// The tracker divides a machine's time into epochs. Every capture and every
// committed draft ends one. A block remembers only the last epoch in which it
// was written; so what differs from a point is what was stamped in an epoch
// after the one that the point ended, and the memory needed is bounded by the
// data, however many points there are.

// tracker is a machine's. The machine's mutex guards it.
type tracker struct {
	id    uint64 // tells cursors of a tracker that was lost from those of its successor
	epoch uint64 // the one under way
	ends  map[dr.PointID]mark
}

// newTracker returns a tracker with a number that no other has, on this or
// any other platform: a cursor that came with a point from elsewhere must not
// be taken for one of its own.
func newTracker() tracker {
	return tracker{id: rand.Uint64(), epoch: 1, ends: map[dr.PointID]mark{}}
}

// mark is the end of an epoch.
type mark struct {
	epoch uint64
	sizes map[dr.DiskID]int64 // what lies beyond was added later
}

// end closes the epoch and returns its mark.
func (t *tracker) end(disks []*disk) mark {
	k := mark{epoch: t.epoch, sizes: map[dr.DiskID]int64{}}
	for _, d := range disks {
		k.sizes[d.ID] = d.Size
	}
	t.epoch++
	return k
}

// captured remembers that a capture named id was taken at k. A name that was
// released and captured anew stands for two moments; the older one is kept,
// because changes since then include the changes since the newer.
func (t *tracker) captured(id dr.PointID, k mark) {
	if _, ok := t.ends[id]; !ok {
		t.ends[id] = k
	}
}

// committed remembers that the disks held exactly the point id at k. The
// newest such moment is the closest one.
func (t *tracker) committed(id dr.PointID, k mark) { t.ends[id] = k }

// cursor names the disk's position at k.
func (t *tracker) cursor(k mark, id dr.DiskID) dr.Cursor {
	return dr.Cursor(fmt.Sprintf("memory:%d:%d:%d", t.id, k.epoch, k.sizes[id]))
}

// since finds the epoch that ended with the point, and the disk's size then.
// A cursor of this tracker is exact. Any other point is found by name: a
// point that came here in a draft carries its source's cursors.
func (t *tracker) since(p dr.Point, id dr.DiskID) (epoch uint64, size int64, ok bool) {
	var tracker uint64
	if n, err := fmt.Sscanf(string(p.Cursors[id]), "memory:%d:%d:%d", &tracker, &epoch, &size); n == 3 && err == nil && tracker == t.id {
		return epoch, size, epoch < t.epoch
	}
	k, known := t.ends[p.ID]
	size, ok = k.sizes[id]
	return k.epoch, size, known && ok
}

// stamps tell in which epoch each block of a disk was last written.
type stamps struct {
	granularity int64
	last        map[int64]uint64
}

func (s stamps) set(off, end int64, epoch uint64) {
	for i := off / s.granularity; i*s.granularity < end; i++ {
		s.last[i] = epoch
	}
}

func (s stamps) clone() stamps {
	return stamps{s.granularity, maps.Clone(s.last)}
}

// after returns the blocks written in later epochs, and everything beyond
// oldSize, as ranges within size.
func (s stamps) after(epoch uint64, oldSize, size int64) ranges {
	var blocks []int64
	for i, e := range s.last {
		if e > epoch {
			blocks = append(blocks, i)
		}
	}
	slices.Sort(blocks)
	var rs ranges
	for _, i := range blocks {
		rs = rs.add(i*s.granularity, min((i+1)*s.granularity, size))
	}
	return rs.add(oldSize, size)
}

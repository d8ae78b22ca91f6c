package physical

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// image reads a machine's disks where they are.
// It is a dr.ChangeTracker, a dr.Mapper and a dr.Summer.
type image struct {
	m     *machine
	disks disks
	rec   *record     // as it was before the capture: what Changes knows
	gen   uint64      // of the machine, when it was captured
	live  *liveImage  // of a running machine; nil otherwise
	kept  bool        // the disks are copies, which nobody writes
	marks []dr.Cursor // that Changes may ask for; guarded by m.track, and m.mu

	mu     sync.RWMutex
	point  dr.Point
	closed bool
}

var (
	_ dr.Image         = (*image)(nil)
	_ dr.ChangeTracker = (*image)(nil)
	_ dr.Mapper        = (*image)(nil)
	_ dr.Summer        = (*image)(nil)
)

func (im *image) fail(op string, disk dr.DiskID, off int64, err error) error {
	return &dr.Error{Op: op, Side: dr.SourceSide, Machine: im.m.id, Point: im.point.ID, Disk: disk, Off: off, Err: err}
}

// Point implements [dr.Image].
func (im *image) Point() dr.Point {
	im.mu.RLock()
	defer im.mu.RUnlock()
	p := im.point
	p.Cursors = maps.Clone(p.Cursors)
	return p
}

// valid is asked after a read: what was read before it failed is of the moment.
func (im *image) valid() error {
	if im.live != nil {
		return im.live.broken()
	}
	return im.moved()
}

// moved tells that the disks were given up to something else.
func (im *image) moved() error {
	if !im.kept && im.m.generation() != im.gen {
		return fmt.Errorf("%w: the machine was started, written or removed since", dr.ErrNotConsistent)
	}
	return nil
}

// ReadAt implements [dr.Image].
func (im *image) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	n, err := im.disks.readAt(ctx, disk, p, off)
	if lost := im.valid(); lost != nil {
		return 0, im.fail("read", disk, off, lost)
	}
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, im.fail("read", disk, off+int64(n), err)
	}
	return n, err
}

// Sums implements [dr.Summer].
func (im *image) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	err := im.disks.sums(ctx, disk, off, sums)
	if lost := im.valid(); lost != nil {
		err = lost
	}
	if err != nil {
		return im.fail("sum", disk, off, err)
	}
	return nil
}

// Extents implements [dr.Mapper].
func (im *image) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		im.disks.extents(ctx, disk, func(e dr.Extent, err error) bool {
			if lost := im.valid(); lost != nil {
				err = lost
			}
			if err != nil {
				yield(dr.Extent{}, im.fail("map", disk, -1, err))
				return false
			}
			return yield(e, nil)
		})
	}
}

// Changes implements [dr.ChangeTracker]. It answers for what the machine wrote
// up to the capture (or to the pass, see [dr.Settler]), also when a draft of the
// machine has begun since: so the same image tells a copy back to the machine
// what to take back.
func (im *image) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := im.disks.find(ctx, disk, 0, 0)
		if err != nil {
			yield(dr.Extent{}, im.fail("find changes", disk, -1, err))
			return
		}
		lost := func(why string) {
			yield(dr.Extent{}, im.fail("find changes", disk, -1, fmt.Errorf("%w: %s", dr.ErrChangesLost, why)))
		}
		old := d.size
		var mark dr.Cursor
		settling := false
		if im.live != nil {
			mark, settling = im.live.settling()
		}
		if settling {
			if mark == "" {
				lost("nothing tracked what was written during the last pass")
				return
			}
		} else {
			if own := im.Point(); since.ID == own.ID && since.Time.Equal(own.Time) {
				return
			}
			was, ok := since.Machine.Disk(disk)
			if !ok {
				lost(fmt.Sprintf("point %s doesn't know the disk", since.ID))
				return
			}
			old = min(was.Size, d.size)
			if _, same := im.rec.find(since.ID); same {
				// It hasn't run since it was found to hold that point.
				if old < d.size {
					yield(dr.Extent{Off: old, Len: d.size - old}, nil)
				}
				return
			}
			if mark, ok = im.rec.mark(since, disk); !ok || im.m.host.cfg.Tracker == nil {
				lost(fmt.Sprintf("nothing was tracked since point %s", since.ID))
				return
			}
		}
		for e, err := range im.m.host.cfg.Tracker.Since(ctx, im.m.id, disk, mark) {
			if err != nil {
				yield(dr.Extent{}, im.fail("find changes", disk, -1, err))
				return
			}
			e.Len = min(e.End(), old) - e.Off
			if e.Len > 0 && !yield(e, nil) {
				return
			}
		}
		if old < d.size {
			yield(dr.Extent{Off: old, Len: d.size - old}, nil)
		}
	}
}

// Close implements [dr.Image].
func (im *image) Close() error {
	im.mu.Lock()
	closed := im.closed
	im.closed = true
	im.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	if im.live != nil {
		err = im.live.abandon(errors.New("the image was closed"))
	}
	im.m.mu.Lock()
	delete(im.m.images, im)
	im.m.mu.Unlock()
	im.m.track.Lock()
	im.m.tidy(context.Background())
	im.m.track.Unlock()
	if err = errors.Join(err, im.disks.close()); err != nil {
		return im.fail("close", "", -1, err)
	}
	return nil
}

// cursors gives every disk the mark.
func (im *image) cursors(mark dr.Cursor) map[dr.DiskID]dr.Cursor {
	out := map[dr.DiskID]dr.Cursor{}
	for id := range im.disks {
		out[id] = mark
	}
	return out
}

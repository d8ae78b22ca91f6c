package pageblob

import (
	"context"
	"fmt"
	"iter"
	"os"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// closing is how long Close goes on sending what was written, so that the next
// draft of the point need not be given it again.
const closing = 30 * time.Second

// draft stages what is written in segments, over its parent's content.
type draft struct {
	s      *Store
	m      dr.MachineID
	point  dr.Point // as given to the Create that made this handle
	id     string
	epoch  uint64
	parent uint64
	before *manifest // the parent's, or nil
	under  content
	index  map[dr.DiskID]int
	sizes  []int64
	// idle says that the point had been committed before the draft was made:
	// what is written is what is there, and is dropped.
	idle bool

	ctx    context.Context // of uploads beside the caller; ends with the draft
	cancel context.CancelFunc
	slots  chan struct{} // one taken by each segment in memory
	failed chan *staging // whose upload failed
	flying sync.WaitGroup

	mu      sync.Mutex
	over    []pieces // a disk each
	names   []string // of segments
	stored  []bool   // which of them are durable
	memory  map[int32]*staging
	filling *staging
	err     error // why it can be used no more
	done    bool  // committed
}

var (
	_ dr.Draft   = (*draft)(nil)
	_ dr.Zeroer  = (*draft)(nil)
	_ dr.Summer  = (*draft)(nil)
	_ dr.Resumer = (*draft)(nil)
	_ content    = (*draft)(nil)
)

// dir is where the draft's segments are.
func (d *draft) dir() string { return machineDir(d.m) + stageDir + d.id + "/" }

func (d *draft) fail(op string, id dr.DiskID, off int64, err error) error {
	return failure(op, d.m, d.point.ID, id, off, err)
}

// check refuses calls that make no sense.
func (d *draft) check(ctx context.Context, op string, id dr.DiskID, off, n int64, change bool) (int, error) {
	i, ok := d.index[id]
	d.mu.Lock()
	gone, done := d.err, d.done
	d.mu.Unlock()
	err := ended(ctx)
	switch {
	case err != nil:
	case gone != nil:
		err = gone
	case change && done && !d.idle:
		err = fmt.Errorf("%w: the draft is committed", dr.ErrNotAllowed)
	case !ok:
		err = fmt.Errorf("%w: the draft has no such disk", dr.ErrNotFound)
	case off < 0 || n < 0:
		err = fmt.Errorf("%w: negative offset or length", dr.ErrInvalid)
	case n > d.sizes[i]-off:
		err = fmt.Errorf("%w: %d bytes, the disk has %d", dr.ErrOutOfRange, n, d.sizes[i])
	default:
		return i, nil
	}
	return 0, d.fail(op, id, off, err)
}

func (d *draft) WriteAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	i, err := d.check(ctx, "write", id, off, int64(len(p)), true)
	if err != nil {
		return 0, err
	}
	if d.idle || len(p) == 0 {
		return len(p), nil
	}
	data := p
	if blocksum.Zero(p) {
		data = nil
	}
	if err := d.stage(ctx, i, off, data, int64(len(p))); err != nil {
		return 0, d.fail("write", id, off, err)
	}
	return len(p), nil
}

func (d *draft) Zero(ctx context.Context, id dr.DiskID, off, n int64) error {
	i, err := d.check(ctx, "zero", id, off, n, true)
	if err != nil || d.idle {
		return err
	}
	if err := d.stage(ctx, i, off, nil, n); err != nil {
		return d.fail("zero", id, off, err)
	}
	return nil
}

func (d *draft) Sums(ctx context.Context, id dr.DiskID, off int64, sums []dr.Sum) error {
	i, err := d.check(ctx, "sum", id, off, 0, false)
	if err != nil {
		return err
	}
	if err := sum(ctx, d, id, d.sizes[i], off, sums); err != nil {
		return d.fail("sum", id, off, err)
	}
	return nil
}

// Durable yields what segments hold that were there when the draft was
// created, or that were stored since.
func (d *draft) Durable(ctx context.Context, id dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		i, err := d.check(ctx, "resume", id, 0, 0, false)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		var l extents
		d.mu.Lock()
		if d.idle {
			l.add(0, d.sizes[i], false)
		}
		for _, p := range d.over[i] {
			if p.seg >= 0 && d.stored[p.seg] {
				l.add(p.off, p.end(), false)
			}
		}
		d.mu.Unlock()
		for _, e := range l {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Commit makes the point received: it is listed when Process made it.
func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	d.mu.Lock()
	gone, done := d.err, d.done
	d.mu.Unlock()
	err := ended(ctx)
	switch {
	case done:
		d.release()
		return nil
	case gone != nil:
		err = gone
	}
	if err == nil {
		err = d.flush(ctx)
	}
	if err == nil {
		err = d.receive(ctx, d.manifest(p))
	}
	if err != nil {
		return d.fail("commit", "", -1, err)
	}
	d.mu.Lock()
	d.done = true
	d.mu.Unlock()
	d.release()
	return nil
}

// manifest describes the draft as a point that p says the rest of. All segments
// are durable, and nobody writes.
func (d *draft) manifest(p dr.Point) *manifest {
	p = p.Clone()
	mf := &manifest{Point: d.point.Clone(), Draft: d.id}
	mf.Point.Time, mf.Point.Consistency, mf.Point.Cursors = p.Time, p.Consistency, p.Cursors
	mf.Point.Changes = p.Changes
	d.mu.Lock()
	defer d.mu.Unlock()
	number := map[int32]int32{}
	for i, disk := range d.point.Machine.Disks {
		mf.Disks = append(mf.Disks, stored{ID: disk.ID, Size: disk.Size})
		var l pieces
		if was := d.before.sizeOr0(disk.ID); was < disk.Size {
			l.put(piece{off: was, n: disk.Size - was, seg: noSegment, at: isZero})
		}
		for _, q := range d.over[i] {
			if q.at == isZero {
				q.seg = noSegment
			} else if n, ok := number[q.seg]; ok {
				q.seg = n
			} else {
				n = int32(len(mf.Segments))
				mf.Segments = append(mf.Segments, d.names[q.seg])
				number[q.seg], q.seg = n, n
			}
			l.put(q)
		}
		mf.delta = append(mf.delta, l)
	}
	return mf
}

func (m *manifest) sizeOr0(id dr.DiskID) int64 {
	if m == nil {
		return 0
	}
	return m.size(id)
}

// receive makes the head name the point instead of the draft.
func (d *draft) receive(ctx context.Context, mf *manifest) error {
	b := mf.bytes()
	_, err := d.s.changeHead(ctx, d.m, func(h *head) (bool, error) {
		if h.byDraft(d.id) != nil {
			return false, nil // an earlier Commit's answer was lost
		}
		if h.Epoch != d.epoch || h.draft(d.id) == nil {
			return false, fmt.Errorf("%w: another draft of the machine was begun, or this one thrown away", dr.ErrFenced)
		}
		name := stageDir + d.id + "/" + receivedAs + newNonce()
		if err := d.s.put(ctx, machineDir(d.m)+name, b); err != nil {
			return false, err
		}
		h.dropDrafts(func(x begun) bool { return x.ID == d.id })
		h.Points = append(h.Points, entry{Seq: h.Next, ID: d.point.ID, Draft: d.id, Parent: d.parent, Manifest: name, Received: true})
		h.Next++
		return true, nil
	})
	return err
}

// Close sends what was written and is not sent yet, for as long as half a
// minute, unless the draft is committed.
func (d *draft) Close() error {
	d.mu.Lock()
	open := d.err == nil
	dirty := open && !d.done && !d.idle
	d.mu.Unlock()
	if !open {
		return nil
	}
	if dirty {
		ctx, cancel := context.WithTimeout(d.ctx, closing)
		if err := d.flush(ctx); err != nil {
			d.s.log.Warn("not all that was written is kept to resume", "machine", string(d.m), "point", string(d.point.ID), "error", plain(err).Error())
		}
		cancel()
	}
	d.cancel()
	d.flying.Wait()
	d.mu.Lock()
	d.err = fmt.Errorf("draft: %w", os.ErrClosed)
	d.memory, d.filling = nil, nil
	d.mu.Unlock()
	d.release()
	return nil
}

// release ends the draft's hold on its machine.
func (d *draft) release() {
	st := d.s.machine(d.m)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.open == d {
		st.open = nil
	}
}

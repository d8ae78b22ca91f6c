package pageblob

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// BlobImage is an ability of images: they lie in page blobs, from which Azure
// itself can make managed disks or other blobs without a byte travelling
// through this process.
type BlobImage interface {
	// Blob returns the address of the snapshot that holds a disk, and the
	// size in bytes of the disk of the VHD in it: a whole number of MiB, at
	// least the disk's own size, behind which there are zeros; the VHD's
	// footer of 512 bytes comes after that. The address names the snapshot
	// and has no signature in it: whoever uses it needs rights of his own. It
	// is good until the image is closed, also if the point is deleted
	// meanwhile by this process. ok is false if the point has no such disk.
	Blob(disk dr.DiskID) (address string, size int64, ok bool)
}

type image struct {
	*processed
	store *Store
	m     dr.MachineID
	e     entry // as it was when it was opened
	once  sync.Once
	shut  chan struct{}
}

var (
	_ dr.Image         = (*image)(nil)
	_ dr.ChangeTracker = (*image)(nil)
	_ dr.Summer        = (*image)(nil)
	_ dr.Mapper        = (*image)(nil)
	_ BlobImage        = (*image)(nil)
)

// Open opens a processed point. While it is open neither Delete nor Prune of
// this Store takes its snapshots. Another process's may: then reading fails
// with dr.ErrNotFound, and never reads anything else.
func (s *Store) Open(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
	fail := func(err error) (dr.Image, error) { return nil, failure("open", m, id, "", -1, err) }
	if err := m.Validate(); err != nil {
		return fail(err)
	}
	if err := id.Validate(); err != nil {
		return fail(err)
	}
	st := s.machine(m)
	e, err := func() (entry, error) {
		st.opening.RLock()
		defer st.opening.RUnlock()
		h, _, err := s.readHead(ctx, m)
		if err != nil {
			return entry{}, err
		}
		e := h.find(id)
		if e == nil || e.Received {
			return entry{}, fmt.Errorf("%w: no such point, or it is not processed", dr.ErrNotFound)
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		st.pins[e.Draft]++
		return *e, nil
	}()
	if err != nil {
		return fail(err)
	}
	img := &image{store: s, m: m, e: e, shut: make(chan struct{})}
	mf, err := s.readManifest(ctx, m, e)
	if isNotFound(err) {
		// Prune moved it to another object, unless it is deleted.
		var h *head
		if h, _, err = s.readHead(ctx, m); err == nil {
			if now := h.bySeq(e.Seq); now != nil && now.listed() {
				img.e = *now
				mf, err = s.readManifest(ctx, m, *now)
				err = lost(now.Manifest, err)
			} else {
				err = dr.ErrNotFound
			}
		}
	}
	if err == nil {
		img.processed, err = s.processed(m, mf)
	}
	if err != nil {
		img.Close()
		return fail(err)
	}
	return img, nil
}

func (i *image) Close() error {
	i.once.Do(func() {
		close(i.shut)
		st := i.store.machine(i.m)
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.pins[i.e.Draft]--; st.pins[i.e.Draft] == 0 {
			delete(st.pins, i.e.Draft)
		}
	})
	return nil
}

func (i *image) Point() dr.Point { return i.mf.Point.Clone() }

func (i *image) fail(op string, id dr.DiskID, off int64, err error) error {
	return failure(op, i.mf.Point.Machine.ID, i.mf.Point.ID, id, off, err)
}

func (i *image) disk(ctx context.Context, op string, id dr.DiskID, off int64) (*frozen, error) {
	err := ended(ctx)
	f := i.disks[id]
	select {
	case <-i.shut:
		err = fmt.Errorf("image: %w", os.ErrClosed)
	default:
	}
	switch {
	case err != nil:
	case f == nil:
		err = fmt.Errorf("%w: the point has no such disk", dr.ErrNotFound)
	case off < 0:
		err = fmt.Errorf("%w: negative offset", dr.ErrInvalid)
	default:
		return f, nil
	}
	return nil, i.fail(op, id, off, err)
}

func (i *image) ReadAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	f, err := i.disk(ctx, "read", id, off)
	if err != nil {
		return 0, err
	}
	n := min(int64(len(p)), max(0, f.size-off))
	if err := f.readAt(ctx, p[:n], off); err != nil {
		return 0, i.fail("read", id, off, err)
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (i *image) Sums(ctx context.Context, id dr.DiskID, off int64, sums []dr.Sum) error {
	f, err := i.disk(ctx, "sum", id, off)
	if err != nil {
		return err
	}
	if err := sum(ctx, i.processed, id, f.size, off, sums); err != nil {
		return i.fail("sum", id, off, err)
	}
	return nil
}

func (i *image) Extents(ctx context.Context, id dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		f, err := i.disk(ctx, "map", id, 0)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		var held dr.Extent // not yielded yet: the next may go on with it
		give := func(off, end int64, zero bool) bool {
			switch end = min(end, f.size); {
			case end <= off:
			case held.Len > 0 && held.Zero == zero:
				held.Len += end - off
			default:
				old := held
				held = dr.Extent{Off: off, Len: end - off, Zero: zero}
				return old.Len == 0 || yield(old, nil)
			}
			return true
		}
		at := int64(0)
		for n := int64(0); n*window < f.size; n++ {
			w, err := f.window(ctx, n)
			if err != nil {
				yield(dr.Extent{}, i.fail("map", id, n*window, err))
				return
			}
			for _, r := range w.ranges {
				if !give(at, r.off, true) || !give(max(at, r.off), r.end, false) {
					return
				}
				at = max(at, min(r.end, f.size))
			}
		}
		if give(at, f.size, true) && held.Len > 0 {
			yield(held, nil)
		}
	}
}

func (i *image) Changes(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		l, err := i.changes(ctx, id, since)
		for range 3 {
			if !isNotFound(err) || i.disks[id] == nil {
				break
			}
			l, err = i.changes(ctx, id, since) // a point on the way was deleted or moved meanwhile
		}
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		for _, e := range l {
			if err := ended(ctx); err != nil {
				yield(dr.Extent{}, i.fail("find changes", id, e.Off, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (i *image) changes(ctx context.Context, id dr.DiskID, since dr.Point) ([]dr.Extent, error) {
	if _, err := i.disk(ctx, "find changes", id, 0); err != nil {
		return nil, err
	}
	fail := func(err error) ([]dr.Extent, error) { return nil, i.fail("find changes", id, -1, err) }
	m := i.m
	h, _, err := i.store.readHead(ctx, m)
	if err != nil {
		return fail(err)
	}
	to := version{i.e.Seq, i.e.Parent, i.mf}
	if now := h.bySeq(i.e.Seq); now != nil && now.Parent != i.e.Parent {
		// Points above it were merged into it.
		if to, err = i.store.version(ctx, m, h, i.e.Seq); err != nil {
			return fail(err)
		}
	}
	var from version
	switch e := h.find(since.ID); {
	case since.Machine.ID != m:
	case since.ID == i.mf.Point.ID && sameTime(since, i.mf.Point):
		from = to
	case e != nil:
		if from, err = i.store.version(ctx, m, h, e.Seq); err != nil {
			return fail(err)
		}
	}
	if from.mf == nil || !sameTime(since, from.mf.Point) { // the name was given again
		return fail(fmt.Errorf("%w: point %s of machine %s is not in the store", dr.ErrChangesLost, since.ID, since.Machine.ID))
	}
	l, err := i.store.changes(ctx, m, h, id, from, to)
	if err != nil {
		return fail(err)
	}
	if i.store.o.CrossCheck {
		if err := i.crossCheck(ctx, h, id, from, l); err != nil {
			return fail(err)
		}
	}
	return l, nil
}

func sameTime(since, p dr.Point) bool { return since.Time.IsZero() || since.Time.Equal(p.Time) }

func (i *image) Blob(id dr.DiskID) (string, int64, bool) {
	n, ok := i.mf.disk(id)
	if !ok {
		return "", 0, false
	}
	u, err := url.Parse(i.disks[id].url)
	if err != nil {
		return "", 0, false
	}
	u.RawQuery = url.Values{"snapshot": {i.mf.Disks[n].Snapshot}}.Encode()
	return u.String(), vhd.Padded(i.mf.Disks[n].Size), true
}

package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// image is a committed point, open for reading. Its pin keeps everything it
// needs from being pruned.
type image struct {
	store *Store
	man   *manifest
	close func() error
}

var (
	_ dr.ChangeTracker = (*image)(nil)
	_ dr.Summer        = (*image)(nil)
	_ dr.Mapper        = (*image)(nil)
)

// Open opens a point. It reads the head and the point's manifest; map pages
// come when they are needed.
func (s *Store) Open(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	img, err := s.open(ctx, m, id)
	if err != nil {
		return nil, &dr.Error{Op: "open point", Side: dr.StoreSide, Machine: m, Point: id, Err: err}
	}
	return img, nil
}

func (s *Store) open(ctx context.Context, m dr.MachineID, id dr.PointID) (*image, error) {
	h, _, err := s.readHead(ctx, m)
	if err != nil {
		return nil, err
	}
	e, ok := h.find(id)
	if !ok {
		return nil, fmt.Errorf("%w: the machine has %d points, and none of this ID", dr.ErrNotFound, len(h.entries))
	}
	pin, err := s.pin(ctx, manifestName(m, e.seq, e.id))
	if err != nil {
		return nil, err
	}
	// From here on the manifest stays if it is still there.
	man, err := s.readManifest(ctx, m, e)
	if err != nil {
		if errors.Is(err, dr.ErrNotFound) {
			if h, _, herr := s.readHead(ctx, m); herr == nil {
				if f, ok := h.find(id); ok && f == e {
					err = fmt.Errorf("%w: %w", dr.ErrCorrupt, err)
				}
			}
		}
		return nil, errors.Join(err, pin.Close())
	}
	return &image{store: s, man: man, close: sync.OnceValue(pin.Close)}, nil
}

func (i *image) Point() dr.Point { return i.man.Point.Clone() }

func (i *image) Close() error { return i.close() }

func (i *image) fail(op string, disk dr.DiskID, off int64, err error) error {
	return readError(op, i.man.Point.Machine.ID, i.man.Point.ID, disk, off, err)
}

func readError(op string, m dr.MachineID, id dr.PointID, disk dr.DiskID, off int64, err error) error {
	e := &dr.Error{Op: op, Side: dr.StoreSide, Machine: m, Point: id, Disk: disk, Off: off, Err: err}
	if errors.Is(err, dr.ErrCorrupt) {
		e.Remedy = "scrub the vault to see which points are whole; bring the object back from a copy of the vault, or take another point; to have whole points again, replicate in full, without a parent"
	}
	return e
}

func (i *image) disk(op string, id dr.DiskID) (*manifestDisk, error) {
	d, ok := i.man.disk(id)
	if !ok {
		return nil, i.fail(op, id, -1, fmt.Errorf("%w: the point has no such disk", dr.ErrNotFound))
	}
	return d, nil
}

func (d *manifestDisk) tree() tree { return tree{size: d.Size, level: rootLevel(d.Size), root: d.root} }

// tree is a disk's map as it is stored.
type tree struct {
	size  int64
	level int // of the root page
	root  ref
}

// leaf returns the page of level 0 that refers to a chunk.
func (s *Store) leaf(ctx context.Context, t tree, chunk int64) (*page, error) {
	r := &t.root
	for level := t.level; ; level-- {
		p, err := s.page(ctx, r, level)
		if err != nil || level == 0 || r.isZero() {
			return p, err
		}
		r = &p.refs[slot(chunk, level)]
	}
}

func (i *image) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	d, err := i.disk("read", disk)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, i.fail("read", disk, off, fmt.Errorf("%w: negative offset", dr.ErrInvalid))
	}
	if off >= d.Size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), d.Size-off))
	if at, err := i.store.readRange(ctx, d.tree(), p[:n], off); err != nil {
		return int(max(0, at-off)), i.fail("read", disk, at, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// maxRun bounds the blobs that are read at once.
const maxRun = 64

// run is a row of chunks whose blobs lie one behind the other.
type run struct {
	refs  [maxRun]*ref
	first int64 // chunk
	n     int
	bytes int
}

func (u *run) add(r *ref, chunk int64) bool {
	switch {
	case u.n == 0:
		u.first = chunk
	case u.n == maxRun || u.bytes+r.len.stored() > readSize-2*fsys.Alignment || !r.follows(u.refs[u.n-1]):
		return false
	}
	u.refs[u.n] = r
	u.n++
	u.bytes += r.len.stored()
	return true
}

// readRange fills p from off, which lies inside the disk as a whole. After an
// error the bytes before the offset it returns are read.
func (s *Store) readRange(ctx context.Context, t tree, p []byte, off int64) (int64, error) {
	end := off + int64(len(p))
	var u run
	var leaf *page
	flush := func() (int64, error) {
		if u.n == 0 {
			return 0, nil
		}
		at, err := s.readRun(ctx, t, &u, p, off)
		u.n, u.bytes = 0, 0
		return at, err
	}
	for chunk := off / chunkSize; chunk*chunkSize < end; chunk++ {
		if leaf == nil || slot(chunk, 0) == 0 {
			if err := ctx.Err(); err != nil {
				return max(off, chunk*chunkSize), err
			}
			var err error
			if leaf, err = s.leaf(ctx, t, chunk); err != nil {
				return max(off, chunk*chunkSize), err
			}
		}
		r := &leaf.refs[slot(chunk, 0)]
		if r.isZero() {
			if at, err := flush(); err != nil {
				return at, err
			}
			from, to := max(off, chunk*chunkSize), min(end, (chunk+1)*chunkSize)
			clear(p[from-off : to-off])
			continue
		}
		if u.n > 0 && chunk != u.first+int64(u.n) || !u.add(r, chunk) {
			if at, err := flush(); err != nil {
				return at, err
			}
			u.add(r, chunk)
		}
	}
	if at, err := flush(); err != nil {
		return at, err
	}
	return end, nil
}

// readRun reads and decodes a run into its part of p, which begins at off.
func (s *Store) readRun(ctx context.Context, t tree, u *run, p []byte, off int64) (int64, error) {
	end := off + int64(len(p))
	// A piece of one chunk, as a booting machine reads it, is likely to be
	// followed by its next piece.
	whole := func(chunk int64) bool {
		return chunk*chunkSize >= off && chunk*chunkSize+int64(chunkLen(t.size, chunk)) <= end
	}
	if u.n == 1 && !whole(u.first) {
		plain, err := s.recentChunk(ctx, t, u.refs[0], u.first)
		if err != nil {
			return max(off, u.first*chunkSize), err
		}
		copyChunk(p, off, plain, u.first)
		return 0, nil
	}
	b, buf, g, err := s.stored(ctx, u.refs[0], u.bytes)
	if err != nil && u.n > 1 && (errors.Is(err, dr.ErrCorrupt)) {
		// Prune may have taken one of the blobs' neighbours away, or the end
		// is cut off: one at a time tells.
		return s.readSingly(ctx, t, u, p, off)
	}
	if err != nil {
		return max(off, u.first*chunkSize), err
	}
	defer s.bufs.Put(buf)
	for k := 1; g.moved != nil && k < u.n; k++ {
		// Neighbours in generation 0 may be apart now.
		q, err1 := g.place(u.refs[k-1].off)
		at, err2 := g.place(u.refs[k].off)
		if err1 != nil || err2 != nil || at != q+uint32(u.refs[k-1].len.stored()) {
			return s.readSingly(ctx, t, u, p, off)
		}
	}
	for k := range u.n {
		chunk := u.first + int64(k)
		n := u.refs[k].len.stored()
		if whole(chunk) {
			at := chunk*chunkSize - off
			err = s.decode(g, u.refs[k], b[:n:n], p[at:][:chunkLen(t.size, chunk)])
		} else {
			tmp := s.blocks.Get()
			plain := tmp[:chunkLen(t.size, chunk)]
			if err = s.decode(g, u.refs[k], b[:n:n], plain); err == nil {
				copyChunk(p, off, plain, chunk)
			}
			s.blocks.Put(tmp)
		}
		if err != nil {
			return max(off, chunk*chunkSize), err
		}
		b = b[n:]
	}
	return 0, nil
}

func (s *Store) readSingly(ctx context.Context, t tree, u *run, p []byte, off int64) (int64, error) {
	tmp := s.blocks.Get()
	defer s.blocks.Put(tmp)
	for k := range u.n {
		chunk := u.first + int64(k)
		plain := tmp[:chunkLen(t.size, chunk)]
		if err := s.chunk(ctx, u.refs[k], plain); err != nil {
			return max(off, chunk*chunkSize), err
		}
		copyChunk(p, off, plain, chunk)
	}
	return 0, nil
}

// copyChunk copies what p, which begins at off, wants of a chunk.
func copyChunk(p []byte, off int64, plain []byte, chunk int64) {
	if at := chunk*chunkSize - off; at >= 0 {
		copy(p[at:], plain)
	} else if -at < int64(len(plain)) {
		copy(p, plain[-at:])
	}
}

// recentChunk reads a chunk through a small cache.
func (s *Store) recentChunk(ctx context.Context, t tree, r *ref, chunk int64) ([]byte, error) {
	if plain, ok := s.recent.get(r.key()); ok && len(plain) == chunkLen(t.size, chunk) {
		return plain, nil
	}
	plain := make([]byte, chunkLen(t.size, chunk))
	if err := s.chunk(ctx, r, plain); err != nil {
		return nil, err
	}
	s.recent.put(r.key(), plain, int64(len(plain)))
	return plain, nil
}

// Sums answers from the map; no data is read.
func (i *image) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	d, err := i.disk("sum", disk)
	if err != nil {
		return err
	}
	if err := checkSums(d.Size, off, len(sums)); err != nil {
		return i.fail("sum", disk, off, err)
	}
	var leaf *page
	for k := range sums {
		chunk := off/chunkSize + int64(k)
		if leaf == nil || slot(chunk, 0) == 0 {
			if leaf, err = i.store.leaf(ctx, d.tree(), chunk); err != nil {
				return i.fail("sum", disk, chunk*chunkSize, err)
			}
		}
		sums[k] = leaf.refs[slot(chunk, 0)].sum
	}
	return nil
}

func checkSums(size, off int64, n int) error {
	if off < 0 || off%chunkSize != 0 {
		return fmt.Errorf("%w: sums from %d, which is not a multiple of %d", dr.ErrInvalid, off, chunkSize)
	}
	if off/chunkSize+int64(n) > chunks(size) {
		return fmt.Errorf("%w: sums of %d blocks from %d", dr.ErrOutOfRange, n, off)
	}
	return nil
}

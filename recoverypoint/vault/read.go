package vault

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// segment is where a segment's blobs are now.
type segment struct {
	name  string
	aead  cipher.AEAD
	moved []movedBlob // by off; nil: generation 0, all are where they were
}

type movedBlob struct{ off, phys uint32 }

// blobKey identifies a blob for good.
type blobKey struct {
	seg segID
	off uint32
}

func (r *ref) key() blobKey { return blobKey{r.seg, r.off} }

// place returns where the blob that was at off is now.
func (g *segment) place(off uint32) (uint32, error) {
	if g.moved == nil {
		return off, nil
	}
	i := sort.Search(len(g.moved), func(i int) bool { return g.moved[i].off >= off })
	if i == len(g.moved) || g.moved[i].off != off {
		return 0, fmt.Errorf("%w: object %s has no blob %d", dr.ErrCorrupt, g.name, off)
	}
	return g.moved[i].phys, nil
}

func (s *Store) newSegment(id segID, gen uint32) *segment {
	g := &segment{name: segmentName(id, gen)}
	if s.keys != nil {
		g.aead = s.keys.aead("segment", id[:])
	}
	return g
}

// locate finds a segment. A segment that prune rewrote has another generation;
// that is looked for only when generation 0 turns out to be gone.
func (s *Store) locate(id segID) *segment {
	if g, ok := s.segs.get(id); ok {
		return g
	}
	g := s.newSegment(id, 0)
	s.segs.put(id, g, 256)
	return g
}

// relocate looks for the newest generation of a segment. It is corrupt if
// there is none but the one that was just found missing.
func (s *Store) relocate(ctx context.Context, id segID, missing string) (*segment, error) {
	first := segmentName(id, 0)
	var newest Object
	var gen uint32
	for o, err := range s.bucket.List(ctx, first[:len(first)-1]) {
		if err != nil {
			return nil, err
		}
		if _, n, ok := parseSegmentName(o.Name); ok && (newest.Name == "" || n > gen) {
			newest, gen = o, n
		}
	}
	if newest.Name == "" || newest.Name == missing {
		return nil, fmt.Errorf("%w: object %s is missing", dr.ErrCorrupt, first)
	}
	g := s.newSegment(id, gen)
	if gen > 0 {
		f, _, err := s.readFooter(ctx, newest, id)
		if err != nil {
			return nil, err
		}
		g.moved = make([]movedBlob, 0, len(f.entries))
		for i := range f.entries {
			if f.entries[i].flags&entryZero == 0 {
				g.moved = append(g.moved, movedBlob{f.entries[i].ref.off, f.entries[i].phys})
			}
		}
		sort.Slice(g.moved, func(i, j int) bool { return g.moved[i].off < g.moved[j].off })
	}
	s.segs.put(id, g, 256+8*int64(len(g.moved)))
	return g, nil
}

// readFooter reads a segment's footer. The size is the object's.
func (s *Store) readFooter(ctx context.Context, o Object, id segID) (*footer, trailer, error) {
	corrupt := func(err error) error { return fmt.Errorf("object %s: %w", o.Name, err) }
	if o.Size < segmentHead+segmentTrailer || o.Size > maxSegment {
		return nil, trailer{}, corrupt(fmt.Errorf("%w: %d bytes long", dr.ErrCorrupt, o.Size))
	}
	b := make([]byte, segmentTrailer)
	if err := s.readExact(ctx, o.Name, b, o.Size-segmentTrailer); err != nil {
		return nil, trailer{}, err
	}
	t, err := parseTrailer(b, id, o.Size)
	if err != nil {
		return nil, t, corrupt(err)
	}
	b = make([]byte, o.Size-int64(t.end))
	if err := s.readExact(ctx, o.Name, b, int64(t.end)); err != nil {
		return nil, t, err
	}
	f, err := s.keys.parseFooter(b, id, t)
	if err != nil {
		return nil, t, corrupt(err)
	}
	return f, t, nil
}

// readExact fills b; an object that ends before is corrupt.
func (s *Store) readExact(ctx context.Context, name string, b []byte, off int64) error {
	n, err := s.bucket.ReadAt(ctx, name, b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("%w: object %s: cut off at %d", dr.ErrCorrupt, name, off+int64(n))
	}
	return err
}

// stored reads n bytes of blobs that lie one behind the other from r on. The
// buffer goes back to s.bufs.
func (s *Store) stored(ctx context.Context, r *ref, n int) (b, buf []byte, g *segment, err error) {
	g = s.locate(r.seg)
	for try := 0; ; try++ {
		var at uint32
		if at, err = g.place(r.off); err == nil {
			start := int(at) &^ (fsys.Alignment - 1)
			end := (int(at) + n + fsys.Alignment - 1) &^ (fsys.Alignment - 1)
			buf = s.bufs.Get()
			if err = s.readExact(ctx, g.name, buf[:end-start], int64(start)); err == nil {
				return buf[int(at)-start:][:n], buf, g, nil
			}
			s.bufs.Put(buf)
		}
		if !errors.Is(err, dr.ErrNotFound) || try == 3 {
			return nil, nil, nil, err
		}
		s.segs.drop(r.seg)
		// What was found may be gone before it was looked into, if two prunes
		// follow each other.
		moved, err := s.relocate(ctx, r.seg, g.name)
		if err == nil {
			g = moved
		} else if !errors.Is(err, dr.ErrNotFound) {
			return nil, nil, nil, err
		}
	}
}

// open decrypts a stored blob in place.
func (g *segment) open(r *ref, b []byte) ([]byte, error) {
	if g.aead == nil {
		return b, nil
	}
	plain, err := g.aead.Open(b[:0], nonce(r.off), b, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: object %s at %d: not sealed by this vault's key", dr.ErrCorrupt, g.name, r.off)
	}
	return plain, nil
}

// decode turns a stored chunk into its plain bytes: all of dst, verified.
func (s *Store) decode(g *segment, r *ref, b, dst []byte) error {
	b, err := g.open(r, b)
	if err != nil {
		return err
	}
	plain := b
	if c := r.len.codec(); c != Raw {
		if plain, err = s.packers.unpack(c, b, dst[:0:len(dst)]); err != nil {
			return fmt.Errorf("object %s at %d: %w", g.name, r.off, err)
		}
	}
	if len(plain) != len(dst) || blocksum.Sum(plain) != r.sum {
		return fmt.Errorf("%w: object %s at %d: its sum doesn't match", dr.ErrCorrupt, g.name, r.off)
	}
	if &plain[0] != &dst[0] {
		copy(dst, plain)
	}
	return nil
}

// chunk reads one chunk whole into dst, which has its length.
func (s *Store) chunk(ctx context.Context, r *ref, dst []byte) error {
	if r.isZero() {
		clear(dst)
		return nil
	}
	b, buf, g, err := s.stored(ctx, r, r.len.stored())
	if err != nil {
		return err
	}
	defer s.bufs.Put(buf)
	return s.decode(g, r, b, dst)
}

// page reads a map page of a level through the cache. A zero ref is an empty
// page.
func (s *Store) page(ctx context.Context, r *ref, level int) (*page, error) {
	if r.isZero() {
		return &page{level: level}, nil
	}
	if p, ok := s.pages.get(r.key()); ok && p.level == level {
		return p, nil
	}
	b, buf, g, err := s.stored(ctx, r, r.len.stored())
	if err != nil {
		return nil, err
	}
	defer s.bufs.Put(buf)
	if b, err = g.open(r, b); err != nil {
		return nil, err
	}
	if blocksum.Sum(b) != r.sum {
		return nil, fmt.Errorf("%w: object %s at %d: the map page's sum doesn't match", dr.ErrCorrupt, g.name, r.off)
	}
	p := &page{}
	if err := parsePage(b, level, p); err != nil {
		return nil, fmt.Errorf("object %s at %d: %w", g.name, r.off, err)
	}
	s.pages.put(r.key(), p, pageMemory)
	return p, nil
}

// pageMemory is about what a page takes in memory, in bytes.
const pageMemory = pageRefs*40 + 256

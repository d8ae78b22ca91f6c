package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

const (
	// A segment with less than rewriteBelow percent of live bytes, the live
	// blobs' lines in the footer among them, is written anew if it gets
	// smaller: reading the rest costs less than keeping the dead.
	rewriteBelow = 40
	// rewriteRound bounds the segments whose live blobs are held in memory at
	// once: 8192 blobs of 4 bytes each at most.
	rewriteRound = 1024
)

// Prune gives back the space of deleted points, and of drafts that Create threw
// away; one that was interrupted stays, to be resumed, until its machine's next
// Create. The order
// of its steps is what makes it safe at any cut and beside readers:
//
//  1. Manifests that no head has are deleted, unless a reader or draft has
//     them pinned. A manifest that exists keeps everything it needs.
//  2. Segments are listed, then drafts, then manifests: what a draft wrote is
//     known by its record, and from its commit on by its manifest.
//  3. Segments in that list that neither a draft nor a manifest needs are
//     deleted. Those that are mostly dead are put under the next generation's
//     name with their live blobs, and only then deleted; references stay
//     right, because they name a blob by its place in generation 0.
func (s *Store) Prune(ctx context.Context) (int64, error) {
	fail := func(err error) (int64, error) {
		e := &dr.Error{Op: "prune", Side: dr.StoreSide, Err: err}
		if errors.Is(err, dr.ErrCorrupt) {
			e.Remedy = "nothing was taken that is needed; scrub the vault, and delete the points that are damaged or bring the object back"
		}
		return 0, e
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	lock, err := s.locks.Lock(ctx, "prune", true)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	if err := s.dropManifests(ctx); err != nil {
		return fail(err)
	}
	p := &pruner{store: s, ctx: ctx, segs: map[segID]*pruneSegment{}}
	if err := p.run(); err != nil {
		_, err := fail(err)
		return p.freed, err
	}
	return p.freed, nil
}

// dropManifests deletes the manifests of points that were deleted.
func (s *Store) dropManifests(ctx context.Context) error {
	records, err := s.draftRecords(ctx, "draft/")
	if err != nil {
		return err
	}
	type key struct {
		m  dr.MachineID
		id dr.PointID
	}
	pending := map[key]bool{}
	unsure := map[dr.MachineID]bool{}
	for _, r := range records {
		if over, err := s.dropRecord(ctx, r); err != nil {
			return err
		} else if over {
			continue
		}
		pending[key{r.machine(), r.Point.ID}] = true
		unsure[r.machine()] = unsure[r.machine()] || r.broken
	}
	var machine dr.MachineID
	var in map[headEntry]bool
	for o, err := range s.bucket.List(ctx, "point/") {
		if err != nil {
			return err
		}
		m, seq, id, ok := parseManifestName(o.Name)
		if !ok {
			continue
		}
		if in == nil || m != machine {
			h, _, err := s.readHead(ctx, m)
			if err != nil {
				return err
			}
			machine, in = m, map[headEntry]bool{}
			for _, e := range h.entries {
				in[e] = true
			}
		}
		// A draft under way may be between its manifest and the head.
		if in[headEntry{seq, id}] || pending[key{m, id}] || unsure[m] {
			continue
		}
		pin, err := s.locks.Lock(ctx, pinName(o.Name), true)
		if errors.Is(err, dr.ErrBusy) {
			continue
		}
		if err != nil {
			return err
		}
		// The head may have been read before a commit that has let go of its
		// pin since.
		h, _, err := s.readHead(ctx, m)
		if err == nil {
			if e, ok := h.find(id); !ok || e.seq != seq {
				err = s.bucket.Delete(ctx, o.Name)
			}
		}
		if err = errors.Join(err, pin.Close()); err != nil {
			return err
		}
	}
	return nil
}

// dropRecord deletes a draft's record if its point is committed, and the process
// that did it was cut off before it got to that.
func (s *Store) dropRecord(ctx context.Context, r *draftRecord) (bool, error) {
	for reserved := false; ; reserved = true {
		h, _, err := s.readHead(ctx, r.machine())
		if err != nil {
			return false, err
		}
		if _, ok := h.find(r.Point.ID); !ok || r.broken {
			return false, nil
		}
		if reserved {
			return true, s.bucket.Delete(ctx, r.name)
		}
		// A draft that is open may yet resume what it speaks of.
		unbusy, err := s.reserve(r.machine(), r.Point.ID)
		if err != nil {
			return false, nil
		}
		defer unbusy()
	}
}

// keptManifests reads every manifest there is, a machine after the other.
func (s *Store) keptManifests(ctx context.Context) ([]kept, error) {
	var all []kept
	for o, err := range s.bucket.List(ctx, "point/") {
		if err != nil {
			return nil, err
		}
		m, seq, id, ok := parseManifestName(o.Name)
		if !ok {
			continue
		}
		man, err := s.readManifest(ctx, m, headEntry{seq, id})
		if errors.Is(err, dr.ErrNotFound) {
			continue // a draft's, which is open and puts it anew
		}
		if err != nil {
			return nil, err
		}
		all = append(all, kept{machine: m, point: id, disks: man.Disks})
	}
	return all, nil
}

type pruner struct {
	store  *Store
	ctx    context.Context
	segs   map[segID]*pruneSegment
	points []kept
	freed  int64
}

type pruneSegment struct {
	gen  uint32
	size int64
	live int64    // bytes, at least: what points share that don't follow each other may count twice
	offs []uint32 // of live blobs, for segments that are written anew
	late bool     // written since segments were listed: the next prune's affair
}

func (p *pruner) run() error {
	s := p.store
	var olds []Object
	for o, err := range s.bucket.List(p.ctx, "seg/") {
		if err != nil {
			return err
		}
		id, gen, ok := parseSegmentName(o.Name)
		if !ok {
			continue
		}
		g := p.segs[id]
		if g == nil {
			p.segs[id] = &pruneSegment{gen: gen, size: o.Size}
		} else if gen > g.gen {
			olds = append(olds, Object{segmentName(id, g.gen), g.size})
			g.gen, g.size = gen, o.Size
		} else {
			olds = append(olds, o)
		}
	}
	records, err := s.draftRecords(p.ctx, "draft/")
	if err != nil {
		return err
	}
	drafts := map[sessionID]bool{}
	for _, r := range records {
		drafts[r.session] = true
	}
	if p.points, err = s.keptManifests(p.ctx); err != nil {
		return err
	}
	err = p.mark(func(g *pruneSegment, r *ref) { g.live += int64(r.len.stored()) + entrySize })
	if err != nil {
		return err
	}
	// Nothing was changed up to here.
	for _, o := range olds {
		if err := p.remove(o.Name, o.Size); err != nil {
			return err
		}
	}
	var rewrite []segID
	for id, g := range p.segs {
		switch {
		case drafts[id.session()], g.late:
		case g.live == 0:
			if err := p.remove(segmentName(id, g.gen), g.size); err != nil {
				return err
			}
		case g.live*100 < g.size*rewriteBelow:
			rewrite = append(rewrite, id)
		}
	}
	slices.SortFunc(rewrite, func(a, b segID) int { return cmp.Compare(string(a[:]), string(b[:])) })
	for round := range slices.Chunk(rewrite, rewriteRound) {
		if err := p.rewrite(round); err != nil {
			return err
		}
	}
	return nil
}

// mark calls live for every blob that a point needs, at least once.
func (p *pruner) mark(live func(*pruneSegment, *ref)) error {
	return p.store.walkAll(p.ctx, p.points, true, func(dr.DiskID, []*kept) *sharedWalk {
		return &sharedWalk{ctx: p.ctx, store: p.store, blob: func(_ int, _ int64, r *ref, _ []int32) error {
			g, err := p.segment(r.seg)
			if err == nil {
				live(g, r)
			}
			return err
		}}
	})
}

// segment returns what is known of a segment that a point needs. One that wasn't
// listed was written by a draft of this process and committed meanwhile, or it
// is missing.
func (p *pruner) segment(id segID) (*pruneSegment, error) {
	if g := p.segs[id]; g != nil {
		return g, nil
	}
	name := segmentName(id, 0)
	for o, err := range p.store.bucket.List(p.ctx, name) {
		if err != nil {
			return nil, err
		}
		if o.Name == name {
			p.segs[id] = &pruneSegment{late: true}
			return p.segs[id], nil
		}
	}
	return nil, fmt.Errorf("%w: object %s is missing", dr.ErrCorrupt, name)
}

func (p *pruner) remove(name string, size int64) error {
	if err := p.store.bucket.Delete(p.ctx, name); err != nil {
		return err
	}
	p.freed += size
	return nil
}

// rewrite puts the live blobs of segments under their next generation.
func (p *pruner) rewrite(ids []segID) error {
	in := map[*pruneSegment]bool{}
	for _, id := range ids {
		in[p.segs[id]] = true
	}
	err := p.mark(func(g *pruneSegment, r *ref) {
		if in[g] {
			g.offs = append(g.offs, r.off)
		}
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		g := p.segs[id]
		slices.Sort(g.offs)
		g.offs = slices.Compact(g.offs)
		if err := p.rewriteSegment(id, g); err != nil {
			return err
		}
		g.offs = nil
	}
	return nil
}

func (p *pruner) rewriteSegment(id segID, g *pruneSegment) error {
	s := p.store
	from := Object{Name: segmentName(id, g.gen), Size: g.size}
	f, _, err := s.readFooter(p.ctx, from, id)
	if err != nil {
		return err
	}
	moved := footer{owner: f.owner}
	blobs := 0
	for i := range f.entries {
		e := &f.entries[i]
		if _, ok := slices.BinarySearch(g.offs, e.ref.off); ok && e.flags&entryZero == 0 {
			moved.entries = append(moved.entries, *e)
			blobs += e.ref.len.stored()
		}
	}
	if len(moved.entries) != len(g.offs) {
		return fmt.Errorf("%w: object %s has %d of the %d blobs that are needed", dr.ErrCorrupt, from.Name, len(moved.entries), len(g.offs))
	}
	if int64(segmentHead+blobs+len(s.keys.appendFooter(nil, id, segmentHead+blobs, &moved))) >= g.size {
		return nil
	}
	to := segmentName(id, g.gen+1)
	w, err := s.bucket.Create(p.ctx, to)
	if err != nil {
		return err
	}
	defer w.Abort()
	out := &partWriter{w: w, buf: s.parts.Get()}
	defer s.parts.Put(out.buf)
	out.write(s.keys.segmentHeader(id, g.gen+1))
	for i := range moved.entries {
		if err := s.copyBlob(p.ctx, from.Name, &moved.entries[i], out); err != nil {
			return err
		}
	}
	out.write(s.keys.appendFooter(nil, id, int(out.at), &moved))
	size := out.at
	if err := out.flush(); err != nil {
		return fmt.Errorf("write object %s: %w", to, err)
	}
	if err := w.Commit(p.ctx); err != nil {
		return err
	}
	s.segs.drop(id)
	if err := p.remove(from.Name, from.Size); err != nil {
		return err
	}
	p.freed -= size
	return nil
}

// copyBlob copies the stored bytes of a blob, checked, and sets its new place.
func (s *Store) copyBlob(ctx context.Context, name string, e *entry, out *partWriter) error {
	buf := s.bufs.Get()
	defer s.bufs.Put(buf)
	n := e.ref.len.stored()
	start := int(e.phys) &^ (fsys.Alignment - 1)
	end := (int(e.phys) + n + fsys.Alignment - 1) &^ (fsys.Alignment - 1)
	if err := s.readExact(ctx, name, buf[:end-start], int64(start)); err != nil {
		return err
	}
	b := buf[int(e.phys)-start:][:n]
	if crc32.Checksum(b, castagnoli) != e.crc {
		return fmt.Errorf("%w: object %s at %d: its checksum doesn't match", dr.ErrCorrupt, name, e.phys)
	}
	e.phys = uint32(out.at)
	out.write(b)
	return out.err
}

// partWriter writes an object in parts, one after the other.
type partWriter struct {
	w   Writer
	buf []byte
	n   int
	at  int64 // bytes taken
	err error
}

func (o *partWriter) write(b []byte) {
	for len(b) > 0 && o.err == nil {
		k := copy(o.buf[o.n:], b)
		o.n += k
		o.at += int64(k)
		b = b[k:]
		if o.n == len(o.buf) {
			o.err = o.flush()
		}
	}
}

func (o *partWriter) flush() error {
	if o.err != nil || o.n == 0 {
		return o.err
	}
	_, o.err = o.w.WriteAt(o.buf[:o.n], o.at-int64(o.n))
	o.n = 0
	return o.err
}

package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"runtime"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Scrub reads every object whole and checks every bit of it, and then goes
// through the maps of all points to tell who needs what is damaged. Damage
// without points is in what no point needs: garbage, drafts, or a segment's
// own records. It fails with dr.ErrBusy while the vault is being pruned;
// writers and readers may go on.
//
// Points that are made over a damaged one share its damage until the chunk
// changes, as what is equal by its sum is not stored again, not even by a
// checksum resync. A point without a parent stores everything anew.
func (s *Store) Scrub(ctx context.Context) iter.Seq2[recoverypoint.Damage, error] {
	return func(yield func(recoverypoint.Damage, error) bool) {
		c := &scrubber{store: s, ctx: ctx, yield: yield, bad: map[blobKey]error{}, told: map[blobKey]bool{}, blind: map[segID]error{}, segs: map[segID]string{}}
		if err := c.run(); err != nil && err != errStop {
			yield(recoverypoint.Damage{}, &dr.Error{Op: "scrub", Side: dr.StoreSide, Err: err})
		}
	}
}

type scrubber struct {
	store  *Store
	ctx    context.Context
	yield  func(recoverypoint.Damage, error) bool
	points []kept

	mu    sync.Mutex
	segs  map[segID]string  // segments there are, by the name of their newest generation
	bad   map[blobKey]error // damaged blobs
	told  map[blobKey]bool  // of these, those that some point was told to need; others may too
	blind map[segID]error   // segments whose blobs could not be listed

	last recoverypoint.Damage // not yet yielded: it may grow
}

func (c *scrubber) run() error {
	s := c.store
	if err := s.check(c.ctx); err != nil {
		return err
	}
	lock, err := s.locks.Lock(c.ctx, "prune", false)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := s.readVaultFile(c.ctx); err != nil {
		if err := c.object(recoverypoint.Damage{Object: vaultName}, err); err != nil {
			return err
		}
	}
	if err := c.records(); err != nil {
		return err
	}
	if err := c.segments(); err != nil {
		return err
	}
	if err := c.maps(); err != nil {
		return err
	}
	if err := c.garbage(); err != nil {
		return err
	}
	return c.report(recoverypoint.Damage{})
}

// object reports a damaged object, or passes on an error that is none.
func (c *scrubber) object(d recoverypoint.Damage, err error) error {
	if !errors.Is(err, dr.ErrCorrupt) && !errors.Is(err, dr.ErrNotFound) && !errors.Is(err, dr.ErrUnsupported) {
		return err
	}
	d.Err = err
	return c.report(d)
}

// report yields damage, joining what lies side by side.
func (c *scrubber) report(d recoverypoint.Damage) error {
	l := &c.last
	if l.Object != "" && l.Object == d.Object && l.Machine == d.Machine && l.Disk == d.Disk && l.Disk != "" &&
		l.Extent.End() == d.Extent.Off && slices.Equal(l.Points, d.Points) {
		l.Extent.Len += d.Extent.Len
		return nil
	}
	last := c.last
	c.last = d
	if last.Object != "" && !c.yield(last, nil) {
		return errStop
	}
	return nil
}

// records checks heads, manifests and drafts.
func (c *scrubber) records() error {
	s := c.store
	for o, err := range s.bucket.List(c.ctx, "head/") {
		if err != nil {
			return err
		}
		m := dr.MachineID(o.Name[len("head/"):])
		h, _, err := s.readHead(c.ctx, m)
		if err != nil {
			if err := c.object(recoverypoint.Damage{Object: o.Name, Machine: m}, err); err != nil {
				return err
			}
			continue
		}
		for _, e := range h.entries {
			man, err := s.readManifest(c.ctx, m, e)
			if err != nil {
				if now, _, herr := s.readHead(c.ctx, m); herr == nil {
					if f, ok := now.find(e.id); !ok || f != e {
						continue // deleted meanwhile
					}
				}
				d := recoverypoint.Damage{Object: manifestName(m, e.seq, e.id), Machine: m, Points: []dr.PointID{e.id}}
				if err := c.object(d, err); err != nil {
					return err
				}
				continue
			}
			c.points = append(c.points, kept{machine: m, point: e.id, disks: man.Disks})
		}
	}
	// Machines whose head is missing, and points that no head has any more.
	lost := map[dr.MachineID]bool{}
	checked := map[string]bool{}
	for _, k := range c.points {
		checked[string(k.machine)+"/"+string(k.point)] = true
	}
	for o, err := range s.bucket.List(c.ctx, "point/") {
		if err != nil {
			return err
		}
		m, seq, id, ok := parseManifestName(o.Name)
		if !ok || checked[string(m)+"/"+string(id)] {
			continue
		}
		h, _, err := s.readHead(c.ctx, m)
		if err == nil {
			if _, ok := h.find(id); ok {
				continue // reported above
			}
		}
		if err != nil && !lost[m] {
			lost[m] = true
			if _, v, verr := s.bucket.ReadHead(c.ctx, headName(m)); verr == nil && v == "" {
				if err := c.object(recoverypoint.Damage{Object: headName(m), Machine: m}, err); err != nil {
					return err
				}
			}
		}
		if _, err := s.readManifest(c.ctx, m, headEntry{seq, id}); err != nil && !errors.Is(err, dr.ErrNotFound) {
			if err := c.object(recoverypoint.Damage{Object: o.Name, Machine: m}, err); err != nil {
				return err
			}
		}
	}
	for o, err := range s.bucket.List(c.ctx, "draft/") {
		if err != nil {
			return err
		}
		b, err := s.readObject(c.ctx, kindDraft, o.Name)
		if err == nil {
			_, err = parseDraftRecord(b, o.Name)
		}
		if err != nil && !errors.Is(err, dr.ErrNotFound) {
			if err := c.object(recoverypoint.Damage{Object: o.Name}, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// segments checks all of them, one a processor at a time.
func (c *scrubber) segments() error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	work := make(chan Object)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for o := range work {
				if err := c.segment(ctx, o); err != nil {
					cancel(err)
				}
			}
		})
	}
	for o, err := range c.store.bucket.List(ctx, "seg/") {
		if err != nil {
			cancel(err)
			break
		}
		select {
		case work <- o:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// segment checks one segment and notes what is wrong with it.
func (c *scrubber) segment(ctx context.Context, o Object) error {
	id, gen, ok := parseSegmentName(o.Name)
	if !ok {
		return nil
	}
	c.mu.Lock()
	if _, g, ok := parseSegmentName(c.segs[id]); !ok || g <= gen {
		c.segs[id] = o.Name
	}
	c.mu.Unlock()
	blind := func(err error) error {
		if errors.Is(err, dr.ErrNotFound) {
			return nil // thrown away meanwhile
		}
		if !errors.Is(err, dr.ErrCorrupt) {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.blind[id] = err
		return nil
	}
	f, t, err := c.store.readFooter(ctx, o, id)
	if err != nil {
		return blind(err)
	}
	head := make([]byte, segmentHead)
	if err = c.store.readExact(ctx, o.Name, head, 0); err == nil {
		if err = c.store.keys.checkSegmentHeader(head, id, gen); err != nil {
			err = fmt.Errorf("object %s: %w", o.Name, err)
		}
	}
	if err != nil {
		return blind(err)
	}
	return c.blobs(ctx, o, f, t, blind)
}

// blobs reads a segment's blobs a part at a time. They must fill it without a
// gap.
func (c *scrubber) blobs(ctx context.Context, o Object, f *footer, t trailer, blind func(error) error) error {
	s := c.store
	entries := slices.DeleteFunc(f.entries, func(e entry) bool { return e.flags&entryZero != 0 })
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.phys, b.phys) })
	id, _, _ := parseSegmentName(o.Name)
	g := s.newSegment(id, 0)
	g.name = o.Name
	buf := s.bufs.Get()
	defer s.bufs.Put(buf)
	tmp := s.blocks.Get()
	defer s.blocks.Put(tmp)
	end := segmentHead
	for len(entries) > 0 {
		// A row of blobs that fits the buffer.
		start := end &^ (fsys.Alignment - 1)
		n := 0
		for n < len(entries) && end+entries[n].ref.len.stored()-start <= readSize-fsys.Alignment {
			if int(entries[n].phys) != end {
				return blind(fmt.Errorf("%w: object %s: a gap at %d", dr.ErrCorrupt, o.Name, end))
			}
			end += entries[n].ref.len.stored()
			n++
		}
		if err := s.readExact(ctx, o.Name, buf[:(end-start+fsys.Alignment-1)&^(fsys.Alignment-1)], int64(start)); err != nil {
			return blind(err)
		}
		for i := range entries[:n] {
			e := &entries[i]
			if err := s.checkBlob(g, e, buf[int(e.phys)-start:][:e.ref.len.stored()], tmp); err != nil {
				c.mu.Lock()
				c.bad[e.ref.key()] = err
				c.mu.Unlock()
			}
		}
		entries = entries[n:]
	}
	if end != t.end {
		return blind(fmt.Errorf("%w: object %s: a gap at %d", dr.ErrCorrupt, o.Name, end))
	}
	return nil
}

// checkBlob checks stored bytes against their checksum and their sum.
func (s *Store) checkBlob(g *segment, e *entry, b, tmp []byte) error {
	if crc32.Checksum(b, castagnoli) != e.crc {
		return fmt.Errorf("%w: object %s at %d: its checksum doesn't match", dr.ErrCorrupt, g.name, e.phys)
	}
	b, err := g.open(&e.ref, b)
	if err != nil {
		return err
	}
	if codec := e.ref.len.codec(); codec != Raw {
		if b, err = s.packers.unpack(codec, b, tmp[:0:chunkSize]); err != nil {
			return fmt.Errorf("object %s at %d: %w", g.name, e.phys, err)
		}
	}
	if blocksum.Sum(b) != e.ref.sum {
		return fmt.Errorf("%w: object %s at %d: its sum doesn't match", dr.ErrCorrupt, g.name, e.phys)
	}
	return nil
}

// maps finds who needs what is damaged or missing.
func (c *scrubber) maps() error {
	return c.store.walkAll(c.ctx, c.points, false, func(disk dr.DiskID, of []*kept) *sharedWalk {
		tell := func(level int, chunk int64, r *ref, points []int32, err error) error {
			if !errors.Is(err, dr.ErrCorrupt) {
				return err
			}
			size := int64(0)
			d := recoverypoint.Damage{Machine: of[0].machine, Disk: disk, Err: err}
			for _, i := range points {
				k := of[i]
				d.Points = append(d.Points, k.point)
				m := manifest{Disks: k.disks}
				md, _ := m.disk(disk)
				size = max(size, md.Size)
			}
			c.mu.Lock()
			d.Object = c.segs[r.seg]
			c.mu.Unlock()
			if d.Object == "" {
				d.Object = segmentName(r.seg, 0)
			}
			span := int64(1) << ((level + 1) * pageBits)
			d.Extent = dr.Extent{Off: chunk * chunkSize}
			d.Extent.Len = max(0, min((chunk+span)*chunkSize, size)-d.Extent.Off)
			if _, bad := c.bad[r.key()]; bad {
				c.told[r.key()] = true
			}
			return c.report(d)
		}
		return &sharedWalk{ctx: c.ctx, store: c.store, broken: tell, blob: func(level int, chunk int64, r *ref, points []int32) error {
			err, bad := c.bad[r.key()]
			_, blind := c.blind[r.seg]
			if _, there := c.segs[r.seg]; !bad && (blind || !there) {
				// Not seen, or written since: read it.
				if level >= 0 {
					c.store.pages.drop(r.key())
					return nil // the walk reads it
				}
				m := manifest{Disks: of[points[0]].disks}
				md, _ := m.disk(disk)
				if chunk < chunks(md.Size) {
					tmp := c.store.blocks.Get()
					err = c.store.chunk(c.ctx, r, tmp[:chunkLen(md.Size, chunk)])
					c.store.blocks.Put(tmp)
				} else {
					err = fmt.Errorf("%w: %s is mapped behind the disk's end", dr.ErrCorrupt, r)
				}
				bad = err != nil
			}
			if bad {
				if err := tell(level, chunk, r, points, err); err != nil {
					return err
				}
				return errSkip
			}
			return nil
		}}
	})
}

// garbage reports the damage that no point suffers from.
func (c *scrubber) garbage() error {
	for id, err := range c.blind {
		if err := c.object(recoverypoint.Damage{Object: c.segs[id]}, err); err != nil {
			return err
		}
	}
	for key, err := range c.bad {
		if c.told[key] {
			continue
		}
		if err := c.object(recoverypoint.Damage{Object: c.segs[key.seg]}, err); err != nil {
			return err
		}
	}
	return nil
}

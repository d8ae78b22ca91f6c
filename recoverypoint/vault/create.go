package vault

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// draftRecord says that a process writes, or wrote, segments of a draft. It is
// put before the first of them, and removed when the draft is committed or
// thrown away.
type draftRecord struct {
	Version int      `json:"version"`
	Turn    int      `json:"turn"` // how many processes worked on it before
	Point   dr.Point `json:"point"`

	session sessionID
	name    string
	broken  bool // damaged: of the rest, only session and name are known
}

// numbers from which a session counts its segments.
const (
	firstData = 1
	firstMap  = 1 << 31
)

func draftPrefix(m dr.MachineID) string { return "draft/" + string(m) + "/" }

// draftRecords reads the records of a machine's drafts, or of all machines'.
func (s *Store) draftRecords(ctx context.Context, prefix string) ([]*draftRecord, error) {
	var all []*draftRecord
	for o, err := range s.bucket.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		r := &draftRecord{name: o.Name, broken: true}
		if r.session, err = parseSession(o.Name); err != nil {
			continue // nothing of ours
		}
		b, err := s.readObject(ctx, kindDraft, o.Name)
		if err == nil {
			if parsed, err := parseDraftRecord(b, o.Name); err == nil {
				r = parsed
			}
		} else if errors.Is(err, dr.ErrNotFound) {
			continue // ended since
		} else if !errors.Is(err, dr.ErrCorrupt) {
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b *draftRecord) int { return a.Turn - b.Turn })
	return all, nil
}

func parseDraftRecord(b []byte, name string) (*draftRecord, error) {
	r := &draftRecord{name: name}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: draft record: %w", dr.ErrCorrupt, err)
	}
	var err error
	if r.session, err = parseSession(name); err != nil || r.Version != 1 || r.Turn < 0 {
		return nil, fmt.Errorf("%w: draft record", dr.ErrCorrupt)
	}
	return r, nil
}

func parseSession(name string) (sessionID, error) {
	id, err := hex.DecodeString(name[strings.LastIndexByte(name, '/')+1:])
	if err != nil || len(id) != len(sessionID{}) {
		return sessionID{}, fmt.Errorf("%w: name of a draft record", dr.ErrCorrupt)
	}
	return sessionID(id), nil
}

// machine is whose draft it is, from the name.
func (r *draftRecord) machine() dr.MachineID {
	m, _, _ := strings.Cut(strings.TrimPrefix(r.name, "draft/"), "/")
	return dr.MachineID(m)
}

// Pending yields the points whose drafts are begun and not committed.
func (s *Store) Pending(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) {
		err := errors.Join(s.check(ctx), m.Validate())
		var records []*draftRecord
		if err == nil {
			records, err = s.draftRecords(ctx, draftPrefix(m))
		}
		if err != nil {
			yield(dr.Point{}, &dr.Error{Op: "list drafts", Side: dr.StoreSide, Machine: m, Err: err})
			return
		}
		h, _, err := s.readHead(ctx, m)
		if err != nil {
			yield(dr.Point{}, &dr.Error{Op: "list drafts", Side: dr.StoreSide, Machine: m, Err: err})
			return
		}
		seen := map[dr.PointID]bool{}
		for _, r := range records {
			if _, committed := h.find(r.Point.ID); !committed && !r.broken && !seen[r.Point.ID] {
				seen[r.Point.ID] = true
				if !yield(r.Point, nil) {
					return
				}
			}
		}
	}
}

// Create begins a point, or goes on with one that was interrupted.
func (s *Store) Create(ctx context.Context, p dr.Point) (dr.Draft, error) {
	fail := func(err error) (dr.Draft, error) {
		var known *dr.Error
		if errors.As(err, &known) {
			return nil, err
		}
		return nil, &dr.Error{Op: "create point", Side: dr.StoreSide, Machine: p.Machine.ID, Point: p.ID, Err: err}
	}
	if err := validPoint(p); err != nil {
		return fail(err)
	}
	p = p.Clone()
	leave, err := s.enter(ctx)
	if err != nil {
		return fail(err)
	}
	unbusy, err := s.reserve(p.Machine.ID, p.ID)
	if err != nil {
		leave()
		return fail(err)
	}
	d, err := s.create(ctx, p, leave, unbusy)
	if err != nil {
		unbusy()
		leave()
		return fail(err)
	}
	return d, nil
}

// abort gives back what a draft holds that could not be filled.
func (d *draft) abort(why error) {
	for _, log := range []*logWriter{d.data, d.maps.log} {
		if log != nil {
			log.fail(why) // nothing more is appended
			_ = log.seal()
		}
	}
	for _, pin := range d.pins {
		pin.Close()
	}
}

func validPoint(p dr.Point) error {
	if err := errors.Join(p.ID.Validate(), p.Machine.ID.Validate()); err != nil {
		return err
	}
	if len(p.Machine.Disks) > 1<<10 {
		return fmt.Errorf("%w: %d disks", dr.ErrInvalid, len(p.Machine.Disks))
	}
	seen := map[dr.DiskID]bool{}
	for _, d := range p.Machine.Disks {
		if d.ID == "" || len(d.ID) > 1<<10 || seen[d.ID] {
			return fmt.Errorf("%w: disk ID %q", dr.ErrInvalid, d.ID)
		}
		if !utf8.ValidString(string(d.ID)) || !utf8.ValidString(string(p.Cursors[d.ID])) {
			return fmt.Errorf("%w: disk ID %q, cursor %q: want UTF-8, as manifests are JSON", dr.ErrInvalid, d.ID, p.Cursors[d.ID])
		}
		seen[d.ID] = true
		if d.Size < 0 || d.Size > maxDisk {
			return fmt.Errorf("%w: disk %s of %d bytes; at most %d", dr.ErrInvalid, d.ID, d.Size, maxDisk)
		}
	}
	return nil
}

// reserve makes sure of one draft a machine.
func (s *Store) reserve(m dr.MachineID, id dr.PointID) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.busy[m]; ok {
		return nil, &dr.Error{Op: "create point", Side: dr.StoreSide, Machine: m, Err: fmt.Errorf("%w: another draft of this machine is open, of point %s", dr.ErrBusy, other),
			Remedy: "commit or close that one first"}
	}
	s.busy[m] = id
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, m)
	}), nil
}

// discardDrafts throws away a machine's drafts of one ID, unless that is
// committed, in which case records are only left over.
func (s *Store) discardDrafts(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	records, err := s.draftRecords(ctx, draftPrefix(m))
	if err != nil {
		return err
	}
	records = slices.DeleteFunc(records, func(r *draftRecord) bool { return r.broken || r.Point.ID != id })
	if len(records) == 0 {
		return nil
	}
	unbusy, err := s.reserve(m, id)
	if err != nil {
		return err
	}
	defer unbusy()
	for _, r := range records {
		if err := s.discard(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) create(ctx context.Context, p dr.Point, leave, unbusy func()) (dr.Draft, error) {
	h, v, err := s.readHead(ctx, p.Machine.ID)
	if err == nil && v == "" {
		// So that a head that is missing later is known to be lost.
		err = s.changeHead(ctx, p.Machine.ID, func(*head) (bool, error) { return true, nil })
	}
	if err != nil {
		return nil, err
	}
	if _, ok := h.find(p.ID); ok {
		img, err := s.open(ctx, p.Machine.ID, p.ID)
		if err != nil {
			return nil, err
		}
		if !recoverypoint.SameDraft(img.man.Point, p) {
			return nil, errors.Join(fmt.Errorf("%w: a committed point of another moment", dr.ErrExists), img.Close())
		}
		return &committed{image: img, leave: leave, unbusy: unbusy}, nil
	}
	d := &draft{store: s, ctx: context.WithoutCancel(ctx), point: p, resumed: map[sessionID]bool{}, maps: &mapset{store: s}, leave: leave, unbusy: unbusy}
	if err := s.fillDraft(ctx, d); err != nil {
		d.abort(err)
		return nil, err
	}
	return d, nil
}

// fillDraft makes the draft's content that of its parent, and of what earlier
// processes stored.
func (s *Store) fillDraft(ctx context.Context, d *draft) error {
	p := d.point
	var parent *manifest
	if p.Parent != "" {
		img, err := s.open(ctx, p.Machine.ID, p.Parent)
		if err != nil {
			return fmt.Errorf("parent %s: %w", p.Parent, err)
		}
		parent = img.man
		d.pins = append(d.pins, closeFunc(img.Close))
	}
	records, err := s.draftRecords(ctx, draftPrefix(p.Machine.ID))
	if err != nil {
		return err
	}
	turn := 0
	var earlier []*draftRecord
	for _, r := range records {
		if r.broken {
			// What it wrote is prune's, once the record is gone.
			if err := s.bucket.Delete(ctx, r.name); err != nil {
				return err
			}
		} else if recoverypoint.SameDraft(r.Point, p) {
			earlier = append(earlier, r)
			turn = max(turn, r.Turn+1)
			d.resumed[r.session] = true
		} else if err := s.discard(ctx, r); err != nil {
			return err
		}
	}
	rand.Read(d.session[:])
	o := owner{machine: p.Machine.ID, point: p.ID}
	for i, disk := range p.Machine.Disks {
		o.disks = append(o.disks, dr.Disk{ID: disk.ID, Size: disk.Size})
		m := &diskMap{id: disk.ID, index: i, size: disk.Size, level: rootLevel(disk.Size)}
		d.maps.disks = append(d.maps.disks, m)
	}
	d.data = s.newLog(ctx, o, d.session, firstData)
	d.maps.log = s.newLog(ctx, o, d.session, firstMap)
	// The record comes before anything that it must keep from being pruned.
	body, err := json.Marshal(&draftRecord{Version: 1, Turn: turn, Point: p})
	if err != nil {
		return err
	}
	if err := s.writeObject(ctx, kindDraft, draftPrefix(p.Machine.ID)+d.session.String(), body); err != nil {
		return err
	}
	for _, m := range d.maps.disks {
		if parent == nil {
			break
		}
		if pd, ok := parent.disk(m.id); ok {
			if err := d.adopt(ctx, m, pd); err != nil {
				return err
			}
		}
	}
	for _, r := range earlier {
		if err := d.recover(ctx, r.session); err != nil {
			return err
		}
	}
	// Last, and only what no earlier process had stored: in this session's log
	// the parent's bytes would be taken for newer ones by the next that resumes.
	for _, m := range d.maps.disks {
		if parent == nil {
			break
		}
		if pd, ok := parent.disk(m.id); ok {
			if err := d.fit(ctx, m, pd.Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// adopt begins a disk's map as the parent's, whose disk may have had another
// size: then [draft.fit] has to follow.
func (d *draft) adopt(ctx context.Context, m *diskMap, parent *manifestDisk) error {
	t := parent.tree()
	if t.root.isZero() || m.size == 0 {
		return nil
	}
	// A shallower tree is the first child of a deeper one, and the other way
	// round.
	for t.level > m.level {
		p, err := d.store.page(ctx, &t.root, t.level)
		if err != nil {
			return err
		}
		t.root, t.level = p.refs[0], t.level-1
	}
	if t.level == m.level {
		m.ref = t.root
	} else if err := d.maps.plant(ctx, m, t); err != nil {
		return err
	}
	if m.size < parent.Size {
		return d.maps.cut(ctx, m)
	}
	return nil
}

// fit gives the chunk at the end of the smaller of a disk's and its parent's
// size the length that it has now, if it is the parent's still.
func (d *draft) fit(ctx context.Context, m *diskMap, parent int64) error {
	size := min(m.size, parent)
	if m.size == parent || size%chunkSize == 0 {
		return nil
	}
	chunk := size / chunkSize
	r, err := d.maps.get(ctx, m, chunk)
	if err != nil || r.isZero() || d.ours(r.seg.session()) {
		return err
	}
	buf := make([]byte, chunkSize)
	if err := d.store.chunk(ctx, &r, buf[:chunkLen(parent, chunk)]); err != nil {
		return err
	}
	return d.put(ctx, m, chunk, buf[:chunkLen(m.size, chunk)], false)
}

// segments yields a session's segments of generation 0 in their order.
func (s *Store) segments(ctx context.Context, id sessionID) iter.Seq2[Object, error] {
	return s.bucket.List(ctx, segmentPrefix(id))
}

// syncSeen makes durable what is seen of a prefix, for a point that is to need it.
func (s *Store) syncSeen(ctx context.Context, prefix string) error {
	if y, ok := dr.As[Syncer](s.bucket); ok {
		return y.Sync(ctx, prefix)
	}
	return nil
}

// recover brings back the chunks that an earlier process stored, from the
// footers of its segments: as far as there is no gap.
func (d *draft) recover(ctx context.Context, session sessionID) error {
	next := uint32(firstData)
	for o, err := range d.store.segments(ctx, session) {
		if err != nil {
			return err
		}
		id, _, ok := parseSegmentName(o.Name)
		if !ok {
			continue
		}
		if binary.BigEndian.Uint32(id[12:]) != next {
			continue // map pages, which are written anew, or behind a gap
		}
		if next == firstData {
			if err := d.store.syncSeen(ctx, segmentPrefix(session)); err != nil {
				return err
			}
		}
		next++
		f, _, err := d.store.readFooter(ctx, o, id)
		if errors.Is(err, dr.ErrCorrupt) {
			return nil // what follows is copied again
		}
		if err != nil {
			return err
		}
		if err := d.apply(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (d *draft) apply(ctx context.Context, f *footer) error {
	for i := range f.entries {
		e := &f.entries[i]
		if e.level >= 0 || e.disk >= len(d.maps.disks) || e.chunk >= chunks(d.maps.disks[e.disk].size) {
			continue
		}
		m := d.maps.disks[e.disk]
		old, err := d.maps.get(ctx, m, e.chunk)
		if err != nil {
			return err
		}
		// A piece over the parent's content will come again; over the draft's
		// own it is the newer.
		if e.flags&entryWhole == 0 && !d.resumed[old.seg.session()] {
			continue
		}
		r := e.ref
		if e.flags&entryZero != 0 {
			r = ref{}
		}
		if err := d.maps.set(ctx, m, e.chunk, r); err != nil {
			return err
		}
	}
	return nil
}

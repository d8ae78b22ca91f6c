package vault

import (
	"container/list"
	"context"
	"iter"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// residentPages bounds the map pages that a draft holds in memory, 20 KiB
// each. What is beyond is written out and read again when it is needed.
const residentPages = 768

// mapset is the maps of a draft's disks, changed in memory page by page. All
// methods are safe for concurrent use.
type mapset struct {
	store *Store
	log   *logWriter // for pages

	mu    sync.Mutex
	disks []*diskMap
	used  list.List // of *node, most recently used first
	fail  error     // of an eviction; the draft can't go on after it
}

// diskMap is the map of one disk, as deep as its size demands.
type diskMap struct {
	id    dr.DiskID
	index int // in the footers' list of disks
	size  int64
	level int
	root  *node
	ref   ref // of the root, if it isn't resident
}

// node is a page in memory.
type node struct {
	disk   *diskMap
	parent *node // nil: the root
	base   int64 // the first chunk below
	page   *page
	shared bool // page belongs to the cache: copy before writing
	dirty  bool
	kids   map[int]*node
	place  *list.Element
}

// get returns where a chunk is.
func (m *mapset) get(ctx context.Context, d *diskMap, chunk int64) (ref, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.leaf(ctx, d, chunk)
	if err != nil {
		return ref{}, err
	}
	return n.page.refs[slot(chunk, 0)], nil
}

// set changes where a chunk is.
func (m *mapset) set(ctx context.Context, d *diskMap, chunk int64, r ref) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.leaf(ctx, d, chunk)
	if err != nil {
		return err
	}
	n.set(slot(chunk, 0), r)
	return nil
}

// view calls see with the references of chunks [from, to), which have one leaf.
func (m *mapset) view(ctx context.Context, d *diskMap, from, to int64, see func(refs []ref)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.leaf(ctx, d, from)
	if err != nil {
		return err
	}
	i := slot(from, 0)
	see(n.page.refs[i : i+int(to-from)])
	return nil
}

func (n *node) set(i int, r ref) {
	if n.page.refs[i] == r {
		return
	}
	if n.shared {
		p := *n.page
		n.page, n.shared = &p, false
	}
	n.page.refs[i] = r
	n.dirty = true
}

// leaf finds a chunk's page of level 0; m.mu is held.
func (m *mapset) leaf(ctx context.Context, d *diskMap, chunk int64) (*node, error) {
	if m.fail != nil {
		return nil, m.fail
	}
	if d.root == nil {
		p, err := m.load(ctx, &d.ref, d.level)
		if err != nil {
			return nil, err
		}
		d.root = &node{disk: d, page: p, shared: true, kids: map[int]*node{}}
		d.root.place = m.used.PushFront(d.root)
	}
	n := d.root
	for level := d.level; level > 0; level-- {
		i := slot(chunk, level)
		kid, ok := n.kids[i]
		if !ok {
			p, err := m.load(ctx, &n.page.refs[i], level-1)
			if err != nil {
				return nil, err
			}
			kid = &node{disk: d, parent: n, base: chunk >> (level * pageBits) << (level * pageBits), page: p, shared: true}
			if level > 1 {
				kid.kids = map[int]*node{}
			}
			kid.place = m.used.PushFront(kid)
			n.kids[i] = kid
		}
		n = kid
	}
	if m.used.Front() != n.place {
		m.used.MoveToFront(n.place)
	}
	return n, m.evict(n)
}

// load reads a page, also one that this draft has written out just now.
func (m *mapset) load(ctx context.Context, r *ref, level int) (*page, error) {
	if !r.isZero() {
		if p, ok := m.store.pages.get(r.key()); ok && p.level == level {
			return p, nil
		}
		if err := m.log.settle(r.seg); err != nil {
			return nil, err
		}
	}
	return m.store.page(ctx, r, level)
}

// evict writes out the pages used longest ago that have none below them in
// memory, except keep and what is above it.
func (m *mapset) evict(keep *node) error {
	e := m.used.Back()
	for m.used.Len() > residentPages && e != nil {
		n := e.Value.(*node)
		e = e.Prev()
		if n == keep || len(n.kids) > 0 {
			continue
		}
		if err := m.write(n); err != nil {
			m.fail = err
			return err
		}
		m.used.Remove(n.place)
		if n.parent == nil {
			n.disk.root = nil
			continue
		}
		delete(n.parent.kids, slot(n.base, n.page.level+1))
	}
	return nil
}

// write stores a page if it was changed, and tells the page above.
func (m *mapset) write(n *node) error {
	if !n.dirty {
		return nil
	}
	var r ref
	if !n.page.empty() {
		b := appendPage(nil, n.page)
		row := []blob{{entry: entry{chunk: n.base, disk: n.disk.index, level: n.page.level}, sum: blocksum.Sum(b), bytes: b}}
		if err := m.log.append(row); err != nil {
			return err
		}
		r = row[0].ref
		m.store.pages.put(r.key(), n.page, pageMemory)
		n.shared = true
	}
	n.dirty = false
	if n.parent == nil {
		n.disk.ref = r
	} else {
		n.parent.set(slot(n.base, n.page.level+1), r)
	}
	return nil
}

// flush stores every changed page, and returns when all are durable.
func (m *mapset) flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, d := range m.disks {
		if d.root == nil {
			continue
		}
		if err := m.writeBelow(d.root); err != nil {
			return err
		}
	}
	return m.log.seal()
}

func (m *mapset) writeBelow(n *node) error {
	for i := 0; len(n.kids) > 0 && i < pageRefs; i++ {
		if kid, ok := n.kids[i]; ok {
			if err := m.writeBelow(kid); err != nil {
				return err
			}
		}
	}
	return m.write(n)
}

// leaves yields, ascending, the first chunk and the number of chunks of each
// leaf that may hold blobs of the given sessions.
func (m *mapset) leaves(ctx context.Context, d *diskMap, ours func(sessionID) bool) iter.Seq2[[2]int64, error] {
	return func(yield func([2]int64, error) bool) {
		total := chunks(d.size)
		for chunk := int64(0); chunk < total; {
			m.mu.Lock()
			next, skip, err := m.skip(ctx, d, chunk, ours)
			m.mu.Unlock()
			if err != nil {
				yield([2]int64{}, err)
				return
			}
			if !skip && !yield([2]int64{chunk, min(next, total) - chunk}, nil) {
				return
			}
			chunk = next
		}
	}
}

// skip goes down towards a chunk's leaf until a page that isn't of ours, and
// returns the first chunk behind the subtree that it reached.
func (m *mapset) skip(ctx context.Context, d *diskMap, chunk int64, ours func(sessionID) bool) (next int64, skip bool, err error) {
	behind := func(level int) int64 {
		span := int64(1) << ((level + 1) * pageBits)
		return chunk&^(span-1) + span
	}
	var p *page
	n, r := d.root, d.ref
	for level := d.level; ; level-- {
		if n == nil {
			if r.isZero() || !ours(r.seg.session()) {
				return behind(level), true, nil
			}
			if p, err = m.load(ctx, &r, level); err != nil {
				return 0, false, err
			}
		} else {
			p = n.page
		}
		if level == 0 {
			return behind(0), false, nil
		}
		i := slot(chunk, level)
		r = p.refs[i]
		if n != nil {
			n = n.kids[i]
		}
	}
}

// plant makes a tree the lowest first part of a disk that has a deeper one.
func (m *mapset) plant(ctx context.Context, d *diskMap, t tree) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	top := &node{disk: d, page: &page{level: d.level}, kids: map[int]*node{}}
	top.place = m.used.PushFront(top)
	d.root = top
	for n := top; ; {
		if n.page.level == t.level+1 {
			n.set(0, t.root)
			return nil
		}
		kid := &node{disk: d, parent: n, page: &page{level: n.page.level - 1}, kids: map[int]*node{}}
		kid.place = m.used.PushFront(kid)
		n.kids[0] = kid
		n = kid
	}
}

// cut drops what lies behind a disk's end.
func (m *mapset) cut(ctx context.Context, d *diskMap) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := chunks(d.size) - 1
	n, err := m.leaf(ctx, d, last)
	if err != nil {
		return err
	}
	for ; n != nil; n = n.parent {
		for i := slot(last, n.page.level) + 1; i < pageRefs; i++ {
			n.set(i, ref{})
		}
	}
	return nil
}

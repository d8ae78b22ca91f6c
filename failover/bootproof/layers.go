package bootproof

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// stack is a disk that goes on from a point: layers of what was written, each
// above those before, the point below all. Only the last one is written. Where a
// layer ends is a moment that can be read for as long as wanted.
type stack struct {
	disk dr.Disk
	base nbd.Device

	mu     sync.RWMutex // held for writing while layers come and go
	layers []*layer     // oldest first, never empty

	// Who reads moments reads without mu, for as long as a copy takes: layers that
	// were merged meanwhile stay open until nobody does.
	reading sync.Mutex
	readers int
	retired []*os.File
}

// enter begins to read moments; leave ends it.
func (s *stack) enter() {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.readers++
}

func (s *stack) leave() {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.readers--
	s.tidy()
}

// tidy closes what nobody reads. The caller holds reading. The files have no names
// any more, and what they hold is elsewhere.
func (s *stack) tidy() {
	if s.readers > 0 {
		return
	}
	for _, f := range s.retired {
		_ = f.Close()
	}
	s.retired = nil
}

// retire closes a merged layer's file when nobody reads it any more.
func (s *stack) retire(l *layer) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.retired = append(s.retired, l.file)
	s.tidy()
}

// layer is one of them. Its number says which moment it ends at; a layer that was
// merged with older ones keeps the newest number.
type layer struct {
	number int
	name   string // of its file
	file   *os.File
	over   *nbd.Overlay
	below  *below
}

// below is what a layer stands on: another one once that was merged.
type below struct{ at atomic.Pointer[nbd.Device] }

func onto(d nbd.Device) *below {
	b := &below{}
	b.at.Store(&d)
	return b
}

// Size implements nbd.Device.
func (b *below) Size() int64 { return (*b.at.Load()).Size() }

// ReadAt implements nbd.Device.
func (b *below) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return (*b.at.Load()).ReadAt(ctx, p, off)
}

// Extents implements nbd.Mapper: what isn't known counts as data.
func (b *below) Extents(ctx context.Context, off, n int64) iter.Seq2[nbd.Extent, error] {
	if m, ok := (*b.at.Load()).(nbd.Mapper); ok {
		return m.Extents(ctx, off, n)
	}
	return func(func(nbd.Extent, error) bool) {}
}

// open opens the file of a layer above what is there, or makes it, if it is
// fresh. The caller syncs the folder.
func (s *stack) open(dir, name, identity string, number int, fresh bool) error {
	l, err := s.layer(dir, name, identity, number, fresh)
	if err == nil {
		s.layers = append(s.layers, l)
	}
	return err
}

func (s *stack) layer(dir, name, identity string, number int, fresh bool) (*layer, error) {
	under := s.base
	if len(s.layers) > 0 {
		under = s.layers[len(s.layers)-1].over
	}
	flag := os.O_RDWR
	if fresh {
		flag |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(filepath.Join(dir, name), flag, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: disk %s: what the machine wrote is gone: %w", dr.ErrCorrupt, s.disk.ID, err)
	}
	if err != nil {
		return nil, err
	}
	// An empty one would be taken for a new one, without what was written.
	if info, err := f.Stat(); err != nil || !fresh && info.Size() == 0 {
		if err == nil {
			err = fmt.Errorf("%w: disk %s: what the machine wrote is gone: %s is empty", dr.ErrCorrupt, s.disk.ID, name)
		}
		return nil, errors.Join(err, f.Close())
	}
	l := &layer{number: number, name: name, file: f, below: onto(under)}
	if l.over, err = nbd.OpenOverlay(l.below, nbd.OverlayOptions{File: f, Identity: identity}); err != nil {
		return nil, errors.Join(fmt.Errorf("disk %s: %w", s.disk.ID, err), f.Close())
	}
	return l, nil
}

// top is the last layer. It stays the last one until done is called.
func (s *stack) top() (l *layer, done func()) {
	s.mu.RLock()
	return s.layers[len(s.layers)-1], s.mu.RUnlock
}

// find is the layer that ends at a moment, or holds it: the first of that number or
// a greater one.
func (s *stack) find(number int) *layer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.layers {
		if l.number >= number {
			return l
		}
	}
	return nil
}

// between are the layers behind one moment and up to another.
func (s *stack) between(after, last int) []*layer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*layer
	for _, l := range s.layers {
		if l.number > after && l.number <= last {
			out = append(out, l)
		}
	}
	return out
}

func (s *stack) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for i := len(s.layers) - 1; i >= 0; i-- {
		l := s.layers[i]
		errs = append(errs, l.over.Flush(context.Background()), l.file.Close())
	}
	return errors.Join(errs...)
}

// A stack is what the guest reads and writes.
var (
	_ nbd.Writer  = (*stack)(nil)
	_ nbd.Flusher = (*stack)(nil)
	_ nbd.Zeroer  = (*stack)(nil)
	_ nbd.Trimmer = (*stack)(nil)
	_ nbd.Mapper  = (*stack)(nil)
)

// Size implements nbd.Device.
func (s *stack) Size() int64 { return s.base.Size() }

// ReadAt implements nbd.Device.
func (s *stack) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	l, done := s.top()
	defer done()
	return l.over.ReadAt(ctx, p, off)
}

// WriteAt implements nbd.Writer.
func (s *stack) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	l, done := s.top()
	defer done()
	return l.over.WriteAt(ctx, p, off)
}

// Flush implements nbd.Flusher. Layers below the last were flushed when they ended.
func (s *stack) Flush(ctx context.Context) error {
	l, done := s.top()
	defer done()
	return l.over.Flush(ctx)
}

// Zero implements nbd.Zeroer.
func (s *stack) Zero(ctx context.Context, off, n int64) error {
	l, done := s.top()
	defer done()
	return l.over.Zero(ctx, off, n)
}

// Trim implements nbd.Trimmer.
func (s *stack) Trim(ctx context.Context, off, n int64) error { return s.Zero(ctx, off, n) }

// Extents implements nbd.Mapper.
func (s *stack) Extents(ctx context.Context, off, n int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		l, done := s.top()
		defer done()
		l.over.Extents(ctx, off, n)(yield)
	}
}

// mergeable finds two neighbours, below the last, of which the older one ends at
// no moment that is wanted: its index, or -1.
func (s *stack) mergeable(wanted func(number int) bool) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.IndexFunc(s.layers[:max(0, len(s.layers)-2)], func(l *layer) bool { return !wanted(l.number) })
}

// pour copies what the layer behind index i has into that one: what is read above
// both stays the same at every instant. Nobody may read at the older one's end.
func (s *stack) pour(ctx context.Context, i int) (older, newer *layer, err error) {
	s.mu.RLock()
	older, newer = s.layers[i], s.layers[i+1]
	s.mu.RUnlock()
	buf := make([]byte, 1<<20)
	for e, err := range newer.over.Changed(ctx) {
		if err != nil {
			return nil, nil, err
		}
		if e.Zero {
			if err := older.over.Zero(ctx, e.Off, e.Len); err != nil {
				return nil, nil, err
			}
			continue
		}
		for off := e.Off; off < e.Off+e.Len; {
			p := buf[:min(int64(len(buf)), e.Off+e.Len-off, s.Size()-off)]
			if len(p) == 0 {
				break // the last block may be short
			}
			if _, err := newer.over.ReadAt(ctx, p, off); err != nil {
				return nil, nil, err
			}
			if _, err := older.over.WriteAt(ctx, p, off); err != nil {
				return nil, nil, err
			}
			off += int64(len(p))
		}
	}
	return older, newer, older.over.Flush(ctx)
}

// drop lets the older layer stand for both. The record that says so must be
// durable.
func (s *stack) drop(i int) (gone *layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older, newer := s.layers[i], s.layers[i+1]
	var d nbd.Device = older.over
	s.layers[i+2].below.at.Store(&d)
	older.number = newer.number
	s.layers = slices.Delete(s.layers, i+1, i+2)
	return newer
}

// union merges sequences of extents, each ascending, into one that covers them.
func union(all []iter.Seq2[dr.Extent, error], size int64) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		type head struct {
			e    dr.Extent
			next func() (dr.Extent, error, bool)
		}
		var heads []*head
		for _, s := range all {
			next, stop := iter.Pull2(s)
			defer stop()
			heads = append(heads, &head{next: next})
		}
		// pull takes a head's next extent, or removes the head.
		pull := func(h *head) error {
			e, err, ok := h.next()
			if err != nil {
				return err
			}
			if !ok {
				heads = slices.DeleteFunc(heads, func(x *head) bool { return x == h })
				return nil
			}
			h.e = e
			return nil
		}
		for _, h := range slices.Clone(heads) {
			if err := pull(h); err != nil {
				yield(dr.Extent{}, err)
				return
			}
		}
		for len(heads) > 0 {
			run := slices.MinFunc(heads, func(a, b *head) int { return int(min(1, max(-1, a.e.Off-b.e.Off))) }).e
			run.Zero = false // whoever reads it sees
			for again := true; again; {
				again = false
				for _, h := range slices.Clone(heads) {
					if h.e.Off > run.End() {
						continue
					}
					run.Len = max(run.End(), h.e.End()) - run.Off
					again = true
					if err := pull(h); err != nil {
						yield(dr.Extent{}, err)
						return
					}
				}
			}
			run.Len = min(run.End(), size) - run.Off
			if run.Len > 0 && !yield(run, nil) {
				return
			}
		}
	}
}

package remote

import (
	"fmt"
	"io/fs"
	"iter"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// opened makes a call of what the client has open.
func (s *served) opened() (any, error) {
	h, err := s.x.find(s.handle)
	if err != nil {
		return nil, err
	}
	switch s.op {
	case agentwire.OpClose:
		defer s.x.drop(h)
		return nil, h.close()
	case agentwire.OpCommit:
		return nil, s.commit(h)
	}
	h.use.RLock()
	defer h.use.RUnlock()
	if h.closed {
		return nil, fs.ErrClosed
	}
	var on any
	switch {
	case h.image != nil:
		on = h.image
	case h.draft != nil:
		on = h.draft
	}
	switch s.op {
	case agentwire.OpChanges:
		if s.arg.Point == nil {
			return nil, fmt.Errorf("%w: no point", dr.ErrInvalid)
		}
		t, err := ability[dr.ChangeTracker](s, on)
		if err != nil {
			return nil, err
		}
		return nil, s.extents(t.Changes(s.ctx, s.arg.Disk, *s.arg.Point))
	case agentwire.OpExtents:
		m, err := ability[dr.Mapper](s, on)
		if err != nil {
			return nil, err
		}
		return nil, s.extents(m.Extents(s.ctx, s.arg.Disk))
	case agentwire.OpDurable:
		r, err := ability[dr.Resumer](s, on)
		if err != nil {
			return nil, err
		}
		return nil, s.extents(r.Durable(s.ctx, s.arg.Disk))
	case agentwire.OpSettle:
		t, err := ability[dr.Settler](s, on)
		if err != nil {
			return nil, err
		}
		more, err := t.Settle(s.ctx)
		return settled{More: more, Point: h.image.Point()}, err
	case agentwire.OpLinger:
		l, err := ability[dr.Lingerer](s, on)
		if err != nil {
			return nil, err
		}
		left, err := l.Linger(s.ctx)
		return settled{Left: left, Point: h.image.Point()}, err
	}
	return nil, fmt.Errorf("%w: %s of what is open under number %d", dr.ErrInvalid, s.op, h.id)
}

func (s *served) commit(h *handle) error {
	if h.draft == nil || s.arg.Point == nil {
		return fmt.Errorf("%w: no draft, or no point", dr.ErrInvalid)
	}
	h.use.Lock()
	defer h.use.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	return h.draft.Commit(s.ctx, *s.arg.Point)
}

// extents streams a sequence. The first goes at once, as it may be all that the
// client looks at; the more there are, the more go together.
func (s *served) extents(seq iter.Seq2[dr.Extent, error]) error {
	var b []byte
	var at int64
	n, most, since := 0, 1, time.Now()
	flush := func() error {
		if n == 0 {
			return nil
		}
		err := s.data(b)
		b, at, n, most, since = b[:0], 0, 0, min(2*most, agentwire.MaxExtents), time.Now()
		return err
	}
	for e, err := range seq {
		if err != nil {
			if lost := flush(); lost != nil {
				return lost
			}
			return err
		}
		b = agentwire.AppendExtent(b, e, at)
		at, n = e.End(), n+1
		if n >= most || time.Since(since) > flushTime {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

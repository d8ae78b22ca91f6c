package vault

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// discard throws away what a session wrote for a draft that nobody wants. Its
// process may only have slept, and have lost its lock meanwhile: so the record
// goes first and the head is swapped, and if that process still commits it finds
// the record gone, or loses its own swap and then finds that. Nothing that a head
// lists is ever missing.
func (s *Store) discard(ctx context.Context, r *draftRecord) error {
	// A record may be left over from a draft that was committed: then other
	// points may need what it wrote, and prune decides. Prune leaves the
	// manifest of such a point as long as the record is there.
	written := false
	for o, err := range s.bucket.List(ctx, pointPrefix(r.Point.Machine.ID)) {
		if err != nil {
			return err
		}
		if _, _, id, ok := parseManifestName(o.Name); ok && id == r.Point.ID {
			written = true
			break
		}
	}
	if err := s.bucket.Delete(ctx, r.name); err != nil {
		return err
	}
	err := s.changeHead(ctx, r.machine(), func(h *head) (bool, error) {
		_, committed := h.find(r.Point.ID)
		written = written || committed
		return !committed, nil
	})
	if err != nil || written {
		return err
	}
	// What is left if this is cut off is prune's.
	for o, err := range s.segments(ctx, r.session) {
		if err != nil {
			return err
		}
		if err := s.bucket.Delete(ctx, o.Name); err != nil {
			return err
		}
	}
	return nil
}

// wanted checks that nobody has discarded the draft, or what it resumed.
func (d *draft) wanted(ctx context.Context) error {
	prefix := draftPrefix(d.point.Machine.ID)
	for session := range d.resumed {
		if err := d.store.there(ctx, prefix+session.String()); err != nil {
			return err
		}
	}
	return d.store.there(ctx, prefix+d.session.String())
}

func (s *Store) there(ctx context.Context, record string) error {
	_, err := s.bucket.ReadAt(ctx, record, make([]byte, 1), 0)
	if errors.Is(err, dr.ErrNotFound) {
		return fmt.Errorf("%w: the draft was thrown away by another process", dr.ErrConflict)
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

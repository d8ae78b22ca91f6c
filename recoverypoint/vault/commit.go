package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Commit makes chunks durable, then the pages that refer to them, then the
// manifest, and at last moves the head: before that nothing is visible, after
// it everything is.
func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.state {
	case draftCommitted:
		return nil
	case draftClosed:
		return d.fail("commit", "", -1, fmt.Errorf("%w: the draft is closed", dr.ErrInvalid))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.commit(ctx, p); err != nil {
		return d.fail("commit", "", -1, err)
	}
	d.state = draftCommitted
	return nil
}

func (d *draft) commit(ctx context.Context, p dr.Point) error {
	s := d.store
	if err := d.pieces.flush(ctx, d); err != nil {
		return err
	}
	if err := d.data.seal(); err != nil {
		return err
	}
	if err := d.maps.flush(); err != nil {
		return err
	}
	man := &manifest{Version: 1, Point: d.point}
	man.Point.Time, man.Point.Consistency, man.Point.Cursors = p.Time, p.Consistency, p.Cursors
	man.Point.Changes = p.Changes
	for _, m := range d.maps.disks {
		man.Disks = append(man.Disks, manifestDisk{ID: m.id, Size: m.size, root: m.ref})
	}
	machine, id := d.point.Machine.ID, d.point.ID
	err := s.changeHead(ctx, machine, func(h *head) (bool, error) {
		if _, ok := h.find(id); ok {
			// An earlier Commit that seemed to fail, perhaps before this was
			// durable: the swap makes it so.
			return true, nil
		}
		// After the head was read: see discard.
		if err := d.wanted(ctx); err != nil {
			return false, err
		}
		man.Seq = h.next
		body, err := encodeManifest(man)
		if err != nil {
			return false, err
		}
		name := manifestName(machine, man.Seq, id)
		// Until the head has it, prune would take it for a deleted point's.
		pin, err := s.pin(ctx, name)
		if err != nil {
			return false, err
		}
		d.pins = append(d.pins, pin)
		err = s.writeObject(ctx, kindPoint, name, body)
		if errors.Is(err, dr.ErrExists) {
			// Left by a Commit that was interrupted before the head knew it.
			if err = s.bucket.Delete(ctx, name); err == nil {
				err = s.writeObject(ctx, kindPoint, name, body)
			}
		}
		h.entries = append(h.entries, headEntry{seq: h.next, id: id})
		h.next++
		return true, err
	})
	if err != nil {
		return err
	}
	// The point is there. A record that can't be removed now is prune's, or the
	// next draft's.
	s.forget(d)
	return nil
}

// forget removes the records of a draft that was committed.
func (s *Store) forget(d *draft) {
	prefix := draftPrefix(d.point.Machine.ID)
	_ = s.bucket.Delete(d.ctx, prefix+d.session.String())
	for session := range d.resumed {
		_ = s.bucket.Delete(d.ctx, prefix+session.String())
	}
}

// committed is the draft of a point that is in the vault already: what is
// written to it is there.
type committed struct {
	*image
	leave, unbusy func()
	once          sync.Once
}

func (c *committed) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	d, err := c.disk("write", disk)
	if err != nil {
		return 0, err
	}
	if off < 0 || off > d.Size || int64(len(p)) > d.Size-off {
		return 0, c.fail("write", disk, off, dr.ErrOutOfRange)
	}
	return len(p), ctx.Err()
}

func (c *committed) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	d, err := c.disk("zero", disk)
	if err != nil {
		return err
	}
	if off < 0 || n < 0 || off > d.Size || n > d.Size-off {
		return c.fail("zero", disk, off, dr.ErrOutOfRange)
	}
	return ctx.Err()
}

func (c *committed) Durable(_ context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := c.disk("resume", disk)
		if err != nil {
			yield(dr.Extent{}, err)
		} else if d.Size > 0 {
			yield(dr.Extent{Len: d.Size}, nil)
		}
	}
}

func (c *committed) Commit(ctx context.Context, _ dr.Point) error { return ctx.Err() }

func (c *committed) Close() (err error) {
	c.once.Do(func() {
		err = c.image.Close()
		c.unbusy()
		c.leave()
	})
	return err
}

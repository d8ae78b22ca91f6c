package pageblob

import (
	"context"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// readHead reads a machine's head; a machine without points has an empty one.
// But nothing is ever put before the head: if there is something, it is lost.
func (s *Store) readHead(ctx context.Context, m dr.MachineID) (*head, azcore.ETag, error) {
	if err := ended(ctx); err != nil {
		return nil, "", err
	}
	name := machineDir(m) + headName
	b, tag, err := s.get(ctx, name)
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		var other object
		for o, lerr := range s.list(ctx, machineDir(m), false) {
			if lerr != nil {
				return nil, "", lerr
			}
			other = o
			break
		}
		if other.name == "" {
			return &head{Format: headFormat, Next: 1}, "", nil
		}
		// Unless it was made in the meantime.
		b, tag, err = s.get(ctx, name)
		if bloberror.HasCode(err, bloberror.BlobNotFound) {
			return nil, "", fmt.Errorf("%w: object %s is missing, but there is %s", dr.ErrCorrupt, name, other.name)
		}
	}
	if err != nil {
		return nil, "", err
	}
	h, err := parseHead(b)
	if err != nil {
		return nil, "", fmt.Errorf("object %s: %w", name, err)
	}
	return h, tag, nil
}

// changeHead swaps the head for what change makes of it; change returns false
// if nothing is to be done. It runs again, on the head as it is then, when
// somebody else was faster, and so must put objects that it lets the head name
// under another name each time: one that Prune saw before the swap, and that no
// head named, may be gone. Changes of this process take turns, so that none of
// many loses again and again.
//
// What the head no longer names is deleted before changeHead returns. If that
// fails it is left to Prune.
func (s *Store) changeHead(ctx context.Context, m dr.MachineID, change func(*head) (bool, error)) (*head, error) {
	st := s.machine(m)
	if err := take(ctx, st.turn); err != nil {
		return nil, err
	}
	old, now, err := s.turnHead(ctx, m, change)
	<-st.turn
	if err != nil {
		return nil, err
	}
	if old != nil {
		s.free(ctx, m, old, now)
	}
	return now, nil
}

// turnHead returns the head before and after; no old one if nothing changed.
func (s *Store) turnHead(ctx context.Context, m dr.MachineID, change func(*head) (bool, error)) (old, now *head, err error) {
	const tries = 20
	name := machineDir(m) + headName
	for range tries {
		h, tag, err := s.readHead(ctx, m)
		if err != nil {
			return nil, nil, err
		}
		before := h.copy()
		ok, err := change(h)
		if isNotFound(err) || errors.Is(err, dr.ErrCorrupt) {
			// What this head names may be gone because another does not.
			if now, _, herr := s.readHead(ctx, m); herr == nil && now.Rev != before.Rev {
				continue
			}
		}
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			return nil, h, nil
		}
		h.settle()
		h.Rev++
		h.Swap = newNonce()
		swapped, err := s.swap(ctx, name, h.bytes(), tag)
		if err != nil {
			return nil, nil, err
		}
		if !swapped {
			// The client may have sent it again after the first answer was
			// lost, and be told that somebody else was faster.
			now, _, err := s.readHead(ctx, m)
			if err != nil {
				return nil, nil, err
			}
			swapped = now.Swap == h.Swap
		}
		if swapped {
			return before, h, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: object %s, %d times in a row", dr.ErrConflict, name, tries)
}

// copy returns a head that shares nothing that changes in place.
func (h *head) copy() *head {
	c := *h
	c.Drafts = append([]begun(nil), h.Drafts...)
	c.Points = append([]entry(nil), h.Points...)
	c.Blobs = append([]base(nil), h.Blobs...)
	return &c
}

// staged lists the drafts whose staged data is needed.
func (h *head) staged() map[string]bool {
	all := map[string]bool{}
	for _, d := range h.Drafts {
		all[d.ID] = true
	}
	for _, e := range h.Points {
		if e.Received {
			all[e.Draft] = true
		}
	}
	return all
}

// free deletes what the head named before and does not name now.
func (s *Store) free(ctx context.Context, m dr.MachineID, old, now *head) {
	dir := machineDir(m)
	left := func(what string, err error) {
		if err != nil {
			s.log.Warn("left to Prune", "machine", string(m), "object", what, "error", plain(err).Error())
		}
	}
	need := now.staged()
	for draft := range old.staged() {
		if !need[draft] {
			_, err := s.removeAll(ctx, dir+stageDir+draft+"/")
			left(dir+stageDir+draft, err)
		}
	}
	for _, e := range old.Points {
		cur := now.bySeq(e.Seq)
		if !e.Received && !e.Bare && (cur == nil || cur.Bare) {
			left(dir+e.Manifest, s.freeSnapshots(ctx, m, e))
		}
		if !e.Received && (cur == nil || cur.Manifest != e.Manifest) {
			left(dir+e.Manifest, s.remove(ctx, dir+e.Manifest, ""))
		}
	}
}

// freeSnapshots deletes those of a processed point, unless an image reads them.
func (s *Store) freeSnapshots(ctx context.Context, m dr.MachineID, e entry) error {
	if s.pinned(m, e.Draft) {
		return nil
	}
	mf, err := s.readManifest(ctx, m, e)
	if err != nil {
		return err
	}
	for _, d := range mf.Disks {
		if err := s.remove(ctx, machineDir(m)+d.Blob, d.Snapshot); err != nil {
			return err
		}
	}
	return nil
}

// pinned tells whether this process has an image of the point open. It is right
// for points that the head had lost before it was called.
func (s *Store) pinned(m dr.MachineID, draft string) bool {
	st := s.machine(m)
	st.opening.Lock()
	defer st.opening.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.pins[draft] > 0
}

package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// head lists a machine's points. It is the one thing that changes in place: a
// point is there when its head says so.
type head struct {
	rev     uint64 // raised by every swap, so that no content repeats
	next    uint64 // the number of the next point
	entries []headEntry
}

type headEntry struct {
	seq uint64 // distinguishes points that had the same ID one after the other
	id  dr.PointID
}

func (h *head) find(id dr.PointID) (headEntry, bool) {
	for _, e := range h.entries {
		if e.id == id {
			return e, true
		}
	}
	return headEntry{}, false
}

func headName(m dr.MachineID) string { return "head/" + string(m) }

func appendHead(b []byte, h *head) []byte {
	b = binary.LittleEndian.AppendUint64(b, h.rev)
	b = binary.LittleEndian.AppendUint64(b, h.next)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.entries)))
	for _, e := range h.entries {
		b = binary.LittleEndian.AppendUint64(b, e.seq)
		b = append(b, byte(len(e.id)))
		b = append(b, e.id...)
	}
	return b
}

func parseHead(b []byte) (*head, error) {
	bad := fmt.Errorf("%w: head", dr.ErrCorrupt)
	if len(b) < 20 {
		return nil, bad
	}
	h := &head{rev: binary.LittleEndian.Uint64(b), next: binary.LittleEndian.Uint64(b[8:])}
	n := int(binary.LittleEndian.Uint32(b[16:]))
	b = b[20:]
	if n > len(b)/10 {
		return nil, bad
	}
	h.entries = make([]headEntry, 0, n)
	for range n {
		if len(b) < 9 || len(b) < 9+int(b[8]) {
			return nil, bad
		}
		e := headEntry{seq: binary.LittleEndian.Uint64(b), id: dr.PointID(b[9 : 9+int(b[8])])}
		if e.id.Validate() != nil || e.seq >= h.next {
			return nil, bad
		}
		h.entries = append(h.entries, e)
		b = b[9+len(e.id):]
	}
	if len(b) != 0 {
		return nil, bad
	}
	return h, nil
}

// readHead reads a machine's head; a machine without points has an empty one.
func (s *Store) readHead(ctx context.Context, m dr.MachineID) (*head, Version, error) {
	if err := m.Validate(); err != nil {
		return nil, "", err
	}
	name := headName(m)
	b, v, err := s.bucket.ReadHead(ctx, name)
	if err != nil {
		return nil, "", err
	}
	if v == "" {
		// The first draft makes the head: without one there are no points.
		point, err := s.firstPoint(ctx, m)
		if err != nil || point == "" {
			return &head{}, "", err
		}
		// Unless it was made in the meantime.
		if b, v, err = s.bucket.ReadHead(ctx, name); err != nil {
			return nil, "", err
		}
		if v == "" {
			return nil, "", fmt.Errorf("%w: object %s is missing, but there is %s", dr.ErrCorrupt, name, point)
		}
	}
	if b, err = s.keys.unseal(kindHead, name, b); err != nil {
		return nil, "", err
	}
	h, err := parseHead(b)
	if err != nil {
		return nil, "", fmt.Errorf("object %s: %w", name, err)
	}
	return h, v, nil
}

// firstPoint names one of the machine's manifests, or none.
func (s *Store) firstPoint(ctx context.Context, m dr.MachineID) (string, error) {
	for o, err := range s.bucket.List(ctx, pointPrefix(m)) {
		return o.Name, err
	}
	return "", nil
}

// changeHead swaps the head for what change makes of it; change returns false
// if nothing is to be done. It runs again when somebody else was faster; those
// of this store take turns, so that none of many loses again and again.
func (s *Store) changeHead(ctx context.Context, m dr.MachineID, change func(*head) (bool, error)) error {
	turn, _ := s.turns.LoadOrStore(m, &sync.Mutex{})
	turn.(*sync.Mutex).Lock()
	defer turn.(*sync.Mutex).Unlock()
	const tries = 10
	for try := 1; ; try++ {
		h, v, err := s.readHead(ctx, m)
		if err != nil {
			return err
		}
		if ok, err := change(h); err != nil || !ok {
			return err
		}
		h.rev++
		_, err = s.bucket.SwapHead(ctx, headName(m), v, s.keys.seal(kindHead, headName(m), appendHead(nil, h)))
		if err == nil || !errors.Is(err, dr.ErrConflict) || try == tries {
			return err
		}
	}
}

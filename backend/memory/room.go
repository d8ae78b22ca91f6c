package memory

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

type roomer struct {
	link
	b *Backend
}

func (r roomer) Room(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	return r.b.roomFor(ctx, p)
}

// SetRoom makes Room report that disks of more than n bytes in all don't fit;
// below 0 everything does again, as in the beginning. Prepare makes them all the
// same: what was told before is no promise.
func (b *Backend) SetRoom(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bounded, b.room = n >= 0, n
}

// roomFor implements backend.Roomer: what the machine that p names, if there is
// one, has already needs no room.
func (b *Backend) roomFor(ctx context.Context, p backend.Placement) ([]backend.Problem, error) {
	if err := b.enter(ctx, OpRoom); err != nil {
		return nil, err
	}
	if p.Original == "" && p.Key == "" {
		return []backend.Problem{{Code: "placement", Text: "the placement has no key", Remedy: "give it one", Blocker: true}}, nil
	}
	have := map[dr.DiskID]int64{}
	var m *machine
	b.mu.Lock()
	bounded, room := b.bounded, b.room
	for _, x := range b.machines {
		if p.Original == "" && x.key == p.Key {
			m = x
		}
	}
	b.mu.Unlock()
	if p.Original != "" {
		var err error
		if m, err = b.find("look for room", p.Original); err != nil {
			return nil, err
		}
	}
	if m != nil {
		m.mu.Lock()
		for _, d := range m.describe().Disks {
			have[d.ID] = d.Size
		}
		m.mu.Unlock()
	}
	var need int64
	for _, d := range p.Machine.Disks {
		need += max(0, d.Size-have[d.ID])
	}
	if !bounded || need <= room {
		return nil, nil
	}
	return []backend.Problem{{Code: "room", Text: fmt.Sprintf("the disks take %d bytes more, and %d are free", need, room), Remedy: "make room", Blocker: true}}, nil
}

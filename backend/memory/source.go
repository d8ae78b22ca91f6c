package memory

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Machine implements backend.Source.
func (b *Backend) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	if err := b.enter(ctx, OpMachine); err != nil {
		return dr.Machine{}, err
	}
	m, err := b.find("describe", id)
	if err != nil {
		return dr.Machine{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.describe(), m.gone("describe")
}

// capture is a frozen moment. It never changes.
type capture struct {
	machine *machine
	tracker uint64 // which tracker stamped it
	epoch   uint64 // the epoch that it ended
	point   dr.Point
	disks   map[dr.DiskID]frozenDisk
}

type frozenDisk struct {
	size    int64
	content pages
	stamps  stamps
}

// Capture implements backend.Source. It costs the disks' page maps, not their
// bytes. What was frozen survives [Backend.Crash].
func (b *Backend) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	if err := b.enter(ctx, OpCapture); err != nil {
		return nil, err
	}
	if err := name.Validate(); err != nil {
		return nil, &dr.Error{Op: "capture", Machine: id, Point: name, Err: err}
	}
	m, err := b.find("capture", id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.gone("capture"); err != nil {
		return nil, err
	}
	c := m.captures[name]
	if c == nil {
		// What was frozen earlier is whole whatever happened since, so only
		// a new capture minds torn disks.
		if m.torn != nil {
			return nil, &dr.Error{Op: "capture", Machine: id, Point: name, Err: dr.ErrTorn,
				Remedy: "copy a point to it and commit, then capture it"}
		}
		c = m.freezeDisks(b, name, min(max(want, dr.CrashConsistent), m.reachable(b)))
		m.captures[name] = c
		if !m.on {
			m.holds = name
		}
	}
	return b.open(c), nil
}

// reachable is the best consistency that a capture taken now can have.
func (m *machine) reachable(b *Backend) dr.Consistency {
	switch {
	case m.frozen != nil:
		return m.frozen.level
	case !m.on:
		return m.rest
	case m.hung:
		return dr.CrashConsistent // the guest answers nobody
	}
	return b.opts.Consistency
}

func (m *machine) freezeDisks(b *Backend, name dr.PointID, got dr.Consistency) *capture {
	k := m.tracker.end(m.disks)
	m.tracker.captured(name, k)
	c := &capture{
		machine: m,
		tracker: m.tracker.id,
		epoch:   k.epoch,
		point: dr.Point{
			ID: name, Machine: m.describe(), Time: b.opts.Now().UTC(), Consistency: got,
		},
		disks: map[dr.DiskID]frozenDisk{},
	}
	if !b.opts.NoTracker {
		c.point.Cursors = map[dr.DiskID]dr.Cursor{}
	}
	for _, d := range m.disks {
		c.disks[d.ID] = frozenDisk{d.Size, d.freeze(), d.stamps.clone()}
		if !b.opts.NoTracker {
			c.point.Cursors[d.ID] = m.tracker.cursor(k, d.ID)
		}
	}
	return c
}

// Release implements backend.Source. Images that are open stay readable.
func (b *Backend) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	if err := b.enter(ctx, OpRelease); err != nil {
		return err
	}
	b.mu.Lock()
	m := b.machines[id]
	b.mu.Unlock()
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.captures, name)
	return nil
}

package memory

import (
	"context"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// machine is one machine of the platform, whether it was added or made.
type machine struct {
	id     dr.MachineID
	key    string // of the placement that made or tagged it; guarded by Backend.mu
	made   bool   // by Prepare; only such machines are ever removed
	reused bool   // Prepare found it as an original: it is not ours to remove; guarded by Backend.mu

	mu        sync.Mutex
	described dr.Machine // Disks and Power are kept below instead
	placement backend.Placement
	removed   bool
	disks     []*disk
	captures  map[dr.PointID]*capture
	tracker   tracker
	on        bool
	hung      bool
	problems  []backend.Problem
	facts     backend.Facts

	// holds is the point that the disks hold exactly. A torn machine, and
	// one that has run, holds none.
	holds dr.PointID
	// rest is what a stopped machine's disks are consistent with: how it was
	// switched off decides.
	rest dr.Consistency
	// torn is the draft that was begun and not committed.
	torn *torn
	// virgin says that the disks were never written.
	virgin bool
	// fences is by whom it was changed last; durable, as all here is.
	fences backend.Fences
	// frozen is the quiesce in force.
	frozen *freeze
	// changed is closed, and replaced, when power or hung change.
	changed chan struct{}
	// effect is told of what changes; nil: nobody is.
	effect func(Effect)
}

// torn is what must survive the process of an interrupted draft.
type torn struct {
	point   dr.Point
	durable map[dr.DiskID]ranges
}

// freeze is a quiesce in force.
type freeze struct {
	level  dr.Consistency
	thawed chan struct{} // closed by the thaw
	early  error         // why it thawed before it was told to
}

func (b *Backend) newMachine(id dr.MachineID, d dr.Machine) *machine {
	m := &machine{
		id:        id,
		described: cloneMachine(d),
		captures:  map[dr.PointID]*capture{},
		tracker:   newTracker(),
		rest:      dr.CrashConsistent,
		changed:   make(chan struct{}),
		effect:    b.opts.Effect,
	}
	m.described.ID = id
	for _, d := range d.Disks {
		m.disks = append(m.disks, newDisk(d, b.opts.Granularity))
	}
	return m
}

// checkDisks refuses descriptions that no machine could have.
func checkDisks(op string, m dr.Machine) error {
	seen := map[dr.DiskID]bool{}
	for _, d := range m.Disks {
		if d.ID == "" || seen[d.ID] || d.Size <= 0 || d.Size%512 != 0 {
			return &dr.Error{Op: op, Machine: m.ID, Disk: d.ID, Off: -1, Err: dr.ErrInvalid,
				Remedy: "give every disk an ID of its own, and a size that is a multiple of 512"}
		}
		seen[d.ID] = true
	}
	return nil
}

func cloneMachine(m dr.Machine) dr.Machine {
	m.Disks = slices.Clone(m.Disks)
	m.NICs = slices.Clone(m.NICs)
	for i := range m.NICs {
		m.NICs[i].Addresses = slices.Clone(m.NICs[i].Addresses)
	}
	m.Config = slices.Clone(m.Config)
	return m
}

// The methods below need m.mu.

// describe returns the machine as it is now.
func (m *machine) describe() dr.Machine {
	d := cloneMachine(m.described)
	d.Power = dr.Off
	if m.on {
		d.Power = dr.On
	}
	d.Disks = nil
	for _, disk := range m.disks {
		d.Disks = append(d.Disks, disk.Disk)
	}
	return d
}

func (m *machine) disk(id dr.DiskID) *disk {
	for _, d := range m.disks {
		if d.ID == id {
			return d
		}
	}
	return nil
}

// gone refuses work on a machine that was removed while it waited for m.mu.
func (m *machine) gone(op string) error {
	if m.removed {
		return &dr.Error{Op: op, Machine: m.id, Err: dr.ErrNotFound}
	}
	return nil
}

// admit begins a change of the machine: it refuses whose claim was taken over,
// and remembers who it is. Nothing can come between it and the change, as both
// are under m.mu.
func (m *machine) admit(ctx context.Context, op string) error {
	next, _, err := m.fences.Admit(ctx)
	if err != nil {
		return &dr.Error{Op: op, Machine: m.id, Err: err}
	}
	m.fences = next
	return nil
}

func (m *machine) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// start powers on. From here on nobody can say what the disks hold.
func (m *machine) start(op string) error {
	if m.torn != nil {
		return &dr.Error{Op: op, Machine: m.id, Point: m.torn.point.ID, Err: dr.ErrTorn,
			Remedy: "copy a point to it and commit, then start it"}
	}
	if m.on {
		return nil
	}
	m.holds, m.virgin, m.on = "", false, true
	m.wake()
	m.tell(OpStart, "")
	return nil
}

// stop powers off, leaving disks that are consistent with rest.
func (m *machine) stop(rest dr.Consistency) {
	if !m.on {
		return
	}
	m.on, m.rest = false, rest
	m.wake()
	m.tell(OpStop, "")
}

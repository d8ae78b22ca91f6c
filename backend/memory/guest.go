package memory

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Add puts a machine on the platform, as if it had always been there: with
// zeroed disks, running if d.Power is dr.On. It is nobody's replica, and
// Remove leaves it. ErrInvalid for IDs or disks that can't be, ErrExists for
// an ID that is taken.
func (b *Backend) Add(d dr.Machine) error {
	if err := d.ID.Validate(); err != nil {
		return &dr.Error{Op: "add", Machine: d.ID, Err: err}
	}
	if err := checkDisks("add", d); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machines[d.ID] != nil {
		return &dr.Error{Op: "add", Machine: d.ID, Err: dr.ErrExists}
	}
	m := b.newMachine(d.ID, d)
	m.on = d.Power == dr.On
	b.machines[d.ID] = m
	return nil
}

// Destroy takes a machine away, whoever made it, as if a disaster had: with
// all its captures. A machine that is not there is ErrNotFound.
func (b *Backend) Destroy(id dr.MachineID) error {
	m, err := b.find("destroy", id)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.removed = true
	m.stop(dr.CrashConsistent)
	m.captures = nil
	delete(b.machines, id)
	return nil
}

// Write is the guest writing p to its disk at off. It works only while the
// machine is on ([dr.ErrNotAllowed] else), waits while the machine is
// quiesced, and writes nothing if it would pass the end of the disk
// ([dr.ErrOutOfRange]). It does not keep p.
func (b *Backend) Write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
	m, err := b.find("guest write", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	for m.frozen != nil {
		thawed := m.frozen.thawed
		m.mu.Unlock()
		<-thawed
		m.mu.Lock()
	}
	defer m.mu.Unlock()
	fail := func(err error) error {
		return &dr.Error{Op: "guest write", Machine: id, Disk: disk, Off: off, Err: err}
	}
	if err := m.gone("guest write"); err != nil {
		return err
	}
	d := m.disk(disk)
	switch {
	case d == nil:
		return fail(dr.ErrNotFound)
	case !m.on:
		return fail(fmt.Errorf("%w: the machine is off", dr.ErrNotAllowed))
	case off < 0 || off > d.Size || int64(len(p)) > d.Size-off:
		return fail(dr.ErrOutOfRange)
	}
	d.write(p, off, m.tracker.epoch)
	return nil
}

// Disk returns a reader of what is on the disk at the moment of each read,
// whatever state the machine is in.
func (b *Backend) Disk(id dr.MachineID, disk dr.DiskID) (*io.SectionReader, error) {
	m, err := b.find("read", id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.disk(disk)
	if d == nil {
		return nil, &dr.Error{Op: "read", Machine: id, Disk: disk, Off: -1, Err: dr.ErrNotFound}
	}
	return io.NewSectionReader(liveDisk{m, d}, 0, d.Size), nil
}

type liveDisk struct {
	m *machine
	d *disk
}

// ReadAt stays within the disk because a SectionReader bounds it.
func (l liveDisk) ReadAt(p []byte, off int64) (int, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.d.content.read(p, off)
	return len(p), nil
}

// Grow enlarges a disk, running or not, as an administrator would. The new
// part reads as zeros. The machine then holds no point.
func (b *Backend) Grow(id dr.MachineID, disk dr.DiskID, size int64) error {
	m, err := b.find("grow", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.disk(disk)
	switch {
	case d == nil:
		return &dr.Error{Op: "grow", Machine: id, Disk: disk, Off: -1, Err: dr.ErrNotFound}
	case size < d.Size || size%512 != 0:
		return &dr.Error{Op: "grow", Machine: id, Disk: disk, Off: size, Err: dr.ErrInvalid}
	case size > d.Size:
		d.Size, m.holds = size, ""
	}
	return nil
}

// Power presses the machine's button: on as Start, off as Stop.
func (b *Backend) Power(id dr.MachineID, p dr.Power) error {
	m, err := b.find("power", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch p {
	case dr.On:
		return m.start("power on")
	case dr.Off:
		m.stop(dr.CrashConsistent)
		return nil
	}
	return &dr.Error{Op: "power", Machine: id, Err: fmt.Errorf("%w: power %q", dr.ErrInvalid, p)}
}

// Hang makes the guest answer nobody, or answer again: a guest that hangs
// goes on writing, but neither shuts down nor gives signs of life, and can be
// captured crash-consistent only.
func (b *Backend) Hang(id dr.MachineID, hung bool) error {
	m, err := b.find("hang", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hung = hung
	m.wake()
	return nil
}

// LoseChanges makes the machine's change tracker forget everything, as
// platforms do when a host dies: no earlier point can be answered for.
func (b *Backend) LoseChanges(id dr.MachineID) error {
	m, err := b.find("lose changes", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tracker = newTracker()
	for _, d := range m.disks {
		d.stamps.last = map[int64]uint64{}
	}
	return nil
}

// SetProblems makes Preflight report p of the machine.
func (b *Backend) SetProblems(id dr.MachineID, p ...backend.Problem) error {
	m, err := b.find("set problems", id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problems = slices.Clone(p)
	return nil
}

// Tag gives the machine the key of a placement, as a person who clones a
// replica would: Prepare then finds two candidates.
func (b *Backend) Tag(id dr.MachineID, key string) error {
	m, err := b.find("tag", id)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m.key = key
	return nil
}

// Placement returns how Prepare was last asked for the machine; zero if it
// never was.
func (b *Backend) Placement(id dr.MachineID) (backend.Placement, error) {
	m, err := b.find("placement", id)
	if err != nil {
		return backend.Placement{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return clonePlacement(m.placement), nil
}

// Captures returns the names of what is frozen of the machine, in order.
func (b *Backend) Captures(id dr.MachineID) ([]dr.PointID, error) {
	m, err := b.find("captures", id)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.captures)), nil
}

// Crash stands for the death of every orchestrator process that works on the
// platform: images and drafts that are open fail from now on, and quiesced
// machines thaw. Everything durable stays.
func (b *Backend) Crash() {
	b.life.Add(1)
	for _, m := range b.all() {
		m.mu.Lock()
		m.thaw(m.frozen, errors.New("the orchestrator died"))
		m.mu.Unlock()
	}
}

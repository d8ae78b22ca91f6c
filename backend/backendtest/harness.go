package backendtest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// T is what the suite needs of a *testing.T.
type T interface {
	Helper()
	Name() string
	Context() context.Context
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	FailNow()
	Skipf(format string, args ...any)
	Cleanup(func())
}

// Harness is the backend under test and the suite's hands on its platform.
// The functions may be called by several goroutines, for different machines.
// Those that are marked optional may be nil: what needs them is skipped.
type Harness struct {
	Backend backend.Backend

	// Machine makes a machine that is off and has these disks, all zeros,
	// and that is no replica. It goes away with t.Cleanup.
	Machine func(t T, disks []dr.Disk) (dr.MachineID, error)
	// Power switches a machine on or off, as a person would.
	Power func(id dr.MachineID, p dr.Power) error
	// Write writes as the guest of a running machine does, and returns when
	// the bytes are on the disk. It must not keep p.
	Write func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error
	// Read fills p with what is on the disk of a machine that is off.
	Read func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error

	// Reopen drops the backend as the death of its process would, with every
	// image and draft open, and returns another one on the same platform.
	// Optional.
	Reopen func() (backend.Backend, error)
	// Grow enlarges a disk of a machine that is off. Optional.
	Grow func(id dr.MachineID, disk dr.DiskID, size int64) error
	// LoseChanges makes the change tracker forget. Optional.
	LoseChanges func(id dr.MachineID) error
	// Hang makes the guest answer nobody. Optional.
	Hang func(id dr.MachineID, hung bool) error
	// Duplicate makes another machine that carries the same replica key. It
	// goes away with t.Cleanup. Optional.
	Duplicate func(t T, id dr.MachineID) error
	// Inventory names everything that lies on the platform: machines,
	// disks, snapshots, cards. Remove has to leave it as it was before
	// Prepare. Optional.
	Inventory func() ([]string, error)
	// Place completes the placements that the suite asks for: with the
	// platform's Options, for one. Optional.
	Place func(p backend.Placement) backend.Placement

	// SizeUnit is what disk sizes have to be a multiple of; 0: 512 bytes.
	SizeUnit int64
	// Granularity bounds what the change tracker says too much: it reports
	// no byte that is farther from a written one than the block of this many
	// bytes, aligned, that both lie in. 0: it may say anything.
	Granularity int64
	// Volatile says that captures end with their images, as those of live
	// physical disks do.
	Volatile bool
	// Forgets says that the tracker may give up points that are older than a
	// draft, rather than believe what it can't be sure of: in random histories
	// their changes may be lost. What the suite asks for by name may not.
	Forgets bool
	// Unfenced says that the backend remembers no fences, as its own docs must
	// say too: what needs them is skipped. A worker that was paused while
	// another took over can do harm there.
	Unfenced bool
	// Live returns the present backend as it is where Backend isn't: with
	// images of running machines that are dr.Settler, where Backend copies
	// them at once so that they last. Optional; nil: Backend.
	Live func() backend.Backend
	// Histories is how many random histories are tried; 0: 20.
	Histories int
	// Seed of everything random; 0: another one each time. It is logged.
	Seed uint64

	patience time.Duration // with a guest's write; 0: ten seconds
}

// Simulator is a platform in this process, as package backend/memory's
// Backend is: enough to make a Harness of.
type Simulator interface {
	Add(m dr.Machine) error
	Power(id dr.MachineID, p dr.Power) error
	Write(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error
	Disk(id dr.MachineID, disk dr.DiskID) (*io.SectionReader, error)
}

// Simulated returns a harness for b, a backend of the platform sim. What sim
// can do beyond Simulator is used: Crash, Grow, LoseChanges, Hang, Captures,
// and Tag with Placement, with the signatures of package backend/memory. A
// backend that outlives Crash, as memory does, is returned by Reopen as it is;
// for others set Reopen.
func Simulated(b backend.Backend, sim Simulator) Harness {
	var made atomic.Int64
	add := func(disks []dr.Disk) (dr.MachineID, error) {
		id := dr.MachineID(fmt.Sprintf("original-%d", made.Add(1)))
		return id, sim.Add(dr.Machine{ID: id, Name: string(id), Power: dr.Off, Disks: disks,
			NICs: []dr.NIC{{ID: "nic0", Network: "production"}}})
	}
	h := Harness{
		Backend: b,
		Machine: func(_ T, disks []dr.Disk) (dr.MachineID, error) { return add(disks) },
		Power:   sim.Power,
		Write:   sim.Write,
		Read: func(id dr.MachineID, disk dr.DiskID, p []byte, off int64) error {
			d, err := sim.Disk(id, disk)
			if err != nil {
				return err
			}
			if n, err := d.ReadAt(p, off); n < len(p) {
				return err
			}
			return nil
		},
	}
	if s, ok := sim.(interface{ Crash() }); ok {
		h.Reopen = func() (backend.Backend, error) { s.Crash(); return b, nil }
	}
	if s, ok := sim.(interface {
		Grow(dr.MachineID, dr.DiskID, int64) error
	}); ok {
		h.Grow = s.Grow
	}
	if s, ok := sim.(interface{ LoseChanges(dr.MachineID) error }); ok {
		h.LoseChanges = s.LoseChanges
	}
	if s, ok := sim.(interface {
		Hang(dr.MachineID, bool) error
	}); ok {
		h.Hang = s.Hang
	}
	if s, ok := sim.(interface {
		Tag(dr.MachineID, string) error
		Placement(dr.MachineID) (backend.Placement, error)
	}); ok {
		h.Duplicate = func(_ T, id dr.MachineID) error {
			p, err := s.Placement(id)
			if err != nil {
				return err
			}
			twin, err := add(p.Machine.Disks)
			if err != nil {
				return err
			}
			return s.Tag(twin, p.Key)
		}
	}
	h.Inventory = inventory(b, sim)
	return h
}

// inventory lists machines, disks and captures, where they can be listed.
func inventory(b backend.Backend, sim Simulator) func() ([]string, error) {
	l, ok := dr.As[backend.Lister](b)
	if !ok {
		return nil
	}
	captures, _ := sim.(interface {
		Captures(dr.MachineID) ([]dr.PointID, error)
	})
	return func() ([]string, error) {
		var names []string
		for m, err := range l.Machines(context.Background()) {
			if err != nil {
				return nil, err
			}
			names = append(names, string(m.ID))
			for _, d := range m.Disks {
				names = append(names, string(m.ID)+"/"+string(d.ID))
			}
			if captures == nil {
				continue
			}
			points, err := captures.Captures(m.ID)
			if err != nil {
				return nil, err
			}
			for _, p := range points {
				names = append(names, string(m.ID)+"@"+string(p))
			}
		}
		slices.Sort(names)
		return names, nil
	}
}

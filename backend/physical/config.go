package physical

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// DefaultFreezeLimit is how long a machine may stay frozen when
// Config.FreezeLimit is 0. Clients of databases and file servers commonly give
// up after a minute; this leaves them half of it.
const DefaultFreezeLimit = 30 * time.Second

// DefaultHookLimit is how long a hook may take when Commands.Limit is 0.
const DefaultHookLimit = 5 * time.Minute

// Config describes a host. It can be kept as JSON; what only Go can express
// (hooks as functions, tracker, log, file system) is left out there.
type Config struct {
	// Root is a folder for the host's state and the replicas it makes; it is
	// made if need be. Replicas take the room of what is written to them.
	Root string `json:"root"`
	// Machines are those of this host, by their disks.
	Machines []Machine `json:"machines,omitempty"`
	// Commands are hooks as command lines.
	Commands Commands `json:"commands,omitzero"`
	// FreezeLimit bounds every freeze, in nanoseconds; 0: DefaultFreezeLimit.
	FreezeLimit time.Duration `json:"freezeLimit,omitempty"`
	// PrepareLimit bounds what a freeze hook does before it says that writes
	// hang (Event.Held), and all of one that doesn't say so; 0: FreezeLimit.
	// Writing out a database may take longer than anybody may be frozen.
	PrepareLimit time.Duration `json:"prepareLimit,omitempty"`
	// Freezes is what a successful freeze hook has reached at most; 0:
	// FileSystemConsistent. Say ApplicationConsistent of one that makes the
	// applications write out their state.
	Freezes dr.Consistency `json:"freezes,omitempty"`
	// LastPass is how many dirty bytes are few enough to freeze for;
	// 0: 64 MiB. More passes than Passes freeze whatever is left.
	LastPass int64 `json:"lastPass,omitempty"`
	// Passes bounds the passes read from a running machine; 0: 8. Without
	// freeze hooks the capture fails when they are used up.
	Passes int `json:"passes,omitempty"`

	// Hooks are hooks as functions; each goes before its command line.
	Hooks Hooks `json:"-"`
	// Tracker tells what running machines write; nil: nothing is known.
	Tracker Tracker `json:"-"`
	// Inspect tells of the machine that is this host (Machine.Self), as
	// backend.Inspector does; package inventory has one. nil: the host can't be
	// asked.
	Inspect func(ctx context.Context, id dr.MachineID) (backend.Facts, error) `json:"-"`
	// Snapshots makes instant copies of the disks of running machines, so that
	// their freeze is short; nil: they are read pass by pass. Captures that it
	// was used for can be released only by a host that has it.
	Snapshots Snapshotter `json:"-"`
	// Log gets freezes and what went wrong where no caller listens; may be nil.
	Log *slog.Logger `json:"-"`
	// FS holds all files; nil: the operating system's. With another one,
	// what the system has mounted is not looked for.
	FS fsys.FS `json:"-"`
}

// Machine describes one machine of the host.
type Machine struct {
	ID   dr.MachineID `json:"id"`
	Name string       `json:"name,omitempty"`
	// Power is whether it runs as long as neither Start, Stop nor Shutdown
	// was called for it on this host. Unknown is taken for on.
	Power dr.Power `json:"power,omitempty"`
	Disks []Disk   `json:"disks"`
	// Self: it is the host that this process runs on, so it runs. Nothing but
	// a hook can switch it off, and its disks are never written. One may be.
	Self bool `json:"self,omitempty"`

	Firmware   dr.Firmware `json:"firmware,omitempty"`
	SecureBoot bool        `json:"secureBoot,omitempty"`
	CPUs       int         `json:"cpus,omitempty"`
	Memory     int64       `json:"memory,omitempty"` // bytes
	OS         string      `json:"os,omitempty"`
	NICs       []dr.NIC    `json:"nics,omitempty"`
}

// Disk is a raw image file or a block device. A link such as those under
// /dev/disk/by-id, which survives a change of cabling, is the better path.
type Disk struct {
	ID   dr.DiskID `json:"id"`
	Name string    `json:"name,omitempty"`
	Path string    `json:"path"`
	Boot bool      `json:"boot,omitempty"`
	// GivenUp says that the disk may be overwritten by a copy, whatever is on
	// it, and that it may be larger than the disk that it is to stand for: a
	// bare disk of a machine that was rebuilt. Without it a block device that
	// carries anything which isn't known to be this machine's is refused with
	// a *ForeignError. Take the word out again when the machine has come home.
	GivenUp bool `json:"givenUp,omitempty"`
}

func (c Config) validate() error {
	if c.Root == "" {
		return fmt.Errorf("%w: no root folder", dr.ErrInvalid)
	}
	machines := map[dr.MachineID]bool{}
	owner := map[string]dr.MachineID{}
	for _, m := range c.Machines {
		if err := m.ID.Validate(); err != nil {
			return err
		}
		if machines[m.ID] {
			return fmt.Errorf("%w: machine %s is configured twice", dr.ErrInvalid, m.ID)
		}
		machines[m.ID] = true
		switch m.Power {
		case "", dr.On, dr.Off:
		default:
			return fmt.Errorf("%w: machine %s: power %q; want %q, %q or nothing", dr.ErrInvalid, m.ID, m.Power, dr.On, dr.Off)
		}
		if m.Self && (m.Power == dr.Off || selfIn(c.Machines) != m.ID) {
			return fmt.Errorf("%w: machine %s: one machine is this host itself, and it is on", dr.ErrInvalid, m.ID)
		}
		disks := map[dr.DiskID]bool{}
		for _, d := range m.Disks {
			if d.ID == "" || d.Path == "" {
				return fmt.Errorf("%w: machine %s: disk %q at path %q: both are needed", dr.ErrInvalid, m.ID, d.ID, d.Path)
			}
			if disks[d.ID] {
				return fmt.Errorf("%w: machine %s: disk %s is configured twice", dr.ErrInvalid, m.ID, d.ID)
			}
			disks[d.ID] = true
			if o, ok := owner[d.Path]; ok {
				return fmt.Errorf("%w: %s is a disk of machine %s and of machine %s", dr.ErrInvalid, d.Path, o, m.ID)
			}
			owner[d.Path] = m.ID
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.FreezeLimit <= 0 {
		c.FreezeLimit = DefaultFreezeLimit
	}
	if c.PrepareLimit <= 0 {
		c.PrepareLimit = c.FreezeLimit
	}
	if c.Freezes == 0 {
		c.Freezes = dr.FileSystemConsistent
	}
	if c.LastPass <= 0 {
		c.LastPass = 64 << 20
	}
	if c.Passes <= 0 {
		c.Passes = 8
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Hooks = c.Commands.hooks(c.Hooks)
	return c
}

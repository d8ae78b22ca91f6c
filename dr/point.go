package dr

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// PointID names a point. It is chosen by whoever starts a capture, is unique
// among all points of a machine, and stays when the point is copied: a
// snapshot, the stored point made of it and a replica that holds it share it.
// Use letters, digits, '-', '_' and '.' only, 200 bytes at most ([PointID.Validate]).
type PointID string

// Validate refuses names that could not be part of a file or object name.
func (id PointID) Validate() error { return validName("point", string(id)) }

// Validate refuses names that could not be part of a file or object name.
func (id MachineID) Validate() error { return validName("machine", string(id)) }

func validName(kind, s string) error {
	if s == "" || len(s) > 200 || s == "." || s == ".." {
		return fmt.Errorf("%w: %s %q: want 1 to 200 bytes", ErrInvalid, kind, s)
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return fmt.Errorf("%w: %s %q: only letters, digits, '-', '_' and '.' are allowed", ErrInvalid, kind, s)
		}
	}
	return nil
}

// Point describes one captured moment of one machine.
type Point struct {
	ID          PointID     `json:"id"`
	Machine     Machine     `json:"machine"` // as it was at the capture
	Time        time.Time   `json:"time"`    // the moment that the bytes are of
	Consistency Consistency `json:"consistency"`
	Group       GroupMark   `json:"group,omitzero"`

	// Parent is the point in the same store whose content this one was
	// written over; "" for a point written over zeros.
	Parent PointID `json:"parent,omitempty"`

	// Cursors are the change tracker's positions at the capture, a disk
	// each. Only the backend that captured the point can read them.
	Cursors map[DiskID]Cursor `json:"cursors,omitempty"`

	// Changes tells what kind of bytes were written over the parent.
	Changes ChangeStats `json:"changes,omitzero"`

	// Base marks content that later points were written over, and that is no
	// recovery point itself: the copy of a stopped machine's disks that
	// reprotection starts from. Selection never offers it.
	Base bool `json:"base,omitempty"`
}

// SameMoment tells whether both are of one frozen moment: the same time, tracker
// positions and disks. What they are called, and what they were written over, may
// differ.
func (p Point) SameMoment(q Point) bool {
	disk := func(x, y Disk) bool { return x.ID == y.ID && x.Size == y.Size }
	return p.Time.Equal(q.Time) && maps.Equal(p.Cursors, q.Cursors) && slices.EqualFunc(p.Machine.Disks, q.Machine.Disks, disk)
}

// Clone returns a copy that shares nothing with p.
func (p Point) Clone() Point {
	p.Machine.Disks = slices.Clone(p.Machine.Disks)
	p.Machine.NICs = slices.Clone(p.Machine.NICs)
	for i := range p.Machine.NICs {
		p.Machine.NICs[i].Addresses = slices.Clone(p.Machine.NICs[i].Addresses)
	}
	p.Machine.Config = slices.Clone(p.Machine.Config)
	p.Group.Members = slices.Clone(p.Group.Members)
	p.Cursors = maps.Clone(p.Cursors)
	return p
}

// Cursor is a change tracker's position, opaque outside its backend.
type Cursor string

// Consistency is what a point's content was made consistent with. What is
// recorded is what was achieved, never what was asked for.
type Consistency uint8

// Consistency levels, weakest first. The zero value means unknown.
const (
	CrashConsistent       Consistency = iota + 1 // as after a power cut
	FileSystemConsistent                         // file systems were flushed and frozen
	ApplicationConsistent                        // applications had written out their state
)

// String returns "crash", "file-system", "application" or "unknown".
func (c Consistency) String() string {
	switch c {
	case CrashConsistent:
		return "crash"
	case FileSystemConsistent:
		return "file-system"
	case ApplicationConsistent:
		return "application"
	}
	return "unknown"
}

// MarshalText makes records and logs readable.
func (c Consistency) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (c *Consistency) UnmarshalText(b []byte) error {
	for _, v := range []Consistency{0, CrashConsistent, FileSystemConsistent, ApplicationConsistent} {
		if v.String() == string(b) {
			*c = v
			return nil
		}
	}
	return fmt.Errorf("%w: consistency %q", ErrInvalid, b)
}

// GroupMark says that a point belongs to a moment common to several machines.
// Points that carry the same mark were all captured while every machine of
// the group was quiesced; the mark is never given otherwise.
type GroupMark struct {
	Group   string      `json:"group,omitempty"`   // the replication group
	ID      string      `json:"id,omitempty"`      // the common moment
	Time    time.Time   `json:"time,omitzero"`     // when it was, for all alike: platforms' clocks differ
	Members []MachineID `json:"members,omitempty"` // every machine that was captured then; one whose copy failed for good has no point of it
}

// IsZero reports whether the point is of one machine alone.
func (g GroupMark) IsZero() bool { return g.ID == "" }

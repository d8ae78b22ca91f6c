package remote

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// argument is what a call that isn't bulk carries, as JSON. Each call uses what
// its method has.
type argument struct {
	Machine   dr.MachineID       `json:"machine,omitempty"`
	Name      dr.PointID         `json:"name,omitempty"`
	Want      dr.Consistency     `json:"want,omitempty"`
	Point     *dr.Point          `json:"point,omitempty"`
	Placement *backend.Placement `json:"placement,omitempty"`
	Disk      dr.DiskID          `json:"disk,omitempty"`
	Names     []dr.PointID       `json:"names,omitempty"`
	From      string             `json:"from,omitempty"`
	Ports     []int              `json:"ports,omitempty"`
	Fences    map[string]uint64  `json:"fences,omitempty"` // of the caller's context
}

// Bounds on a call's fences: what a client may have an agent's backend remember.
const (
	maxFences   = 64
	maxResource = 512 // bytes
)

// fenced is ctx for a call, with the fences that came with it.
func (a argument) fenced(ctx context.Context) (context.Context, error) {
	if len(a.Fences) > maxFences {
		return ctx, fmt.Errorf("%w: %d fences, and a call may have %d", dr.ErrInvalid, len(a.Fences), maxFences)
	}
	for resource := range a.Fences {
		if len(resource) > maxResource {
			return ctx, fmt.Errorf("%w: a fence's name of %d bytes, and it may have %d", dr.ErrInvalid, len(resource), maxResource)
		}
	}
	return dr.WithFences(ctx, a.Fences), nil
}

// opened answers a call that opens something.
type opened struct {
	Handle    uint64         `json:"handle"`
	Abilities names          `json:"abilities,omitempty"`
	Point     dr.Point       `json:"point,omitzero"` // of an image
	Disks     []dr.Disk      `json:"disks,omitempty"`
	Got       dr.Consistency `json:"got,omitempty"` // of a freeze
}

// settled answers Settle and Linger.
type settled struct {
	More  bool     `json:"more,omitempty"`
	Left  int64    `json:"left,omitempty"`
	Point dr.Point `json:"point"`
}

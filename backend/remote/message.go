package remote

import (
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

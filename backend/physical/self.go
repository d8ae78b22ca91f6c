package physical

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// inspector is there where Config.Inspect is: the host is asked itself.
type inspector struct {
	h    *Host
	next any
}

var _ backend.Inspector = inspector{}

func (i inspector) Unwrap() any { return i.next }

// Inspect implements [backend.Inspector] for the machine that is this host
// (Machine.Self). Of others only their disks are here: dr.ErrUnsupported.
func (i inspector) Inspect(ctx context.Context, id dr.MachineID) (backend.Facts, error) {
	if _, err := i.h.machine("inspect", id); err != nil {
		return backend.Facts{}, err
	}
	if !i.h.self(id) {
		return backend.Facts{}, &dr.Error{Op: "inspect", Machine: id, Err: fmt.Errorf("%w: it is not the host that this runs on", dr.ErrUnsupported),
			Remedy: "read the disks of one of its recovery points instead"}
	}
	return i.h.cfg.Inspect(ctx, id)
}

// self tells whether the machine is the host that this process runs on.
func (h *Host) self(id dr.MachineID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return selfIn(h.cfg.Machines) == id && id != ""
}

// selfIn finds the machine that is the host; "" if none is.
func selfIn(machines []Machine) dr.MachineID {
	for _, m := range machines {
		if m.Self {
			return m.ID
		}
	}
	return ""
}

// onSelf refuses what would make of the running host a machine that is off, or
// one whose disks may be written.
func (h *Host) onSelf(op string, id dr.MachineID) error {
	if !h.self(id) {
		return nil
	}
	return &dr.Error{Op: op, Machine: id, Err: fmt.Errorf("%w: it is the host that this runs on", dr.ErrUnsupported),
		Remedy: "switch it off by a hook that outlives it; write its disks from a rescue system"}
}

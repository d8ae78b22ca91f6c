package memory

import "github.com/lifeboat-dr/lifeboat/dr"

// Effect is something that has changed on the platform: not a call, of which a
// second one mostly finds nothing left to do.
type Effect struct {
	// Op is OpPrepare for a machine that was made, OpStart and OpStop for one
	// whose power has changed, by whatever means, OpCommit for disks that have
	// come to hold a point, OpRemove for a machine that is gone.
	Op      Op           `json:"op"`
	Machine dr.MachineID `json:"machine"`
	// Key is that of the placement for which Prepare gave the machine last.
	Key string `json:"key,omitempty"`
	// Point is what was committed.
	Point dr.PointID `json:"point,omitempty"`
}

// tell reports an effect to who counts them.
func (m *machine) tell(op Op, p dr.PointID) {
	if m.effect != nil {
		m.effect(Effect{Op: op, Machine: m.id, Key: m.placement.Key, Point: p})
	}
}

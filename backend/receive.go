package backend

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Receiver is an ability of backends: whether a machine that is there can be
// written to, as a failback does.
type Receiver interface {
	// Receives tells what the platform knows, whether the machine runs or not;
	// what it can't tell is left unknown. It changes nothing. dr.ErrNotFound:
	// there is no such machine.
	Receives(ctx context.Context, id dr.MachineID) (Reception, error)
}

// Reception is what a platform says of writing to a machine's disks. Details
// name what was found.
type Reception struct {
	Datastore Fact `json:"datastore,omitzero"` // where its disks are can be written
	Snapshots Fact `json:"snapshots,omitzero"` // Yes is bad: it has snapshots that others made
	SameUUID  Fact `json:"sameUUID,omitzero"`  // Yes is bad: one of its disks' UUIDs is there twice
	Writes    Fact `json:"writes,omitzero"`    // the account may write
}

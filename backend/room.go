package backend

import "context"

// Roomer is an ability of backends: whether a replica would fit, before there is
// one.
type Roomer interface {
	// Room names what will keep Prepare from finding or making the machine that
	// p describes, or its disks from being filled: a datastore that is too
	// small, a quota that is used up, a place that isn't there. It makes and
	// changes nothing. None is good, and no promise: room is not reserved. An
	// error means that it can't be told.
	Room(ctx context.Context, p Placement) ([]Problem, error)
}

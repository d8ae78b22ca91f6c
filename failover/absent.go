package failover

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// absent stands for a site that this process doesn't know: workers beside one
// site run the steps of its queue without ever reaching the other. A step that
// does need it fails by saying so.
type absent struct{ err error }

func absentSite(err error) replication.Site {
	return replication.Site{Backend: absent{err}, Points: absentStore{err}}
}

var _ backend.Backend = absent{}

func (a absent) Machine(context.Context, dr.MachineID) (dr.Machine, error) {
	return dr.Machine{}, a.err
}

func (a absent) Capture(context.Context, dr.MachineID, dr.PointID, dr.Consistency) (dr.Image, error) {
	return nil, a.err
}

func (a absent) Release(context.Context, dr.MachineID, dr.PointID) error { return a.err }

func (a absent) Prepare(context.Context, backend.Placement) (backend.Replica, error) {
	return backend.Replica{}, a.err
}

func (a absent) Draft(context.Context, dr.MachineID, dr.Point) (dr.Draft, error) { return nil, a.err }
func (a absent) Start(context.Context, dr.MachineID) error                       { return a.err }
func (a absent) Stop(context.Context, dr.MachineID) error                        { return a.err }
func (a absent) Remove(context.Context, dr.MachineID) error                      { return a.err }

// Shutdown makes the missing site the reason, not a missing ability.
func (a absent) Shutdown(context.Context, dr.MachineID) error { return a.err }

// absentStore is the store of an absent site.
type absentStore struct{ err error }

var _ recoverypoint.PointStore = absentStore{}

func (a absentStore) Create(context.Context, dr.Point) (dr.Draft, error) { return nil, a.err }

func (a absentStore) Open(context.Context, dr.MachineID, dr.PointID) (dr.Image, error) {
	return nil, a.err
}

func (a absentStore) List(context.Context, dr.MachineID) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) { yield(dr.Point{}, a.err) }
}

func (a absentStore) Delete(context.Context, dr.MachineID, dr.PointID) error { return a.err }

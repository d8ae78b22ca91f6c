package replication

import (
	"context"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// DeleteAll deletes every point of the machine: bases, what was received and
// not processed, and what was begun and is not whole, too. Left behind, they
// would be offered as recovery points of a later direction.
func DeleteAll(ctx context.Context, s recoverypoint.PointStore, m dr.MachineID) error {
	ids, err := held(ctx, s, m)
	if err != nil {
		return err
	}
	return deleteEach(ctx, s, m, ids)
}

// DeleteSince deletes the point of that name and all that were made after it,
// which descend from it. If there is none of that name nothing is deleted.
func DeleteSince(ctx context.Context, s recoverypoint.PointStore, m dr.MachineID, first dr.PointID) error {
	ids, err := held(ctx, s, m)
	if err != nil {
		return err
	}
	for i, id := range ids {
		if id == first {
			return deleteEach(ctx, s, m, ids[i:])
		}
	}
	return nil
}

// held lists all that the store has of the machine, oldest first, drafts last.
func held(ctx context.Context, s recoverypoint.PointStore, m dr.MachineID) ([]dr.PointID, error) {
	fail := func(op string, err error) error {
		return &dr.Error{Op: op, Side: dr.StoreSide, Machine: m, Err: err}
	}
	// What was only received can't be seen.
	if err := Process(ctx, s, m); err != nil {
		return nil, err
	}
	var ids []dr.PointID
	for p, err := range s.List(ctx, m) {
		if err != nil {
			return nil, fail("list recovery points", err)
		}
		ids = append(ids, p.ID)
	}
	pender, ok := dr.As[recoverypoint.Pender](s)
	if !ok {
		return ids, nil
	}
	for p, err := range pender.Pending(ctx, m) {
		if err != nil {
			return nil, fail("list drafts", err)
		}
		ids = append(ids, p.ID)
	}
	return ids, nil
}

func deleteEach(ctx context.Context, s recoverypoint.PointStore, m dr.MachineID, ids []dr.PointID) error {
	for _, id := range ids {
		if err := s.Delete(ctx, m, id); err != nil {
			return &dr.Error{Op: "delete recovery point", Side: dr.StoreSide, Machine: m, Point: id, Err: err}
		}
	}
	return nil
}

// letGoTimeout bounds letting go of captures at a site that may be lost.
const letGoTimeout = 30 * time.Second

// ReleaseLeft releases, in bounded time, what interrupted cycles left frozen
// of a machine that won't be replicated into the store any more. Call it
// before their drafts are deleted, which tell their names. It must not keep a
// protection from being ended: what can't be let go of is logged.
func (e *Env) ReleaseLeft(ctx context.Context, at dr.Place, s recoverypoint.PointStore) {
	ctx, cancel := context.WithTimeout(ctx, letGoTimeout)
	defer cancel()
	site, err := e.Sites.Site(at.Site)
	if err == nil {
		if sweeper, ok := dr.As[backend.Sweeper](site.Backend); ok {
			_, err = sweeper.Sweep(ctx, at.Machine, func(dr.PointID) bool { return false })
		}
	}
	if pender, ok := dr.As[recoverypoint.Pender](s); ok && err == nil {
		for p, listErr := range pender.Pending(ctx, at.Machine) {
			if err = listErr; err == nil {
				err = site.Backend.Release(ctx, at.Machine, p.ID)
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		e.Logger().WarnContext(ctx, "captures may be left", "site", at.Site, "machine", at.Machine, "error", err)
	}
}

// Unseed takes back what Seed made under the name, whole or not: the base, and
// what was frozen for it. line is the machine whose points were to be. A name
// that isn't there is no error.
func Unseed(ctx context.Context, at Site, id, line dr.MachineID, name dr.PointID) error {
	c := Cycle{Source: at.Backend, Points: at.Points}
	err := c.Abandon(ctx, id, line, name)
	if del := at.Points.Delete(ctx, line, name); del != nil {
		err = join(err, c.fail("delete base", dr.StoreSide, line, name, del, ""))
	}
	return err
}

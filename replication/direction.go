package replication

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ReplicateAs makes the recovery point of that name of the protection's
// present direction, over the newest one, once. It does not look at the
// protection's state, and does not change its record.
func (e *Env) ReplicateAs(ctx context.Context, p dr.Protection, name dr.PointID, want dr.Consistency, progress func(dr.Progress)) (Report, error) {
	return e.replicate(ctx, p, name, want, CycleOptions{Progress: progress})
}

// ReplicateOver is ReplicateAs where the two sides have gone different ways:
// the point is written over parent, and have tells what is known of how
// parent's content and the machine's differ. Without a parent everything is
// copied.
func (e *Env) ReplicateOver(ctx context.Context, p dr.Protection, name dr.PointID, want dr.Consistency, parent dr.PointID, have History, progress func(dr.Progress)) (Report, error) {
	return e.replicate(ctx, p, name, want, CycleOptions{Parent: parent, Have: &have, Progress: progress})
}

func (e *Env) replicate(ctx context.Context, p dr.Protection, name dr.PointID, want dr.Consistency, o CycleOptions) (Report, error) {
	c, err := e.cycle(p)
	if err != nil {
		return Report{}, err
	}
	return c.ReplicateAs(ctx, p.Active.Machine, name, want, o)
}

// cycle is that of the protection's present direction.
func (e *Env) cycle(p dr.Protection) (*Cycle, error) {
	from, err := e.Sites.Site(p.Active.Site)
	if err != nil {
		return nil, err
	}
	to, err := e.Sites.Site(p.Standby.Site)
	if err != nil {
		return nil, err
	}
	return &Cycle{
		Source: from.Backend, Points: to.Points, SourceSite: p.Active.Site, StoreSite: p.Standby.Site,
		Copy: e.Copy, Now: e.Now, Log: e.Log,
	}, nil
}

// Abandon gives up a point of that name which ReplicateAs or ReplicateOver
// began, of a machine at from, in the store at a site: the capture is let go
// of, also if ctx has ended, and what was copied is thrown away unless the
// point was committed.
func (e *Env) Abandon(ctx context.Context, from dr.Place, store string, name dr.PointID) error {
	source, err := e.Sites.Site(from.Site)
	if err != nil {
		return err
	}
	to, err := e.Sites.Site(store)
	if err != nil {
		return err
	}
	c := Cycle{Source: source.Backend, Points: to.Points, SourceSite: from.Site, StoreSite: store, Now: e.Now, Log: e.Log}
	return c.Abandon(ctx, from.Machine, "", name)
}

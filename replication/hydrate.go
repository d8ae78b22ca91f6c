package replication

import (
	"context"
	"errors"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Hydrate makes a stopped machine at a site hold a point of machine of, which
// the site's store has, and reports what it took. Only what can differ is
// copied:
//
//   - nothing if r holds the point (Report.Existed);
//   - what changed between the two if r holds another point of the store;
//   - what isn't zero if r is new;
//   - what either side changed since common, if r descends from that point of
//     the store and has run since: r is captured for what its tracker says,
//     and the capture is let go of;
//   - else, and where a tracker can't tell, blocks that differ by their sums,
//     or everything.
//
// r must be what Prepare says now: what it said before another step wrote to
// the machine, or started it, is no longer true. A common without ID is none.
// The machine must stay stopped. Until Hydrate has returned without error it
// is torn, except if it failed before the first byte; a second Hydrate of the
// same point goes on where the platform can (dr.Resumer).
func Hydrate(ctx context.Context, at Site, r backend.Replica, of dr.MachineID, point dr.PointID, common dr.Point, o CopyOptions) (rep Report, err error) {
	start := time.Now()
	defer func() { rep.Took = time.Since(start) }()
	h := hydration{at: at, r: r, of: of, point: point}
	img, err := at.Points.Open(ctx, of, point)
	if err != nil {
		return Report{}, h.fail("open point", dr.StoreSide, of, err)
	}
	defer func() {
		if cl := img.Close(); cl != nil && err == nil {
			err = h.fail("close point", dr.StoreSide, of, cl)
		}
	}()
	p := img.Point()
	if r.Holds == point && !r.Torn {
		// The attempt that filled it may not have come to let go.
		return Report{Point: p, Existed: true}, LetGo(ctx, at, r.ID, point)
	}
	have, done, err := h.history(ctx, common)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = join(err, done(ctx)) }()
	o.Have = have
	draft, err := at.Backend.Draft(ctx, r.ID, p)
	if err != nil {
		return Report{}, h.fail("open disks for writing", dr.TargetSide, r.ID, err)
	}
	rep, err = Copy(ctx, draft, img, o)
	cl := draft.Close()
	if err != nil {
		return rep, h.placed(err)
	}
	if cl != nil {
		return rep, h.fail("close disks", dr.TargetSide, r.ID, cl)
	}
	return rep, nil
}

type hydration struct {
	at    Site
	r     backend.Replica
	of    dr.MachineID
	point dr.PointID
}

// history finds out what is known of the replica's content. done lets go of
// what that needed.
func (h hydration) history(ctx context.Context, common dr.Point) (have History, done func(context.Context) error, err error) {
	done = func(context.Context) error { return nil }
	if h.r.Torn {
		// Some of it is of one point, some of another. An attempt that was
		// cut off may have asked the machine before it began to write.
		return History{}, func(ctx context.Context) error { return LetGo(ctx, h.at, h.r.ID, h.point) }, nil
	}
	if h.r.New {
		return History{Blank: true}, done, nil
	}
	if h.r.Holds != "" {
		held, err := h.at.Points.Open(ctx, h.of, h.r.Holds)
		if err == nil {
			p := held.Point()
			if err := held.Close(); err != nil {
				return History{}, done, h.fail("close point", dr.StoreSide, h.of, err)
			}
			return History{Common: p}, done, nil
		}
		if !errors.Is(err, dr.ErrNotFound) {
			return History{}, done, h.fail("open point", dr.StoreSide, h.of, err)
		}
	}
	if common.ID == "" {
		return History{}, done, nil
	}
	return h.theirs(ctx, common)
}

// theirs captures the replica to learn what it changed itself. A capture that
// a crash left must not be taken for the present: the machine may have run
// since. So it is let go of first; and disks that the crash left torn can't be
// captured again, whereupon they are compared whole.
func (h hydration) theirs(ctx context.Context, common dr.Point) (History, func(context.Context) error, error) {
	name := theirsName(h.point)
	release := func(ctx context.Context) error { return LetGo(ctx, h.at, h.r.ID, h.point) }
	if err := release(ctx); err != nil {
		return History{}, nil, err
	}
	img, err := h.at.Backend.Capture(ctx, h.r.ID, name, dr.CrashConsistent)
	switch {
	case err == nil:
		return History{Common: common, Theirs: img}, func(ctx context.Context) error {
			return join(img.Close(), release(ctx))
		}, nil
	case errors.Is(err, dr.ErrTorn), errors.Is(err, dr.ErrUnsupported), errors.Is(err, dr.ErrNotConsistent):
		return History{}, release, nil
	}
	return History{}, nil, join(h.fail("capture", dr.TargetSide, h.r.ID, err), release(ctx))
}

func theirsName(point dr.PointID) dr.PointID { return PointName("theirs/" + string(point)) }

// LetGo releases what a Hydrate of the point that was cut off may have left
// frozen of the machine, also if ctx has ended.
func LetGo(ctx context.Context, at Site, id dr.MachineID, point dr.PointID) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), releaseGrace)
		defer cancel()
	}
	if err := at.Backend.Release(ctx, id, theirsName(point)); err != nil {
		return hydration{point: point}.fail("release capture", dr.TargetSide, id, err)
	}
	return nil
}

func (h hydration) fail(op string, side dr.Side, m dr.MachineID, err error) error {
	return locate(&dr.Error{Op: op, Side: side, Machine: m, Point: h.point, Err: err, Remedy: remedy(err)})
}

// placed tells an error of Copy in the words of a hydration, whose source is
// a store.
func (h hydration) placed(err error) error {
	e, ok := err.(*dr.Error)
	if !ok {
		return err
	}
	at := *e
	switch at.Side {
	case dr.SourceSide:
		at.Side = dr.StoreSide
	case dr.TargetSide:
		at.Machine = h.r.ID
	}
	if at.Remedy == "" {
		at.Remedy = "the disks stay torn, and can't start, until a point was copied to them whole: hydrate again"
	}
	return &at
}

// Seed keeps the disks of a stopped machine in its own site's store as a base:
// content that the points of the other direction can be written over, so that
// only changes travel. as describes the machine whose points those will be;
// the store keeps the base under its ID. The same name makes one base only.
// A machine that isn't known to be off is dr.ErrRunning.
func Seed(ctx context.Context, at Site, id dr.MachineID, as dr.Machine, name dr.PointID, o CopyOptions) (Report, error) {
	c := Cycle{Source: at.Backend, Points: at.Points, Copy: o}
	m, err := at.Backend.Machine(ctx, id)
	if err != nil {
		return Report{}, c.fail("look up machine", dr.SourceSide, id, name, err, "")
	}
	if m.Power != dr.Off {
		return Report{}, c.fail("seed", dr.SourceSide, id, name, dr.ErrRunning, "switch the machine off")
	}
	return c.ReplicateAs(ctx, id, name, dr.CrashConsistent, CycleOptions{Machine: &as, Base: true})
}

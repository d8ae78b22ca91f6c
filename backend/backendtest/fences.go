package backendtest

import (
	"context"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// theClaim is the resource whose epochs the suite gives.
const theClaim = "protection/backendtest"

// under is the test's context, with an epoch of the claim.
func (e *env) under(epoch uint64) context.Context {
	return dr.WithFences(e.Context(), map[string]uint64{theClaim: epoch})
}

// fenceable is one call that changes a machine, with what it needs.
type fenceable struct {
	name string
	call func(ctx context.Context, e *env, key string, m dr.Machine, id dr.MachineID) error
	on   bool // it is of use to a machine that runs
	off  bool // to one that doesn't
}

var fenceables = []fenceable{
	{"Prepare", func(ctx context.Context, e *env, key string, m dr.Machine, _ dr.MachineID) error {
		_, err := e.placeUnder(ctx, backend.Placement{Key: key, Machine: m})
		return err
	}, false, true},
	{"Draft", func(ctx context.Context, e *env, _ string, m dr.Machine, id dr.MachineID) error {
		d, err := e.b.Draft(ctx, id, dr.Point{ID: "late", Time: epoch, Machine: m})
		if err == nil {
			err = d.Close()
		}
		return err
	}, false, true},
	{"Start", func(ctx context.Context, e *env, _ string, _ dr.Machine, id dr.MachineID) error {
		return e.b.Start(ctx, id)
	}, true, true},
	{"Stop", func(ctx context.Context, e *env, _ string, _ dr.Machine, id dr.MachineID) error {
		return e.b.Stop(ctx, id)
	}, true, true},
	{"Shutdown", func(ctx context.Context, e *env, _ string, _ dr.Machine, id dr.MachineID) error {
		return need[backend.Shutdowner](e, e.b, "backend.Shutdowner").Shutdown(ctx, id)
	}, true, true},
	{"Remove", func(ctx context.Context, e *env, _ string, _ dr.Machine, id dr.MachineID) error {
		return e.b.Remove(ctx, id)
	}, true, true},
}

func (e *env) placeUnder(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if e.h.Place != nil {
		p = e.h.Place(p)
	}
	return e.b.Prepare(ctx, p)
}

// can tells whether the backend has the call at all.
func (f fenceable) can(e *env) bool {
	_, has := dr.As[backend.Shutdowner](e.b)
	return f.name != "Shutdown" || has
}

// passedOver checks that nobody acts for an older epoch on a machine that is off
// and holds p, and that trying it changes nothing.
func (e *env) passedOver(key string, r backend.Replica, p dr.Point, when string) {
	e.Helper()
	for _, f := range fenceables {
		if f.off && f.can(e) {
			require.ErrorIs(e, f.call(e.under(1), e, key, p.Machine, r.ID), dr.ErrFenced, "%s %s", f.name, when)
		}
	}
	e.power(r.ID, dr.Off)
	require.Equal(e, backend.Replica{ID: r.ID, Holds: p.ID}, e.prepare(key, p.Machine), "%s: what was refused changed nothing", when)
}

var fencesPromises = []promise{
	{"lower epoch is refused, and nothing happens", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		e.ok(e.b.Stop(e.under(2), r.ID), "it has nothing to do, and is remembered")
		e.passedOver(key, r, p, "in the same process")
		e.sameDisks(r.ID, c, "as they were")
	}},
	{"in another process", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		e.ok(e.b.Stop(e.under(2), r.ID))
		e.reopen()
		e.passedOver(key, r, p, "in another process")
	}},
	{"a running machine runs on", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		e.ok(e.b.Start(e.under(2), r.ID))
		for _, f := range fenceables {
			if f.on && f.can(e) {
				require.ErrorIs(e, f.call(e.under(1), e, key, p.Machine, r.ID), dr.ErrFenced, f.name)
			}
		}
		e.power(r.ID, dr.On)
		e.ok(e.b.Stop(e.under(2), r.ID))
		e.ok(e.b.Remove(e.under(3), r.ID))
	}},
	{"whatever was called under the higher epoch", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		n := uint64(1)
		for _, f := range fenceables {
			if f.name == "Remove" || !f.can(e) {
				continue
			}
			n++
			if !f.on { // the one before may have started it
				e.ok(e.b.Stop(e.Context(), r.ID))
			}
			e.ok(f.call(e.under(n), e, key, p.Machine, r.ID), f.name)
			if f.name == "Draft" {
				e.fill(e.draft(r.ID, p), c, p) // else it is torn
			}
			require.ErrorIs(e, e.b.Stop(e.under(n-1), r.ID), dr.ErrFenced, "after %s under epoch %d", f.name, n)
		}
	}},
	{"prepare that makes it remembers", func(e *env) {
		e.fenced()
		p, _ := e.standIn("p")
		key := e.key()
		r, err := e.placeUnder(e.under(2), backend.Placement{Key: key, Machine: p.Machine})
		e.ok(err)
		e.Cleanup(func() { _ = e.b.Remove(cleanup, r.ID) })
		require.ErrorIs(e, e.b.Start(e.under(1), r.ID), dr.ErrFenced)
		again, err := e.placeUnder(e.under(2), backend.Placement{Key: key, Machine: p.Machine})
		e.ok(err)
		require.Equal(e, r, again)
	}},
	{"an original remembers", func(e *env) {
		e.fenced()
		m, _ := e.running()
		e.ok(e.b.Stop(e.under(4), m.ID))
		_, err := e.placeUnder(e.under(3), backend.Placement{Key: "original", Original: m.ID, Machine: m})
		require.ErrorIs(e, err, dr.ErrFenced)
		require.ErrorIs(e, e.b.Start(e.under(3), m.ID), dr.ErrFenced)
		e.power(m.ID, dr.Off)
		_, err = e.placeUnder(e.under(5), backend.Placement{Key: "original", Original: m.ID, Machine: m})
		e.ok(err)
		require.ErrorIs(e, e.b.Start(e.under(4), m.ID), dr.ErrFenced)
		e.ok(e.b.Start(e.under(5), m.ID))
		require.ErrorIs(e, e.b.Stop(e.under(4), m.ID), dr.ErrFenced)
		e.power(m.ID, dr.On)
		e.ok(e.b.Stop(e.under(5), m.ID))
	}},
	{"calls without fences are admitted, and lower nothing", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		e.ok(e.b.Stop(e.under(2), r.ID))
		e.ok(e.b.Start(e.Context(), r.ID))
		e.ok(e.b.Stop(e.Context(), r.ID))
		e.fill(e.draft(r.ID, p), c, p)
		e.passedOver(key, r, p, "after calls without fences")
	}},
	{"resources are independent", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		r := e.replica(e.key(), c, p)
		e.ok(e.b.Stop(e.under(7), r.ID))
		other := func(epoch uint64) context.Context {
			return dr.WithFences(e.Context(), map[string]uint64{"another": epoch})
		}
		e.ok(e.b.Start(other(2), r.ID))
		require.ErrorIs(e, e.b.Stop(other(1), r.ID), dr.ErrFenced)
		require.ErrorIs(e, e.b.Stop(e.under(6), r.ID), dr.ErrFenced)
		both := dr.WithFences(other(3), map[string]uint64{theClaim: 6})
		require.ErrorIs(e, e.b.Stop(both, r.ID), dr.ErrFenced, "one of them is passed over")
		e.power(r.ID, dr.On)
		e.ok(e.b.Stop(other(2), r.ID), "a call that was refused raised nothing")
		e.ok(e.b.Stop(dr.WithFences(other(3), map[string]uint64{theClaim: 7}), r.ID))
		require.ErrorIs(e, e.b.Stop(other(2), r.ID), dr.ErrFenced)
	}},
	{"a draft that was passed over is not committed", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		d, err := e.b.Draft(e.under(1), r.ID, p)
		e.ok(err)
		e.Cleanup(func() { _ = d.Close() })
		e.write(d, diskA, c[diskA], 0)
		e.ok(e.b.Stop(e.under(2), r.ID))
		require.ErrorIs(e, d.Commit(e.Context(), p), dr.ErrFenced)
		require.ErrorIs(e, d.Commit(e.under(1), p), dr.ErrFenced)
		e.ok(d.Close())
		e.torn(key, r.ID, p.Machine, "after a commit that was refused")
		e.fill(e.draft(r.ID, p), c, p)
		e.sameDisks(r.ID, c, "the newer owner's")
	}},
	{"a draft goes on under its own epoch", func(e *env) {
		e.fenced()
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		d, err := e.b.Draft(e.under(2), r.ID, p)
		e.ok(err)
		e.write(d, diskA, c[diskA], 0)
		e.ok(e.b.Stop(e.under(2), r.ID), "of the same owner")
		require.ErrorIs(e, e.b.Stop(e.under(1), r.ID), dr.ErrFenced)
		e.fill(d, c, p)
		require.Equal(e, backend.Replica{ID: r.ID, Holds: p.ID}, e.prepare(key, p.Machine))
	}},
}

// fenced skips the subtest for backends that say that they keep no fences.
func (e *env) fenced() {
	e.Helper()
	if e.h.Unfenced {
		e.lacks("fences")
	}
}

package backendtest

import (
	"context"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var machinePromises = []promise{
	{"is described", func(e *env) {
		m := e.machine()
		require.Equal(e, dr.Off, m.Power)
		for _, want := range e.disks() {
			got, ok := m.Disk(want.ID)
			require.True(e, ok, "disk %s", want.ID)
			require.Equal(e, want.Size, got.Size)
		}
		e.ok(e.h.Power(m.ID, dr.On))
		m, err := e.b.Machine(e.Context(), m.ID)
		e.ok(err)
		require.Equal(e, dr.On, m.Power)
	}},
	{"missing is ErrNotFound", func(e *env) {
		_, err := e.b.Machine(e.Context(), "no-such-machine")
		require.ErrorIs(e, err, dr.ErrNotFound)
	}},
	{"context is honoured", func(e *env) {
		m := e.machine()
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		_, err := e.b.Machine(ctx, m.ID)
		require.ErrorIs(e, err, context.Canceled)
	}},
}

var capturePromises = []promise{
	{"describes its moment", func(e *env) {
		m, _ := e.running()
		for _, want := range []dr.Consistency{dr.CrashConsistent, dr.FileSystemConsistent, dr.ApplicationConsistent} {
			img, err := e.b.Capture(e.Context(), m.ID, dr.PointID("p-"+want.String()), want)
			e.ok(err)
			p := img.Point()
			require.EqualValues(e, "p-"+want.String(), p.ID)
			require.Equal(e, m.ID, p.Machine.ID)
			require.False(e, p.Time.IsZero())
			require.GreaterOrEqual(e, p.Consistency, dr.CrashConsistent)
			require.LessOrEqual(e, p.Consistency, want, "more than was asked for")
			for _, d := range m.Disks {
				got, ok := p.Machine.Disk(d.ID)
				require.True(e, ok)
				require.Equal(e, d.Size, got.Size)
			}
			require.Equal(e, p, img.Point(), "a point that changes")
			e.ok(img.Close())
		}
	}},
	{"missing machine is ErrNotFound", func(e *env) {
		_, err := e.b.Capture(e.Context(), "no-such-machine", "p", dr.CrashConsistent)
		require.ErrorIs(e, err, dr.ErrNotFound)
	}},
	{"image is frozen while the guest writes", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		then := c.clone()
		e.sameImage(img, then, "before")
		for range 4 {
			e.scribble(m.ID, c, 6)
			e.sameImage(img, then, "while the guest writes")
		}
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.sameImage(img, then, "after the stop")
	}},
	{"of a stopped machine", func(e *env) {
		m, c := e.running()
		e.ok(e.b.Stop(e.Context(), m.ID))
		img := e.capture(m.ID, "p")
		e.sameImage(img, c, "stopped")
		e.ok(e.b.Start(e.Context(), m.ID))
		then := c.clone()
		e.scribble(m.ID, c, 6)
		e.sameImage(img, then, "started again")
	}},
	{"same name finds what was frozen", func(e *env) {
		if e.h.Volatile {
			e.lacks("captures that outlive their image")
		}
		m, c := e.running()
		first := e.capture(m.ID, "p")
		then := c.clone()
		e.scribble(m.ID, c, 6)
		second := e.capture(m.ID, "p")
		require.Equal(e, first.Point(), second.Point())
		e.sameImage(second, then, "found")
		e.ok(first.Close())
		e.sameImage(second, then, "after the other image was closed")
		e.ok(second.Close())
		e.sameImage(e.capture(m.ID, "p"), then, "after all were closed")
		// One release must be enough: there is only one.
		e.ok(e.b.Release(e.Context(), m.ID, "p"))
		e.sameImage(e.capture(m.ID, "p"), c, "after the release")
	}},
	{"same name in another process finds it", func(e *env) {
		if e.h.Volatile {
			e.lacks("captures that outlive their image")
		}
		m, c := e.running()
		first := e.capture(m.ID, "p").Point()
		then := c.clone()
		e.scribble(m.ID, c, 6)
		e.reopen()
		second := e.capture(m.ID, "p")
		require.True(e, first.Time.Equal(second.Point().Time), "another moment")
		require.Equal(e, first.Cursors, second.Point().Cursors)
		e.sameImage(second, then, "after a crash")
	}},
	{"two names are two moments", func(e *env) {
		m, c := e.running()
		p1, c1 := e.capture(m.ID, "p1"), c.clone()
		e.scribble(m.ID, c, 6)
		p2, c2 := e.capture(m.ID, "p2"), c.clone()
		e.scribble(m.ID, c, 6)
		e.sameImage(p1, c1, "first")
		e.sameImage(p2, c2, "second")
		require.False(e, p2.Point().Time.Before(p1.Point().Time))
		e.ok(p1.Close())
		e.ok(e.b.Release(e.Context(), m.ID, "p1"))
		e.sameImage(p2, c2, "second after the first was released")
		if !e.h.Volatile {
			e.ok(p2.Close())
			e.sameImage(e.capture(m.ID, "p2"), c2, "second, found after the first was released")
		}
	}},
	{"names belong to their machine", func(e *env) {
		m1, c1 := e.running()
		m2, c2 := e.running()
		p1, p2 := e.capture(m1.ID, "p"), e.capture(m2.ID, "p")
		e.ok(e.b.Release(e.Context(), m2.ID, "p"))
		e.sameImage(p1, c1, "one machine")
		_ = p2.Close()
		e.sameImage(e.capture(m1.ID, "p"), c1, "found again")
		e.sameImage(e.capture(m2.ID, "p"), c2, "the other machine")
	}},
	{"guest writes to the very last byte", func(e *env) {
		m, c := e.running()
		for disk, b := range c.all() {
			e.guest(m.ID, c, disk, int64(len(b))-512, 512)
		}
		e.sameImage(e.capture(m.ID, "p"), c, "last sector")
	}},
	{"release is idempotent", func(e *env) {
		m, _ := e.running()
		img := e.capture(m.ID, "p")
		e.ok(img.Close())
		for range 3 {
			e.ok(e.b.Release(e.Context(), m.ID, "p"))
		}
		e.ok(e.b.Release(e.Context(), m.ID, "never-captured"))
		e.ok(e.b.Release(e.Context(), "no-such-machine", "p"))
	}},
	{"release lets go", func(e *env) {
		if e.h.Inventory == nil {
			e.lacks("Harness.Inventory")
		}
		m, _ := e.running()
		before := e.inventory()
		img := e.capture(m.ID, "p")
		e.ok(img.Close())
		e.ok(e.b.Release(e.Context(), m.ID, "p"))
		require.Equal(e, before, e.inventory())
	}},
	{"context is honoured", func(e *env) {
		m, _ := e.running()
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		_, err := e.b.Capture(ctx, m.ID, "p", dr.CrashConsistent)
		require.ErrorIs(e, err, context.Canceled)
	}},
}

func (e *env) inventory() []string {
	e.Helper()
	names, err := e.h.Inventory()
	e.ok(err)
	slices.Sort(names)
	return names
}

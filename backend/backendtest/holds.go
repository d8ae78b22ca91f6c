package backendtest

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var holdsPromises = []promise{
	{"what was captured while stopped", func(e *env) {
		m, c := e.running()
		e.ok(e.b.Stop(e.Context(), m.ID))
		img := e.capture(m.ID, "p")
		require.Equal(e, backend.Replica{ID: m.ID, Holds: "p"}, e.original(m))
		e.ok(img.Close())
		e.ok(e.b.Release(e.Context(), m.ID, "p"))
		require.Equal(e, backend.Replica{ID: m.ID, Holds: "p"}, e.original(m), "a release changes no disk")
		e.sameDisks(m.ID, c, "held")
	}},
	{"nothing that was captured while running", func(e *env) {
		m, _ := e.running()
		e.capture(m.ID, "p")
		e.ok(e.b.Stop(e.Context(), m.ID))
		require.Empty(e, e.original(m).Holds)
		// Finding that capture again does not make it the disks' content.
		e.capture(m.ID, "p")
		require.Empty(e, e.original(m).Holds)
	}},
	{"nothing after a start", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		e.ok(e.b.Start(e.Context(), r.ID))
		e.ok(e.b.Stop(e.Context(), r.ID))
		got := e.prepare(key, p.Machine)
		require.Equal(e, backend.Replica{ID: r.ID}, got)
	}},
	{"nothing after a start, in another process", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		e.ok(e.b.Start(e.Context(), r.ID))
		e.reopen()
		e.ok(e.b.Stop(e.Context(), r.ID))
		require.Equal(e, backend.Replica{ID: r.ID}, e.prepare(key, p.Machine))
	}},
	{"nothing after a new replica ran", func(e *env) {
		p, _ := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		e.ok(e.b.Start(e.Context(), r.ID))
		e.ok(e.b.Stop(e.Context(), r.ID))
		require.Equal(e, backend.Replica{ID: r.ID}, e.prepare(key, p.Machine), "what has run is not new")
	}},
	{"nothing after a person started it", func(e *env) {
		m, c := e.running()
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.capture(m.ID, "p")
		require.Equal(e, dr.PointID("p"), e.original(m).Holds)
		e.ok(e.h.Power(m.ID, dr.On))
		e.scribble(m.ID, c, 2)
		e.ok(e.h.Power(m.ID, dr.Off))
		require.Empty(e, e.original(m).Holds)
	}},
	{"the point again once it is copied again", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		e.ok(e.b.Start(e.Context(), r.ID))
		ran := c.clone()
		e.scribble(r.ID, ran, 4)
		e.ok(e.b.Stop(e.Context(), r.ID))
		e.fill(e.draft(r.ID, p), c, p)
		require.Equal(e, backend.Replica{ID: r.ID, Holds: "p"}, e.prepare(key, p.Machine))
		e.sameDisks(r.ID, c, "copied again")
	}},
}

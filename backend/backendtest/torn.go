package backendtest

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// begun makes a replica that held a point and has a draft of another one,
// with one byte written.
func (e *env) begun() (key string, r backend.Replica, d dr.Draft, p dr.Point, c content) {
	e.Helper()
	old, oldContent := e.standIn("old")
	key = e.key()
	r = e.replica(key, oldContent, old)
	p, c = e.standIn("p")
	d = e.draft(r.ID, p)
	e.write(d, diskA, c[diskA][:1], 0)
	return key, r, d, p, c
}

// torn checks that nothing takes the machine's disks for anything.
func (e *env) torn(key string, id dr.MachineID, m dr.Machine, when string) {
	e.Helper()
	require.Equal(e, backend.Replica{ID: id, Torn: true}, e.prepare(key, m), when)
	require.ErrorIs(e, e.b.Start(e.Context(), id), dr.ErrTorn, when)
	_, err := e.b.Capture(e.Context(), id, "of-torn-disks", dr.CrashConsistent)
	require.ErrorIs(e, err, dr.ErrTorn, when)
	got, err := e.b.Machine(e.Context(), id)
	e.ok(err)
	require.Equal(e, dr.Off, got.Power, when)
}

var tornPromises = []promise{
	{"machine holds nothing and is not started", func(e *env) {
		key, r, _, p, _ := e.begun()
		e.torn(key, r.ID, p.Machine, "while the draft is open")
	}},
	{"close does not publish", func(e *env) {
		key, r, d, p, _ := e.begun()
		e.ok(d.Close())
		e.torn(key, r.ID, p.Machine, "after Close without Commit")
		e.ok(d.Close())
		e.torn(key, r.ID, p.Machine, "after a second Close")
	}},
	{"mark outlives the process", func(e *env) {
		key, r, _, p, _ := e.begun()
		e.reopen()
		e.torn(key, r.ID, p.Machine, "in another process")
	}},
	{"original is marked too", func(e *env) {
		m, _ := e.running()
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.original(m)
		p, _ := e.standIn("p")
		d := e.draft(m.ID, p)
		e.write(d, diskA, []byte{1}, 0)
		e.ok(d.Close())
		require.Equal(e, backend.Replica{ID: m.ID, Torn: true}, e.original(m))
		require.ErrorIs(e, e.b.Start(e.Context(), m.ID), dr.ErrTorn)
	}},
	{"stop does not end it", func(e *env) {
		key, r, _, p, _ := e.begun()
		e.ok(e.b.Stop(e.Context(), r.ID))
		e.torn(key, r.ID, p.Machine, "after Stop")
	}},
	{"new replica that is torn is not new", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		d := e.draft(r.ID, p)
		e.write(d, diskA, c[diskA], 0)
		e.ok(d.Close())
		require.Equal(e, backend.Replica{ID: r.ID, Torn: true}, e.prepare(key, p.Machine))
	}},
	{"next draft's commit ends it", func(e *env) {
		key, r, d, _, _ := e.begun()
		e.ok(d.Close())
		q, c := e.standIn("q")
		e.fill(e.draft(r.ID, q), c, q)
		require.Equal(e, backend.Replica{ID: r.ID, Holds: "q"}, e.prepare(key, q.Machine))
		e.sameDisks(r.ID, c, "whole again")
		e.ok(e.b.Start(e.Context(), r.ID))
	}},
	{"next draft after a crash ends it", func(e *env) {
		key, r, _, p, c := e.begun()
		e.reopen()
		e.fill(e.draft(r.ID, p), c, p)
		require.Equal(e, backend.Replica{ID: r.ID, Holds: p.ID}, e.prepare(key, p.Machine))
		e.sameDisks(r.ID, c, "whole again")
	}},
	{"machine can be removed", func(e *env) {
		key, r, d, p, _ := e.begun()
		e.ok(d.Close())
		e.ok(e.b.Remove(e.Context(), r.ID))
		again := e.prepare(key, p.Machine)
		require.True(e, again.New)
		require.False(e, again.Torn)
	}},
}

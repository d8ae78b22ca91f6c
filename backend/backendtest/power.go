package backendtest

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var powerPromises = []promise{
	{"start and stop are idempotent", func(e *env) {
		m := e.machine()
		for range 2 {
			for range 2 {
				e.ok(e.b.Start(e.Context(), m.ID))
				e.power(m.ID, dr.On)
			}
			for range 2 {
				e.ok(e.b.Stop(e.Context(), m.ID))
				e.power(m.ID, dr.Off)
			}
		}
	}},
	{"what the guest wrote stays", func(e *env) {
		m, c := e.running()
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.sameDisks(m.ID, c, "stopped")
		e.ok(e.b.Start(e.Context(), m.ID))
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.sameDisks(m.ID, c, "stopped again")
	}},
	{"a replica runs on what was copied to it", func(e *env) {
		p, c := e.standIn("p")
		r := e.replica(e.key(), c, p)
		e.ok(e.b.Start(e.Context(), r.ID))
		e.scribble(r.ID, c, 6)
		e.ok(e.b.Stop(e.Context(), r.ID))
		e.sameDisks(r.ID, c, "copied, and written by the guest")
	}},
	{"a running machine goes on running in another process", func(e *env) {
		m, c := e.running()
		e.reopen()
		e.power(m.ID, dr.On)
		e.scribble(m.ID, c, 3)
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.sameDisks(m.ID, c, "stopped")
	}},
}

func (e *env) power(id dr.MachineID, want dr.Power) {
	e.Helper()
	m, err := e.b.Machine(e.Context(), id)
	e.ok(err)
	require.Equal(e, want, m.Power)
}

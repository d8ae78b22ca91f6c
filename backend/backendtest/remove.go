package backendtest

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var removePromises = []promise{
	{"leaves nothing", func(e *env) {
		for what, use := range map[string]func(key string, p dr.Point, c content) dr.MachineID{
			"new":  func(key string, p dr.Point, _ content) dr.MachineID { return e.prepare(key, p.Machine).ID },
			"full": func(key string, p dr.Point, c content) dr.MachineID { return e.replica(key, c, p).ID },
			"captured": func(key string, p dr.Point, c content) dr.MachineID {
				id := e.replica(key, c, p).ID
				e.ok(e.capture(id, "q").Close())
				return id
			},
			"running": func(key string, p dr.Point, c content) dr.MachineID {
				id := e.replica(key, c, p).ID
				e.ok(e.b.Start(e.Context(), id))
				return id
			},
			"torn": func(key string, p dr.Point, c content) dr.MachineID {
				id := e.prepare(key, p.Machine).ID
				d := e.draft(id, p)
				e.write(d, diskA, c[diskA], 0)
				e.ok(d.Close())
				return id
			},
		} {
			p, c := e.standIn("p")
			key := e.key()
			var before []string
			if e.h.Inventory != nil {
				before = e.inventory()
			}
			id := use(key, p, c)
			for range 2 {
				e.ok(e.b.Remove(e.Context(), id), what)
				_, err := e.b.Machine(e.Context(), id)
				require.ErrorIs(e, err, dr.ErrNotFound, what)
			}
			if e.h.Inventory != nil {
				require.Equal(e, before, e.inventory(), what)
			}
			r := e.prepare(key, p.Machine)
			require.True(e, r.New, what)
			require.False(e, r.Torn, what)
			require.Empty(e, r.Holds, what)
			e.sameDisks(r.ID, zeros(p.Machine), what)
			e.ok(e.b.Remove(e.Context(), r.ID))
		}
	}},
	{"missing machine is no error", func(e *env) {
		e.ok(e.b.Remove(e.Context(), "no-such-machine"))
	}},
	{"leaves other machines alone", func(e *env) {
		m, c := e.running()
		p, pc := e.standIn("p")
		key := e.key()
		other := e.replica(key, pc, p)
		r := e.replica(e.key(), pc, p)
		e.ok(e.b.Remove(e.Context(), r.ID))
		require.Equal(e, backend.Replica{ID: other.ID, Holds: "p"}, e.prepare(key, p.Machine))
		e.sameDisks(other.ID, pc, "another replica")
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.sameDisks(m.ID, c, "a machine that is no replica")
	}},
	{"leaves what Prepare found as original", func(e *env) {
		m, c := e.running()
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.original(m)
		_ = e.b.Remove(e.Context(), m.ID) // refusing is fine, removing is not
		_, err := e.b.Machine(e.Context(), m.ID)
		e.ok(err)
		e.sameDisks(m.ID, c, "original")
	}},
	{"leaves what this library didn't make", func(e *env) {
		m, c := e.running()
		_ = e.b.Remove(e.Context(), m.ID)
		_, err := e.b.Machine(e.Context(), m.ID)
		e.ok(err)
		e.ok(e.b.Stop(e.Context(), m.ID))
		e.sameDisks(m.ID, c, "a machine that is no replica")
	}},
}

package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var preparePromises = []promise{
	{"makes a stopped machine with zeroed disks", func(e *env) {
		p, c := e.standIn("p")
		r := e.prepare(e.key(), p.Machine)
		require.True(e, r.New)
		require.False(e, r.Torn)
		require.Empty(e, r.Holds)
		m, err := e.b.Machine(e.Context(), r.ID)
		e.ok(err)
		require.Equal(e, dr.Off, m.Power)
		require.Len(e, m.Disks, len(p.Machine.Disks))
		for _, want := range p.Machine.Disks {
			got, ok := m.Disk(want.ID)
			require.True(e, ok, "disk %s keeps its ID", want.ID)
			require.Equal(e, want.Size, got.Size)
			clear(c[want.ID])
		}
		e.sameDisks(r.ID, c, "new")
	}},
	{"finds by key what it made", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		require.Equal(e, r, e.prepare(key, p.Machine), "before anything was written")
		e.fill(e.draft(r.ID, p), c, p)
		for range 2 {
			again := e.prepare(key, p.Machine)
			require.Equal(e, backend.Replica{ID: r.ID, Holds: "p"}, again)
		}
		e.sameDisks(r.ID, c, "found again")
	}},
	{"finds it in another process", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		fresh := e.prepare(key, p.Machine)
		e.reopen()
		require.Equal(e, fresh, e.prepare(key, p.Machine))
		e.fill(e.draft(fresh.ID, p), c, p)
		e.reopen()
		require.Equal(e, backend.Replica{ID: fresh.ID, Holds: "p"}, e.prepare(key, p.Machine))
		e.sameDisks(fresh.ID, c, "found again")
	}},
	{"makes another machine for another key", func(e *env) {
		p, c := e.standIn("p")
		r1 := e.replica(e.key(), c, p)
		r2 := e.prepare(e.key(), p.Machine)
		require.NotEqual(e, r1.ID, r2.ID)
		require.True(e, r2.New)
		e.sameDisks(r2.ID, zeros(p.Machine), "the other machine")
	}},
	{"adds disks that lack and grows smaller ones", func(e *env) {
		p, c := e.standIn("p")
		key := e.key()
		r := e.replica(key, c, p)
		want := p.Machine
		want.Disks = e.disks()
		add := 64 * max(e.h.SizeUnit, 512)
		want.Disks[0].Size += add
		want.Disks = append(want.Disks, dr.Disk{ID: "c", Size: want.Disks[1].Size})
		require.Equal(e, r.ID, e.prepare(key, want).ID)
		m, err := e.b.Machine(e.Context(), r.ID)
		e.ok(err)
		for _, d := range want.Disks {
			got, ok := m.Disk(d.ID)
			require.True(e, ok, "disk %s", d.ID)
			require.Equal(e, d.Size, got.Size, "disk %s", d.ID)
		}
		c[diskA] = append(c[diskA], make([]byte, add)...)
		c["c"] = make([]byte, want.Disks[2].Size)
		e.sameDisks(r.ID, c, "kept, and zeros where it is new")
	}},
	{"uses a stopped original", func(e *env) {
		m, c := e.running()
		e.ok(e.b.Stop(e.Context(), m.ID))
		r := e.original(m)
		require.Equal(e, m.ID, r.ID)
		require.False(e, r.New)
		require.False(e, r.Torn)
		require.Empty(e, r.Holds, "nobody can say what a machine holds that has run")
		require.Equal(e, r, e.original(m))
		e.sameDisks(m.ID, c, "original")
	}},
	{"running original is ErrRunning", func(e *env) {
		m, _ := e.running()
		_, err := e.place(backend.Placement{Key: "k", Original: m.ID, Machine: m})
		require.ErrorIs(e, err, dr.ErrRunning)
		got, err := e.b.Machine(e.Context(), m.ID)
		e.ok(err)
		require.Equal(e, dr.On, got.Power)
	}},
	{"missing original is ErrNotFound", func(e *env) {
		p, _ := e.standIn("p")
		_, err := e.place(backend.Placement{Key: e.key(), Original: "no-such-machine", Machine: p.Machine})
		require.ErrorIs(e, err, dr.ErrNotFound)
	}},
	{"original with other disks is ErrInvalid", func(e *env) {
		m := e.machine()
		unit := max(e.h.SizeUnit, 512)
		for what, disks := range map[string][]dr.Disk{
			"larger":  {{ID: diskA, Size: m.Disks[0].Size + unit}, m.Disks[1]},
			"smaller": {{ID: diskA, Size: m.Disks[0].Size - unit}, m.Disks[1]},
			"missing": {m.Disks[0], m.Disks[1], {ID: "c", Size: m.Disks[1].Size}},
		} {
			want := m
			want.Disks = disks
			_, err := e.place(backend.Placement{Key: e.key(), Original: m.ID, Machine: want})
			require.ErrorIs(e, err, dr.ErrInvalid, what)
		}
		got, err := e.b.Machine(e.Context(), m.ID)
		e.ok(err)
		require.Equal(e, m.Disks, got.Disks, "an original's disks are never changed")
	}},
	{"two candidates are ErrAmbiguous", func(e *env) {
		if e.h.Duplicate == nil {
			e.lacks("Harness.Duplicate")
		}
		p, _ := e.standIn("p")
		key := e.key()
		r := e.prepare(key, p.Machine)
		e.ok(e.h.Duplicate(e, r.ID))
		_, err := e.place(backend.Placement{Key: key, Machine: p.Machine})
		require.ErrorIs(e, err, dr.ErrAmbiguous)
	}},
	{"refuses options it doesn't know", func(e *env) {
		p, _ := e.standIn("p")
		r, err := e.b.Prepare(e.Context(), backend.Placement{Key: e.key(), Machine: p.Machine,
			Options: json.RawMessage(`{"no-such-option-of-any-backend":1}`)})
		if err == nil {
			_ = e.b.Remove(cleanup, r.ID)
		}
		require.Error(e, err)
	}},
	{"cards are honoured or refused", func(e *env) {
		for what, c := range map[string]struct {
			card  backend.Card
			shows func(dr.NIC) bool
		}{
			"a static address": {backend.Card{Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.77/24")}}, func(n dr.NIC) bool {
				return !n.DHCP && slices.ContainsFunc(n.Addresses, func(s string) bool {
					a, _, err := backend.ParseAddress(s)
					return err == nil && a.String() == "203.0.113.77"
				})
			}},
			"a network": {backend.Card{Network: "no-such/network"}, func(n dr.NIC) bool { return n.Network == "no-such/network" }},
		} {
			p, _ := e.standIn("p")
			r, err := e.place(backend.Placement{Key: e.key(), Machine: p.Machine, Cards: map[string]backend.Card{"nic0": c.card}})
			if err != nil {
				require.True(e, errors.Is(err, dr.ErrUnsupported) || errors.Is(err, dr.ErrInvalid) || errors.Is(err, dr.ErrNotFound), "%s: a refusal that can be told from a failure: %v", what, err)
				require.Empty(e, r.ID)
				continue
			}
			m, err := e.b.Machine(e.Context(), r.ID)
			_ = e.b.Remove(cleanup, r.ID)
			e.ok(err)
			require.True(e, slices.ContainsFunc(m.NICs, c.shows), "%s was asked for and not refused, and the machine has %+v", what, m.NICs)
		}
	}},
	{"cards that make no sense are ErrInvalid", func(e *env) {
		p, _ := e.standIn("p")
		for what, cards := range map[string]map[string]backend.Card{
			"of no card of the machine": {"no-such-card": {DHCP: true}},
			"DHCP and an address":       {"nic0": {DHCP: true, Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.77/24")}}},
		} {
			r, err := e.place(backend.Placement{Key: e.key(), Machine: p.Machine, Cards: cards})
			if err == nil {
				_ = e.b.Remove(cleanup, r.ID)
			}
			require.ErrorIs(e, err, dr.ErrInvalid, what)
		}
	}},
	{"context is honoured", func(e *env) {
		p, _ := e.standIn("p")
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		_, err := e.b.Prepare(ctx, backend.Placement{Key: e.key(), Machine: p.Machine})
		require.ErrorIs(e, err, context.Canceled)
	}},
}

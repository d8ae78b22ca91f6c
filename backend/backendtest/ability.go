package backendtest

import (
	"bytes"
	"context"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var abilityPromises = []promise{
	{"Lister yields every machine once", func(e *env) {
		l := need[backend.Lister](e, e.b, "backend.Lister")
		m := e.machine()
		seen := map[dr.MachineID]int{}
		for got, err := range l.Machines(e.Context()) {
			e.ok(err)
			seen[got.ID]++
		}
		require.Equal(e, 1, seen[m.ID])
		for id, n := range seen {
			require.Equal(e, 1, n, "machine %s", id)
		}
		for range l.Machines(e.Context()) {
			break // the sequence must bear that
		}
	}},
	{"Shutdowner returns when the machine is off", func(e *env) {
		s := need[backend.Shutdowner](e, e.b, "backend.Shutdowner")
		m, c := e.running()
		for range 2 {
			e.ok(s.Shutdown(e.Context(), m.ID))
			e.power(m.ID, dr.Off)
		}
		e.sameDisks(m.ID, c, "shut down")
	}},
	{"Shutdowner never powers off hard", func(e *env) {
		s := need[backend.Shutdowner](e, e.b, "backend.Shutdowner")
		if e.h.Hang == nil {
			e.lacks("Harness.Hang")
		}
		m, _ := e.running()
		e.ok(e.h.Hang(m.ID, true))
		ctx, cancel := context.WithCancel(e.Context())
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(ctx, m.ID) }()
		cancel()
		require.Error(e, <-done)
		e.power(m.ID, dr.On)
		e.ok(e.h.Hang(m.ID, false))
		e.ok(s.Shutdown(e.Context(), m.ID))
		e.power(m.ID, dr.Off)
	}},
	{"Quiescer holds every write until the thaw", func(e *env) {
		q := need[backend.Quiescer](e, e.b, "backend.Quiescer")
		m, c := e.running()
		got, thaw, err := q.Quiesce(e.Context(), m.ID, dr.FileSystemConsistent)
		e.ok(err)
		require.GreaterOrEqual(e, got, dr.CrashConsistent)
		require.LessOrEqual(e, got, dr.FileSystemConsistent)
		wrote := make(chan error, 1)
		data := e.bytes(4096)
		go func() { wrote <- e.h.Write(m.ID, diskA, data, 0) }()
		p1, err := e.b.Capture(e.Context(), m.ID, "p1", dr.FileSystemConsistent)
		e.ok(err)
		p2, err := e.b.Capture(e.Context(), m.ID, "p2", dr.FileSystemConsistent)
		e.ok(err)
		select {
		case err := <-wrote:
			require.Fail(e, "a write completed while the machine was quiesced", "%v", err)
		default:
		}
		e.ok(thaw(e.Context()))
		e.ok(<-wrote)
		e.sameImage(p1, c, "quiesced")
		e.sameImage(p2, c, "still quiesced")
		copy(c[diskA], data)
		e.sameImage(e.capture(m.ID, "p3"), c, "thawed")
	}},
	{"Quiescer thaws when the context ends", func(e *env) {
		q := need[backend.Quiescer](e, e.b, "backend.Quiescer")
		m, c := e.running()
		ctx, cancel := context.WithCancel(e.Context())
		_, thaw, err := q.Quiesce(ctx, m.ID, dr.CrashConsistent)
		e.ok(err)
		cancel()
		e.scribble(m.ID, c, 1) // hangs if nothing thaws
		require.Error(e, thaw(e.Context()), "what was captured since is not of one moment")
		_, thaw, err = q.Quiesce(e.Context(), m.ID, dr.CrashConsistent)
		e.ok(err)
		e.ok(thaw(e.Context()))
	}},
	{"Sweeper releases what isn't kept", func(e *env) {
		s := need[backend.Sweeper](e, e.b, "backend.Sweeper")
		if e.h.Volatile {
			e.lacks("captures that outlive their image")
		}
		m, c := e.running()
		then := c.clone()
		for _, name := range []dr.PointID{"keep", "drop-1", "drop-2"} {
			e.ok(e.capture(m.ID, name).Close())
		}
		e.scribble(m.ID, c, 4)
		keep := func(p dr.PointID) bool { return p == "keep" }
		swept, err := s.Sweep(e.Context(), m.ID, keep)
		e.ok(err)
		require.ElementsMatch(e, []dr.PointID{"drop-1", "drop-2"}, swept)
		swept, err = s.Sweep(e.Context(), m.ID, keep)
		e.ok(err)
		require.Empty(e, swept)
		e.sameImage(e.capture(m.ID, "keep"), then, "kept")
		e.sameImage(e.capture(m.ID, "drop-1"), c, "a new moment under a name that was swept")
	}},
	{"Forgetter still tells changes since what it was told", func(e *env) {
		f := need[backend.Forgetter](e, e.b, "backend.Forgetter")
		m, c := e.running()
		var points []dr.Point
		for _, name := range []dr.PointID{"p1", "p2"} {
			img := e.capture(m.ID, name)
			points = append(points, img.Point())
			e.ok(img.Close())
			e.ok(e.b.Release(e.Context(), m.ID, name))
		}
		for range 2 {
			e.ok(f.Forget(e.Context(), m.ID, "p2"))
		}
		e.ok(f.Forget(e.Context(), m.ID, "nobody-knows-it"))
		e.ok(f.Forget(e.Context(), "gone", "p2"))
		then := c.clone()
		spans := e.scribble(m.ID, c, 4)
		e.changes(e.capture(m.ID, "p3"), points[1], then, c, spans)
	}},
	{"Prober sees a machine that runs, and no other", func(e *env) {
		p := need[backend.Prober](e, e.b, "backend.Prober")
		m, _ := e.running()
		got, err := p.Probe(e.Context(), m.ID)
		e.ok(err)
		require.NotEmpty(e, got.Kind)
		require.NotEmpty(e, got.What)
		require.NotContains(e, got.What, "\n")
		if got.Kind == "screenshot" {
			require.True(e, bytes.HasPrefix(got.Data, []byte("\x89PNG")))
		}
		e.ok(e.b.Stop(e.Context(), m.ID))
		ctx, cancel := context.WithCancel(e.Context())
		done := make(chan error, 1)
		go func() { _, err := p.Probe(ctx, m.ID); done <- err }()
		cancel()
		require.Error(e, <-done)
	}},
	{"Preflighter finds no blocker where capture works", func(e *env) {
		f := need[backend.Preflighter](e, e.b, "backend.Preflighter")
		m, _ := e.running()
		e.capture(m.ID, "p")
		problems, err := f.Preflight(e.Context(), m.ID)
		e.ok(err)
		for _, p := range problems {
			require.False(e, p.Blocker, "%+v", p)
			require.NotEmpty(e, p.Code)
			require.NotEmpty(e, p.Text)
		}
	}},
	{"Adopter takes an image whole or not at all", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		key := e.key()
		r := e.prepare(key, m)
		d := e.draft(r.ID, img.Point())
		a := need[dr.Adopter](e, d, "dr.Adopter")
		took, err := a.Adopt(e.Context(), img)
		e.ok(err)
		if !took {
			c = zeros(m)
		}
		e.ok(d.Commit(e.Context(), img.Point()))
		e.sameDisks(r.ID, c, "adopted")
	}},
}

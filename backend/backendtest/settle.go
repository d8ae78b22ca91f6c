package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// settlePromises are those of images that are a dr.Settler, of machines that
// run and write meanwhile.
var settlePromises = []promise{
	{"converges to one moment while the guest writes", func(e *env) {
		s := e.settling()
		for i := range 3 {
			s.cycle(dr.PointID(fmt.Sprintf("p%d", i)), dr.Point{}, zeros(s.m))
		}
	}},
	{"copies of changes are of one moment each", func(e *env) {
		s := e.settling()
		to := zeros(s.m)
		var since dr.Point
		for i := range 5 {
			since = s.cycle(dr.PointID(fmt.Sprintf("p%d", i)), since, to)
			s.write(4)
		}
	}},
	{"changes of a pass are what was written since the one before", func(e *env) {
		s := e.settling()
		s.end()
		old := s.cycle("old", dr.Point{}, zeros(s.m))
		img := s.capture("p")
		for range 3 {
			then := s.now.clone()
			// The last is that of writable.
			spans := append(e.scribble(s.m.ID, s.now, 5), span{diskB, 0, 512})
			more, err := s.settler(img).Settle(e.Context())
			e.ok(err)
			if !more {
				break // it was quiet before
			}
			// Which point they are asked for doesn't matter any more.
			for _, since := range []dr.Point{old, img.Point(), {}} {
				if !e.tells(img, since) {
					e.lacks("changes between passes")
				}
				e.changes(img, since, then, s.now, spans)
			}
			if !s.writable(5 * quiet) {
				break // frozen: this was the last pass
			}
		}
	}},
	{"point is final after the last pass", func(e *env) {
		s := e.settling()
		img := s.capture("p")
		first := img.Point()
		require.EqualValues(e, "p", first.ID)
		s.copy(img, dr.Point{}, zeros(s.m))
		last := img.Point()
		require.Equal(e, first.ID, last.ID)
		require.Equal(e, first.Machine, last.Machine)
		require.False(e, last.Time.Before(first.Time), "the moment is that of the last pass")
		require.GreaterOrEqual(e, last.Consistency, dr.CrashConsistent)
		s.write(5)
		require.Equal(e, last, img.Point(), "while the guest writes on")
		e.ok(img.Close())
		require.Equal(e, last, img.Point(), "closed")
	}},
	{"bytes of a later moment are never read", func(e *env) {
		s := e.settling()
		img, to := s.capture("p"), zeros(s.m)
		s.copy(img, dr.Point{}, to)
		s.write(20)
		for disk, want := range to.all() {
			got := make([]byte, len(want))
			// Refused, or as it was: what is read here could be taken for
			// the point's.
			if _, err := img.ReadAt(e.Context(), disk, got, 0); err == nil || errors.Is(err, io.EOF) {
				e.sameBytes(want, got, "disk "+string(disk)+" after the last pass")
			}
		}
	}},
	{"close lets the guest write, after any pass", func(e *env) {
		s := e.settling()
		s.end()
		s.abandoned(func(img dr.Image, pass int) {
			e.ok(img.Close())
			require.True(e, s.writable(s.patience()), "closed after %d passes, and a write waits", pass)
			e.ok(img.Close(), "twice")
		})
	}},
	{"release lets the guest write, after any pass", func(e *env) {
		s := e.settling()
		s.end()
		s.abandoned(func(img dr.Image, pass int) {
			e.ok(s.b.Release(e.Context(), s.m.ID, img.Point().ID))
			require.True(e, s.writable(s.patience()), "released after %d passes, and a write waits", pass)
			e.ok(img.Close())
		})
	}},
	{"abandoned captures lose no change", func(e *env) {
		s := e.settling()
		to := zeros(s.m)
		since := s.cycle("old", dr.Point{}, to)
		s.end()
		s.abandoned(func(img dr.Image, pass int) {
			e.ok(img.Close())
			e.scribble(s.m.ID, s.now, 3)
			if pass%2 == 0 {
				e.ok(s.b.Release(e.Context(), s.m.ID, img.Point().ID))
			}
			e.scribble(s.m.ID, s.now, 3)
			// The same name, for which the source knows half a capture.
			since = s.cycle(img.Point().ID, since, to)
		})
	}},
	{"context is honoured", func(e *env) {
		s := e.settling()
		s.end()
		img := s.capture("p")
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		_, err := s.settler(img).Settle(ctx)
		require.ErrorIs(e, err, context.Canceled)
		e.ok(img.Close())
		require.True(e, s.writable(s.patience()), "a write waits")
		s.cycle("q", dr.Point{}, zeros(s.m))
	}},
}

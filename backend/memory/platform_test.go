package memory_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func platform(t *testing.T, o memory.Options) *memory.Backend {
	t.Helper()
	b := memory.New(o)
	require.NoError(t, b.Add(machine("web", 1<<20)))
	return b
}

func changes(t *testing.T, img dr.Image, since dr.Point) ([]dr.Extent, error) {
	t.Helper()
	tracker, ok := dr.As[dr.ChangeTracker](img)
	require.True(t, ok)
	var xs []dr.Extent
	for x, err := range tracker.Changes(t.Context(), "d0", since) {
		if err != nil {
			return xs, err
		}
		xs = append(xs, x)
	}
	return xs, nil
}

// A cursor is opaque outside its backend: another platform's must not be
// mistaken for one's own, although both count epochs from one.
func TestForeignCursorsAreNotBelieved(t *testing.T) {
	here, there := platform(t, memory.Options{}), platform(t, memory.Options{})
	p, err := here.Capture(t.Context(), "web", "p", dr.CrashConsistent)
	require.NoError(t, err)
	_, err = there.Capture(t.Context(), "web", "other", dr.CrashConsistent)
	require.NoError(t, err)
	q, err := there.Capture(t.Context(), "web", "q", dr.CrashConsistent)
	require.NoError(t, err)
	_, err = changes(t, q, p.Point())
	require.ErrorIs(t, err, dr.ErrChangesLost)
}

func TestChangesSinceANewerPointAreLost(t *testing.T) {
	b := platform(t, memory.Options{})
	p, err := b.Capture(t.Context(), "web", "p", dr.CrashConsistent)
	require.NoError(t, err)
	q, err := b.Capture(t.Context(), "web", "q", dr.CrashConsistent)
	require.NoError(t, err)
	_, err = changes(t, p, q.Point())
	require.ErrorIs(t, err, dr.ErrChangesLost)
}

// A name that was released and used again stands for two moments. Whoever has
// the first one's cursor, or no cursor at all, is told of everything since
// the first.
func TestNameUsedTwiceIsAnsweredFromTheFirst(t *testing.T) {
	b := platform(t, memory.Options{})
	first, err := b.Capture(t.Context(), "web", "p", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, b.Write("web", "d0", []byte("x"), 0))
	require.NoError(t, b.Release(t.Context(), "web", "p"))
	second, err := b.Capture(t.Context(), "web", "p", dr.CrashConsistent)
	require.NoError(t, err)
	q, err := b.Capture(t.Context(), "web", "q", dr.CrashConsistent)
	require.NoError(t, err)
	for _, since := range []dr.Point{first.Point(), {ID: "p"}} {
		xs, err := changes(t, q, since)
		require.NoError(t, err)
		require.Equal(t, []dr.Extent{{Off: 0, Len: 64 << 10}}, xs)
	}
	xs, err := changes(t, q, second.Point())
	require.NoError(t, err)
	require.Empty(t, xs)
}

// An orchestrator that was given up for dead must not write among the bytes
// of its successor.
func TestNewDraftFencesTheOldOne(t *testing.T) {
	b := platform(t, memory.Options{})
	require.NoError(t, b.Stop(t.Context(), "web"))
	p := dr.Point{ID: "p", Time: time.Unix(1, 0)}
	old, err := b.Draft(t.Context(), "web", p)
	require.NoError(t, err)
	_, err = b.Draft(t.Context(), "web", p)
	require.NoError(t, err)
	_, err = old.WriteAt(t.Context(), "d0", []byte("late"), 0)
	require.ErrorIs(t, err, dr.ErrFenced)
	require.ErrorIs(t, old.Commit(t.Context(), p), dr.ErrFenced)
}

// The same name at another moment is other content: nothing of it is kept.
func TestAnotherMomentIsNotResumed(t *testing.T) {
	b := platform(t, memory.Options{})
	require.NoError(t, b.Stop(t.Context(), "web"))
	for i, p := range []dr.Point{
		{ID: "p", Time: time.Unix(1, 0)},
		{ID: "p", Time: time.Unix(2, 0)},
		{ID: "p", Time: time.Unix(2, 0), Cursors: map[dr.DiskID]dr.Cursor{"d0": "7"}},
	} {
		d, err := b.Draft(t.Context(), "web", p)
		require.NoError(t, err)
		r, ok := dr.As[dr.Resumer](d)
		require.True(t, ok)
		for x := range r.Durable(t.Context(), "d0") {
			require.Fail(t, "resumed", "moment %d: %v", i, x)
		}
		_, err = d.WriteAt(t.Context(), "d0", []byte("x"), 0)
		require.NoError(t, err)
	}
}

func TestGuestWritesOnlyWhileOn(t *testing.T) {
	b := platform(t, memory.Options{})
	require.NoError(t, b.Power("web", dr.Off))
	require.ErrorIs(t, b.Write("web", "d0", []byte("x"), 0), dr.ErrNotAllowed)
	require.NoError(t, b.Power("web", dr.On))
	require.NoError(t, b.Write("web", "d0", []byte("x"), 0))
	require.ErrorIs(t, b.Write("web", "d0", []byte("xx"), 1<<20-1), dr.ErrOutOfRange)
	require.ErrorIs(t, b.Write("web", "none", []byte("x"), 0), dr.ErrNotFound)
	require.ErrorIs(t, b.Power("web", "standby"), dr.ErrInvalid)
}

func TestPlacementIsRecorded(t *testing.T) {
	b := memory.New(memory.Options{})
	m := machine("web", 1<<20)
	m.NICs = []dr.NIC{{ID: "n0", Network: "production"}, {ID: "n1", Network: "backup"}}
	for _, tc := range []struct {
		isolated bool
		want     []string
	}{{false, []string{"dr", "backup"}}, {true, []string{"dr", ""}}} {
		r, err := b.Prepare(t.Context(), backend.Placement{Key: "k", Machine: m, Name: "web-drill",
			Isolated: tc.isolated, Networks: map[string]string{"production": "dr"}})
		require.NoError(t, err)
		got, err := b.Machine(t.Context(), r.ID)
		require.NoError(t, err)
		require.Equal(t, tc.want, []string{got.NICs[0].Network, got.NICs[1].Network})
		require.Equal(t, "web-drill", got.Name)
		p, err := b.Placement(r.ID)
		require.NoError(t, err)
		require.Equal(t, tc.isolated, p.Isolated)
	}
	_, err := b.Prepare(t.Context(), backend.Placement{Machine: m})
	require.ErrorIs(t, err, dr.ErrInvalid, "neither key nor original")
	_, err = b.Prepare(t.Context(), backend.Placement{Key: "k2", Machine: m, Options: json.RawMessage(`{"host":"x"}`)})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// How a machine was switched off decides what a capture of its disks is.
func TestConsistency(t *testing.T) {
	b := platform(t, memory.Options{Consistency: dr.FileSystemConsistent})
	n := 0
	got := func() dr.Consistency {
		n++
		img, err := b.Capture(t.Context(), "web", dr.PointID(rune('a'+n)), dr.ApplicationConsistent)
		require.NoError(t, err)
		return img.Point().Consistency
	}
	require.Equal(t, dr.FileSystemConsistent, got())
	require.NoError(t, b.Hang("web", true))
	require.Equal(t, dr.CrashConsistent, got())
	require.NoError(t, b.Hang("web", false))
	require.NoError(t, b.Stop(t.Context(), "web"))
	require.Equal(t, dr.CrashConsistent, got())
	require.NoError(t, b.Start(t.Context(), "web"))
	s, ok := dr.As[backend.Shutdowner](b)
	require.True(t, ok)
	require.NoError(t, s.Shutdown(t.Context(), "web"))
	require.Equal(t, dr.ApplicationConsistent, got())
}

func TestQuiesceEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := platform(t, memory.Options{QuiesceLimit: time.Second})
		q, ok := dr.As[backend.Quiescer](b)
		require.True(t, ok)
		_, thaw, err := q.Quiesce(t.Context(), "web", dr.CrashConsistent)
		require.NoError(t, err)
		_, _, err = q.Quiesce(t.Context(), "web", dr.CrashConsistent)
		require.ErrorIs(t, err, dr.ErrBusy)
		began := time.Now()
		require.NoError(t, b.Write("web", "d0", []byte("x"), 0))
		require.Equal(t, time.Second, time.Since(began), "the write waited for the deadline")
		require.ErrorIs(t, thaw(t.Context()), dr.ErrNotConsistent)

		_, thaw, err = q.Quiesce(t.Context(), "web", dr.CrashConsistent)
		require.NoError(t, err)
		require.NoError(t, thaw(t.Context()))
		require.NoError(t, thaw(t.Context()), "a second thaw of a whole quiesce")

		_, thaw, err = q.Quiesce(t.Context(), "web", dr.CrashConsistent)
		require.NoError(t, err)
		b.Crash()
		require.NoError(t, b.Write("web", "d0", []byte("y"), 0))
		require.Error(t, thaw(t.Context()))
	})
}

func TestShutdownWaitsForTheGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := platform(t, memory.Options{})
		s, ok := dr.As[backend.Shutdowner](b)
		require.True(t, ok)
		require.NoError(t, b.Hang("web", true))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, s.Shutdown(ctx, "web"), context.DeadlineExceeded)

		done := make(chan error, 1)
		go func() { done <- s.Shutdown(t.Context(), "web") }()
		synctest.Wait()
		require.NoError(t, b.Hang("web", false))
		require.NoError(t, <-done)
	})
}

func TestFailNext(t *testing.T) {
	b := platform(t, memory.Options{})
	broken := errors.New("broken")
	b.FailNext(memory.OpStop, nil)
	b.FailNext(memory.OpStop, broken)
	require.NoError(t, b.Stop(t.Context(), "web"))
	require.NoError(t, b.Start(t.Context(), "web"))
	require.ErrorIs(t, b.Stop(t.Context(), "web"), broken)
	m, err := b.Machine(t.Context(), "web")
	require.NoError(t, err)
	require.Equal(t, dr.On, m.Power)
	require.NoError(t, b.Stop(t.Context(), "web"))
}

func TestAddRefusesWhatCannotBe(t *testing.T) {
	for what, m := range map[string]dr.Machine{
		"no ID":           {Disks: []dr.Disk{{ID: "d", Size: 512}}},
		"odd size":        {ID: "m", Disks: []dr.Disk{{ID: "d", Size: 513}}},
		"no size":         {ID: "m", Disks: []dr.Disk{{ID: "d"}}},
		"one disk twice":  {ID: "m", Disks: []dr.Disk{{ID: "d", Size: 512}, {ID: "d", Size: 512}}},
		"disk without ID": {ID: "m", Disks: []dr.Disk{{Size: 512}}},
	} {
		require.ErrorIs(t, memory.New(memory.Options{}).Add(m), dr.ErrInvalid, what)
	}
	b := platform(t, memory.Options{})
	require.ErrorIs(t, b.Add(machine("web", 512)), dr.ErrExists)
}

func TestPreflightTells(t *testing.T) {
	b := platform(t, memory.Options{})
	f, ok := dr.As[backend.Preflighter](b)
	require.True(t, ok)
	want := backend.Problem{Code: "disk-independent", Disk: "d0", Text: "t", Blocker: true}
	require.NoError(t, b.SetProblems("web", want))
	got, err := f.Preflight(t.Context(), "web")
	require.NoError(t, err)
	require.Equal(t, []backend.Problem{want}, got)
	require.NoError(t, b.Stop(t.Context(), "web"))
	_, err = b.Draft(t.Context(), "web", dr.Point{ID: "p"})
	require.NoError(t, err)
	got, err = f.Preflight(t.Context(), "web")
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, "disks-torn", got[1].Code)
}

func TestDestroyTakesTheMachine(t *testing.T) {
	b := platform(t, memory.Options{})
	require.NoError(t, b.Destroy("web"))
	require.ErrorIs(t, b.Write("web", "d0", []byte("x"), 0), dr.ErrNotFound)
	require.ErrorIs(t, b.Destroy("web"), dr.ErrNotFound)
}

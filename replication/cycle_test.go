package replication_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// world is one machine at home, and a store and a platform elsewhere.
type world struct {
	t     testing.TB
	home  *memory.Backend
	away  *memory.Backend
	store *memstore.Store
	cycle *replication.Cycle
}

const sizeA, sizeB = 40*blk + 512, 3 * blk

func newWorld(t testing.TB, home, away memory.Options, store memstore.Options) *world {
	home.Site, away.Site = "home", "away"
	w := &world{t: t, home: memory.New(home), away: memory.New(away), store: memstore.New(store)}
	require.NoError(t, w.home.Add(dr.Machine{ID: "vm", Power: dr.On, Disks: []dr.Disk{{ID: "a", Size: sizeA}, {ID: "b", Size: sizeB}}}))
	w.cycle = &replication.Cycle{Source: w.home, Points: w.store, SourceSite: "home", StoreSite: "away"}
	return w
}

func (w *world) write(b *memory.Backend, id dr.MachineID, disk dr.DiskID, off int64, n int, with byte) {
	w.t.Helper()
	p := make([]byte, n)
	for i := range p {
		p[i] = with
	}
	require.NoError(w.t, b.Write(id, disk, p, off))
}

// content reads a machine's disks.
func (w *world) content(b *memory.Backend, id dr.MachineID) disks {
	w.t.Helper()
	d := disks{}
	for _, disk := range []dr.DiskID{"a", "b"} {
		r, err := b.Disk(id, disk)
		require.NoError(w.t, err)
		d[disk], err = io.ReadAll(r)
		require.NoError(w.t, err)
	}
	return d
}

// stored reads a point.
func (w *world) stored(m dr.MachineID, id dr.PointID) disks {
	w.t.Helper()
	img, err := w.store.Open(w.t.Context(), m, id)
	require.NoError(w.t, err)
	d := disks{}
	for _, disk := range img.Point().Machine.Disks {
		d[disk.ID] = make([]byte, disk.Size)
		_, err := img.ReadAt(w.t.Context(), disk.ID, d[disk.ID], 0)
		require.NoError(w.t, err)
	}
	return d
}

func (w *world) captures(b *memory.Backend, id dr.MachineID) []dr.PointID {
	w.t.Helper()
	names, err := b.Captures(id)
	require.NoError(w.t, err)
	return names
}

func TestCycle(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.write(w.home, "vm", "a", 3*blk+100, 2*blk, 1)
	p1, err := w.cycle.Replicate(t.Context(), "vm", dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, dr.ApplicationConsistent, p1.Consistency)
	requireEqual(t, w.content(w.home, "vm"), w.stored("vm", p1.ID))

	w.write(w.home, "vm", "b", blk, 10, 2)
	r, err := w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.Less(t, p1.ID, r.Point.ID)
	require.Equal(t, p1.ID, r.Point.Parent)
	require.Equal(t, int64(blk), r.Written)
	require.Empty(t, r.Full)
	requireEqual(t, w.content(w.home, "vm"), w.stored("vm", r.Point.ID))
	require.Empty(t, w.captures(w.home, "vm"))

	require.NoError(t, w.home.LoseChanges("vm"))
	require.NoError(t, w.home.Grow("vm", "b", sizeB+blk))
	w.write(w.home, "vm", "b", sizeB+1, 10, 3)
	r, err = w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.Equal(t, []dr.DiskID{"a", "b"}, r.Full)
	require.Equal(t, int64(blk), r.Written, "equal blocks must not travel")
	requireEqual(t, w.content(w.home, "vm"), w.stored("vm", r.Point.ID))
}

// TestCycleResync: a caller that trusts no tracker has whole disks compared;
// and a history that can't be the parent's is refused.
func TestCycleResync(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.write(w.home, "vm", "a", 0, 5*blk, 1)
	p, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.NoError(t, err)
	w.write(w.home, "vm", "a", blk, 5, 2)
	r, err := w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{Have: &replication.History{}})
	require.NoError(t, err)
	require.Equal(t, []dr.DiskID{"a", "b"}, r.Full)
	require.Equal(t, int64(blk), r.Written)
	requireEqual(t, w.content(w.home, "vm"), w.stored("vm", r.Point.ID))
	for _, have := range []replication.History{{Blank: true}, {Common: p}} {
		_, err = w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{Have: &have})
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.Empty(t, w.captures(w.home, "vm"))
	}
	_, err = w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{Parent: "gone"})
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.Empty(t, w.captures(w.home, "vm"))
	// The other way round: over an older point, with what is known of it.
	r, err = w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{Parent: p.ID, Have: &replication.History{Common: p}})
	require.NoError(t, err)
	require.Equal(t, p.ID, r.Point.Parent)
	requireEqual(t, w.content(w.home, "vm"), w.stored("vm", r.Point.ID))
}

// TestCycleNames: the clock may stand still or go back; names go on.
func TestCycleNames(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.cycle.Now = func() time.Time { at = at.Add(-time.Hour); return at }
	var last dr.PointID
	for range 3 {
		p, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
		require.NoError(t, err)
		require.Less(t, last, p.ID)
		last = p.ID
	}
}

// TestSameNameOnce: a step that is repeated makes one point, and leaves no
// capture, wherever it was cut.
func TestSameNameOnce(t *testing.T) {
	for _, deferred := range []bool{false, true} {
		w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{Deferred: deferred})
		first, err := w.cycle.ReplicateAs(t.Context(), "vm", "k", dr.CrashConsistent, replication.CycleOptions{})
		require.NoError(t, err)
		w.write(w.home, "vm", "a", 0, 10, 1)
		// As if the process had died before it let go.
		_, err = w.home.Capture(t.Context(), "vm", "k", dr.CrashConsistent)
		require.NoError(t, err)
		again, err := w.cycle.ReplicateAs(t.Context(), "vm", "k", dr.CrashConsistent, replication.CycleOptions{})
		require.NoError(t, err)
		require.True(t, again.Existed)
		require.Equal(t, first.Point.Time, again.Point.Time)
		require.Empty(t, w.captures(w.home, "vm"))
	}
}

// slow is a store that fails to process at the calls to come that are true.
type slow struct {
	*memstore.Store
	fails []bool
}

func (s *slow) Process(ctx context.Context, m dr.MachineID) error {
	if len(s.fails) > 0 {
		fail := s.fails[0]
		if s.fails = s.fails[1:]; fail {
			return errFault
		}
	}
	return s.Store.Process(ctx, m)
}

// What is received is processed when the cycle ends, or when the next begins:
// that tells changes since it, and not since the last point that could be listed.
func TestACycleProcessesWhatIsReceived(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{Deferred: true})
	store := &slow{Store: w.store}
	w.cycle.Points = store
	first, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.NoError(t, err)
	w.stored("vm", first.ID)

	w.write(w.home, "vm", "a", 0, 3*blk, 1)
	store.fails = []bool{false, true} // at the end
	second, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.NoError(t, err, "the data is safe")
	_, err = store.Open(t.Context(), "vm", second.ID)
	require.ErrorIs(t, err, dr.ErrNotFound, "received, and no point yet")
	require.Empty(t, w.captures(w.home, "vm"))

	w.write(w.home, "vm", "a", 5*blk, 10, 2)
	store.fails = []bool{true} // at the beginning
	_, err = w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.ErrorIs(t, err, errFault, "without its parent it would send everything since the first again")
	third, err := w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.Equal(t, second.ID, third.Point.Parent)
	require.LessOrEqual(t, third.Written, int64(blk))
	require.Equal(t, w.content(w.home, "vm"), w.stored("vm", third.Point.ID))
}

func TestReleaseThatFails(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.home.FailNext(memory.OpRelease, errFault)
	p, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.ErrorIs(t, err, errFault)
	require.NotEmpty(t, p.ID, "the point is there")
	require.Len(t, w.captures(w.home, "vm"), 1)
	r, err := w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.Equal(t, []dr.PointID{p.ID}, r.Swept)
	require.Empty(t, w.captures(w.home, "vm"))
}

// TestCycleFaults fails every operation of the source in turn, with and
// without an orchestrator's crash in between. The next cycle must make a whole
// point, go on where that can be, and leave nothing behind.
func TestCycleFaults(t *testing.T) {
	ops := []memory.Op{memory.OpCapture, memory.OpReadAt, memory.OpChanges, memory.OpExtents, memory.OpSweep, memory.OpRelease}
	for _, op := range ops {
		for _, crash := range []bool{false, true} {
			for _, named := range []dr.PointID{"", "key"} {
				failed := true
				for n := 0; failed && !t.Failed(); n++ {
					t.Run(fmt.Sprintf("%s/crash=%t/name=%s/%d", op, crash, named, n), func(t *testing.T) {
						w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
						w.cycle.Copy = replication.CopyOptions{Chunk: 4 * blk, Readers: 1}
						if op == memory.OpChanges {
							_, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
							require.NoError(t, err)
						}
						w.write(w.home, "vm", "a", 5, 17*blk, 1)
						w.write(w.home, "vm", "b", 5, blk, 2)
						for range n {
							w.home.FailNext(op, nil)
						}
						w.home.FailNext(op, errFault)
						before := w.content(w.home, "vm")
						_, err := w.cycle.ReplicateAs(t.Context(), "vm", named, dr.CrashConsistent, replication.CycleOptions{})
						if failed = err != nil; !failed && op != memory.OpSweep {
							return
						}
						if crash {
							w.home.Crash()
							w.store.Crash()
						}
						w.write(w.home, "vm", "a", 30*blk, 10, 3)
						after := w.content(w.home, "vm")
						r, err := w.cycle.ReplicateAs(t.Context(), "vm", named, dr.CrashConsistent, replication.CycleOptions{})
						require.NoError(t, err)
						got := w.stored("vm", r.Point.ID)
						if string(got["a"]) == string(before["a"]) {
							requireEqual(t, before, got)
						} else {
							requireEqual(t, after, got)
						}
						if op == memory.OpReadAt && n > 1 {
							require.Positive(t, r.Resumed, "what was durable is copied again")
						}
						require.Empty(t, w.captures(w.home, "vm"))
						for p, err := range w.store.Pending(t.Context(), "vm") {
							require.NoError(t, err)
							require.Fail(t, "left pending", p.ID)
						}
					})
				}
			}
		}
	}
}

// TestMomentGone: a pending draft whose capture the source lost is thrown
// away, and the point has a new name.
func TestMomentGone(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.write(w.home, "vm", "a", 0, 10*blk, 1)
	w.home.FailNext(memory.OpReadAt, errFault)
	_, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.ErrorIs(t, err, errFault)
	left := w.captures(w.home, "vm")
	require.Len(t, left, 1)
	require.NoError(t, w.home.Release(t.Context(), "vm", left[0]))
	p, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.NoError(t, err)
	require.Less(t, left[0], p.ID)
	require.Empty(t, w.captures(w.home, "vm"))
	for p := range w.store.Pending(t.Context(), "vm") {
		require.Fail(t, "left pending", p.ID)
	}
}

func TestAbandon(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.write(w.home, "vm", "a", 0, 10*blk, 1)
	w.home.FailNext(memory.OpReadAt, errFault)
	_, err := w.cycle.ReplicateAs(t.Context(), "vm", "k", dr.CrashConsistent, replication.CycleOptions{})
	require.ErrorIs(t, err, errFault)
	require.Equal(t, []dr.PointID{"k"}, w.captures(w.home, "vm"), "kept for the next attempt")
	var e *dr.Error
	require.True(t, errors.As(err, &e))
	require.Equal(t, "home", e.Site)
	require.Equal(t, dr.DiskID("a"), e.Disk)
	require.NoError(t, w.cycle.Abandon(t.Context(), "vm", "", "k"))
	require.Empty(t, w.captures(w.home, "vm"))
	for p := range w.store.Pending(t.Context(), "vm") {
		require.Fail(t, "left pending", p.ID)
	}
}

func TestSecondCycleIsBusy(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.write(w.home, "vm", "a", 0, 10*blk, 1)
	var second error
	_, err := w.cycle.ReplicateAs(t.Context(), "vm", "", dr.CrashConsistent, replication.CycleOptions{Progress: func(dr.Progress) {
		if second == nil {
			_, second = w.cycle.Replicate(context.Background(), "vm", dr.CrashConsistent)
		}
	}})
	require.NoError(t, err)
	require.ErrorIs(t, second, dr.ErrBusy)
	other := replication.Cycle{Source: w.home, Points: w.store}
	draft, err := w.store.Create(t.Context(), dr.Point{ID: "theirs", Machine: dr.Machine{ID: "vm"}})
	require.NoError(t, err)
	_, err = other.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.Empty(t, w.captures(w.home, "vm"))
	require.NoError(t, draft.Close())
}

func (w *world) prepare(key string) backend.Replica {
	w.t.Helper()
	m, err := w.home.Machine(w.t.Context(), "vm")
	require.NoError(w.t, err)
	r, err := w.away.Prepare(w.t.Context(), backend.Placement{Key: key, Machine: m})
	require.NoError(w.t, err)
	return r
}

func (w *world) hydrate(p dr.Point, common dr.Point) replication.Report {
	w.t.Helper()
	site := replication.Site{Backend: w.away, Points: w.store}
	r := w.prepare("replica")
	rep, err := replication.Hydrate(w.t.Context(), site, r, "vm", p.ID, common, replication.CopyOptions{})
	require.NoError(w.t, err)
	requireEqual(w.t, w.stored("vm", p.ID), w.content(w.away, r.ID))
	require.Equal(w.t, p.ID, w.prepare("replica").Holds)
	require.Empty(w.t, w.captures(w.away, r.ID))
	return rep
}

// TestHydrate goes through all that a replica may hold.
func TestHydrate(t *testing.T) {
	for _, o := range []memory.Options{{}, {NoTracker: true}, {NoTracker: true, NoSums: true}, {NoZero: true, NoResume: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			w := newWorld(t, memory.Options{}, o, memstore.Options{})
			replicate := func() dr.Point {
				p, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
				require.NoError(t, err)
				return p
			}
			w.write(w.home, "vm", "a", 0, 10*blk, 1)
			p1 := replicate()
			rep := w.hydrate(p1, dr.Point{})
			require.Equal(t, int64(10*blk), rep.Written, "new")
			require.Empty(t, rep.Full)
			require.True(t, w.hydrate(p1, dr.Point{}).Existed)

			w.write(w.home, "vm", "a", 3*blk, 10, 2)
			w.write(w.home, "vm", "a", 0, blk, 0)
			p2 := replicate()
			rep = w.hydrate(p2, p1)
			require.LessOrEqual(t, rep.Written, int64(2*blk), "holds an older point")
			require.Empty(t, rep.Full)
			require.NotZero(t, w.hydrate(p1, p2).Changed, "holds a newer point")

			r := w.prepare("replica")
			require.NoError(t, w.away.Start(t.Context(), r.ID))
			w.write(w.away, r.ID, "a", 30*blk, 10, 4)
			require.NoError(t, w.away.Stop(t.Context(), r.ID))
			rep = w.hydrate(p2, p1)
			if o.NoTracker {
				require.NotEmpty(t, rep.Full)
			} else {
				require.Empty(t, rep.Full)
				require.LessOrEqual(t, rep.Written, int64(3*blk), "has run since a common point")
			}
			if !o.NoSums {
				require.LessOrEqual(t, rep.Written, int64(3*blk))
			}

			require.NoError(t, w.away.Start(t.Context(), r.ID))
			w.write(w.away, r.ID, "b", 0, 10, 4)
			require.NoError(t, w.away.Stop(t.Context(), r.ID))
			require.Equal(t, []dr.DiskID{"a", "b"}, w.hydrate(p2, dr.Point{}).Full, "nobody knows")
		})
	}
}

// TestHydrateAfterFaults cuts a hydration at every write, twice over with
// points in turn, and with captures that a crash left.
func TestHydrateAfterFaults(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	r := rand.New(rand.NewPCG(3, 3))
	var points []dr.Point
	for range 4 {
		for range 5 {
			w.write(w.home, "vm", "a", r.Int64N(39*blk), 1+r.IntN(blk), byte(r.IntN(3)))
		}
		p, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
		require.NoError(t, err)
		points = append(points, p)
	}
	site := replication.Site{Backend: w.away, Points: w.store}
	common := points[0]
	for n := range 60 {
		for range r.IntN(6) {
			w.away.FailNext(memory.OpWriteAt, nil)
		}
		w.away.FailNext(memory.OpWriteAt, errFault)
		rep := w.prepare("replica")
		_, err := replication.Hydrate(t.Context(), site, rep, "vm", points[n%4].ID, common, replication.CopyOptions{Readers: 1, Chunk: blk})
		if err != nil {
			require.ErrorIs(t, err, errFault)
		}
		if n%3 == 0 {
			w.away.Crash()
		}
		w.drainWrites()
		if now := w.prepare("replica"); !now.Torn && n%2 == 0 {
			require.NoError(t, w.away.Start(t.Context(), now.ID))
			w.write(w.away, now.ID, "a", r.Int64N(39*blk), 100, 9)
			require.NoError(t, w.away.Stop(t.Context(), now.ID))
		}
		to := points[r.IntN(4)]
		w.hydrate(to, common)
		common = to
	}
}

// drainWrites lets the failures that are still due hit a machine of no
// interest.
func (w *world) drainWrites() {
	w.t.Helper()
	m := dr.Machine{ID: "scratch", Disks: []dr.Disk{{ID: "a", Size: 512}}}
	if err := w.away.Add(m); err != nil {
		require.ErrorIs(w.t, err, dr.ErrExists)
	}
	d, err := w.away.Draft(w.t.Context(), m.ID, dr.Point{ID: "p", Machine: m})
	require.NoError(w.t, err)
	for range 8 {
		_, _ = d.WriteAt(w.t.Context(), "a", []byte{1}, 0)
	}
	require.NoError(w.t, d.Close())
}

// TestStaleCapture: what a crash left frozen of a replica isn't taken for what
// it holds now, after it has run.
func TestStaleCapture(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{NoSums: true}, memstore.Options{})
	p, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.NoError(t, err)
	w.hydrate(p, dr.Point{})
	r := w.prepare("replica")
	_, err = w.away.Capture(t.Context(), r.ID, replication.PointName("theirs/"+string(p.ID)), dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, w.away.Start(t.Context(), r.ID))
	w.write(w.away, r.ID, "a", 7*blk, 100, 9)
	require.NoError(t, w.away.Stop(t.Context(), r.ID))
	require.Empty(t, w.hydrate(p, p).Full)
}

func TestSeed(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.write(w.home, "vm", "a", 0, 4*blk, 1)
	site := replication.Site{Backend: w.home, Points: w.store}
	as := dr.Machine{ID: "other", Name: "the replica"}
	_, err := replication.Seed(t.Context(), site, "vm", as, "seed", replication.CopyOptions{})
	require.ErrorIs(t, err, dr.ErrRunning)
	require.NoError(t, w.home.Stop(t.Context(), "vm"))
	rep, err := replication.Seed(t.Context(), site, "vm", as, "seed", replication.CopyOptions{})
	require.NoError(t, err)
	require.True(t, rep.Point.Base)
	require.Equal(t, dr.MachineID("other"), rep.Point.Machine.ID)
	requireEqual(t, w.content(w.home, "vm"), w.stored("other", "seed"))
	require.Empty(t, w.captures(w.home, "vm"))
	rep, err = replication.Seed(t.Context(), site, "vm", as, "seed", replication.CopyOptions{})
	require.NoError(t, err)
	require.True(t, rep.Existed)
	_, err = recoverypoint.Newest(t.Context(), w.store, "other")
	require.ErrorIs(t, err, dr.ErrNoPoint)
}

// refusing is a store that can't begin points just now.
type refusing struct {
	*memstore.Store
	err error
}

func (s refusing) Create(context.Context, dr.Point) (dr.Draft, error) { return nil, s.err }

// TestStoreRefusesForAWhile: what was copied by then is gone on with, also if a
// cycle in between found the store busy or full.
func TestStoreRefusesForAWhile(t *testing.T) {
	for _, name := range []dr.PointID{"", "key"} {
		for _, why := range []error{dr.ErrBusy, errFault} {
			w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
			w.cycle.Copy = replication.CopyOptions{Chunk: blk, Readers: 1}
			w.write(w.home, "vm", "a", 0, 17*blk, 1)
			before := w.content(w.home, "vm")
			for range 9 {
				w.home.FailNext(memory.OpReadAt, nil)
			}
			w.home.FailNext(memory.OpReadAt, errFault)
			_, err := w.cycle.ReplicateAs(t.Context(), "vm", name, dr.CrashConsistent, replication.CycleOptions{})
			require.ErrorIs(t, err, errFault)
			w.write(w.home, "vm", "a", 0, 3*blk, 2)

			w.cycle.Points = refusing{w.store, why}
			_, err = w.cycle.ReplicateAs(t.Context(), "vm", name, dr.CrashConsistent, replication.CycleOptions{})
			require.ErrorIs(t, err, why)

			w.cycle.Points = w.store
			r, err := w.cycle.ReplicateAs(t.Context(), "vm", name, dr.CrashConsistent, replication.CycleOptions{})
			require.NoError(t, err)
			require.Positive(t, r.Resumed, "name %q: what was durable is copied again, for %v", name, why)
			requireEqual(t, before, w.stored("vm", r.Point.ID))
			require.Empty(t, w.captures(w.home, "vm"))
		}
	}
	// Where nothing was begun nothing is left.
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	w.cycle.Points = refusing{w.store, errFault}
	_, err := w.cycle.Replicate(t.Context(), "vm", dr.CrashConsistent)
	require.ErrorIs(t, err, errFault)
	require.Empty(t, w.captures(w.home, "vm"))
}

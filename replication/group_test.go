package replication_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// records keeps protections in memory.
type records struct {
	mu  sync.Mutex
	all map[dr.ProtectionID]dr.Protection
}

func (r *records) Load(_ context.Context, id dr.ProtectionID) (dr.Protection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.all[id]
	if !ok {
		return p, dr.ErrNotFound
	}
	return p, nil
}

func (r *records) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[p.ID].Version != p.Version {
		return p, dr.ErrConflict
	}
	p.Version++
	r.all[p.ID] = p
	return p, nil
}

func (r *records) Protections(context.Context) iter.Seq2[dr.Protection, error] {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := slices.SortedFunc(func(yield func(dr.Protection) bool) {
		for _, p := range r.all {
			if !yield(p) {
				return
			}
		}
	}, func(a, b dr.Protection) int { return int(a.Version) - int(b.Version) })
	return func(yield func(dr.Protection, error) bool) {
		for _, p := range ids {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// fleet is a group of machines, each at a site of its own, with one store.
type fleet struct {
	t     testing.TB
	homes []*memory.Backend
	store *memstore.Store
	env   *replication.Env
	rec   *records
	ids   []dr.ProtectionID
}

// newFleet has n machines; wrap may put something around a site's backend.
func newFleet(t testing.TB, n int, o memory.Options, so memstore.Options, wrap func(i int, b backend.Backend) backend.Backend) *fleet {
	f := &fleet{t: t, store: memstore.New(so), rec: &records{all: map[dr.ProtectionID]dr.Protection{}}}
	away := memory.New(memory.Options{Site: "away"})
	f.env = &replication.Env{Sites: replication.Sites{"away": {Backend: away, Points: f.store}}, Records: f.rec}
	for i := range n {
		site, vm := fmt.Sprint("home", i), dr.MachineID(fmt.Sprint("vm", i))
		o.Site = site
		h := memory.New(o)
		require.NoError(t, h.Add(dr.Machine{ID: vm, Power: dr.On, OS: "linux", Disks: []dr.Disk{{ID: "a", Size: sizeA}, {ID: "b", Size: sizeB}}}))
		var b backend.Backend = h
		if wrap != nil {
			b = wrap(i, h)
		}
		f.env.Sites[site] = replication.Site{Backend: b}
		p := replication.New(dr.ProtectionID(fmt.Sprint("p", i)), dr.Place{Site: site, Machine: vm}, "away")
		p.Group, p.State = "g", dr.Protected
		_, err := f.rec.Save(t.Context(), p)
		require.NoError(t, err)
		f.homes, f.ids = append(f.homes, h), append(f.ids, p.ID)
	}
	return f
}

func (f *fleet) vm(i int) dr.MachineID { return dr.MachineID(fmt.Sprint("vm", i)) }

func (f *fleet) replicate(ctx context.Context, want dr.Consistency, o replication.GroupOptions) replication.GroupReport {
	f.t.Helper()
	r, err := f.env.ReplicateGroup(ctx, f.ids, want, o)
	require.NoError(f.t, err)
	return r
}

func (f *fleet) points(i int) []dr.Point {
	f.t.Helper()
	var all []dr.Point
	for p, err := range f.store.List(f.t.Context(), f.vm(i)) {
		require.NoError(f.t, err)
		all = append(all, p)
	}
	return all
}

// quiet says that no machine is frozen: a write to each comes back.
func (f *fleet) quiet() {
	f.t.Helper()
	for i, h := range f.homes {
		done := make(chan error, 1)
		go func() { done <- h.Write(f.vm(i), "b", []byte{1}, 0) }()
		select {
		case err := <-done:
			require.NoError(f.t, err)
		case <-time.After(5 * time.Second):
			f.t.Fatalf("machine %s is still frozen", f.vm(i))
		}
	}
}

// left says which captures the sources still have.
func (f *fleet) left() (all []dr.PointID) {
	for i, h := range f.homes {
		names, err := h.Captures(f.vm(i))
		require.NoError(f.t, err)
		all = append(all, names...)
	}
	return all
}

// The ledger is what a writer keeps true across two machines: it moves money
// from an account on the first to one on the second, one transfer at a time, and
// writes down the first before it writes the second. At every single moment the
// first is as far as the second, or one transfer ahead.
type ledger struct {
	stop atomic.Bool
	done chan error
}

const total = 1 << 40

// entry is one account's sector: how many transfers it has seen, what is left,
// and the last transfer's amount.
type entry struct{ n, balance, amount uint64 }

func (e entry) bytes() []byte {
	p := make([]byte, 512)
	for i, v := range []uint64{e.n, e.balance, e.amount} {
		binary.LittleEndian.PutUint64(p[8*i:], v)
	}
	return p
}

func readEntry(p []byte) entry {
	u := binary.LittleEndian.Uint64
	return entry{u(p), u(p[8:]), u(p[16:])}
}

// broken says why the two entries are of no one moment.
func broken(a, b entry) error {
	switch {
	case a.n == b.n && a.balance+b.balance == total:
		return nil
	case a.n == b.n+1 && a.balance+b.balance+a.amount == total:
		return nil
	}
	return fmt.Errorf("account A has seen %d transfers and B %d; %d + %d is not %d", a.n, b.n, a.balance, b.balance, uint64(total))
}

// where the entries lie: not in one block, so that an entry's write is not by
// chance the only one that counts.
const atA, atB = 3 * blk, 2*blk + 512

func openLedger(t testing.TB, a, b func(entry) error) *ledger {
	l := &ledger{done: make(chan error, 1)}
	ea, eb := entry{balance: total}, entry{}
	require.NoError(t, errors.Join(a(ea), b(eb)))
	go func() {
		for n := uint64(1); !l.stop.Load(); n++ {
			x := n%97 + 1
			ea = entry{n, ea.balance - x, x}
			if err := a(ea); err != nil {
				l.done <- err
				return
			}
			eb = entry{n, eb.balance + x, x}
			if err := b(eb); err != nil {
				l.done <- err
				return
			}
		}
		l.done <- nil
	}()
	return l
}

func (l *ledger) close(t testing.TB) {
	l.stop.Store(true)
	require.NoError(t, <-l.done)
}

// openLedger has the guests of the first two machines write.
func (f *fleet) openLedger() *ledger {
	return openLedger(f.t,
		func(e entry) error { return f.homes[0].Write(f.vm(0), "a", e.bytes(), atA) },
		func(e entry) error { return f.homes[1].Write(f.vm(1), "b", e.bytes(), atB) })
}

// read returns the entries of two points.
func (f *fleet) read(a, b dr.PointID) (entry, entry) {
	f.t.Helper()
	return f.readOne(0, a, "a", atA), f.readOne(1, b, "b", atB)
}

func (f *fleet) readOne(i int, id dr.PointID, disk dr.DiskID, off int64) entry {
	f.t.Helper()
	img, err := f.store.Open(f.t.Context(), f.vm(i), id)
	require.NoError(f.t, err)
	defer img.Close()
	p := make([]byte, 512)
	_, err = img.ReadAt(f.t.Context(), disk, p, off)
	require.NoError(f.t, err)
	return readEntry(p)
}

// forget deletes all points but the newest, to keep the test small.
func (f *fleet) forget() {
	for i := range f.homes {
		all := f.points(i)
		for _, p := range all[:max(0, len(all)-1)] {
			require.NoError(f.t, f.store.Delete(f.t.Context(), f.vm(i), p.ID))
		}
	}
}

// tries makes points of the group, and returns the last mark whose points break
// what the writer keeps true; nil if none does.
func (f *fleet) tries(n int) (marks int, worst error) {
	l := f.openLedger()
	defer l.close(f.t)
	for range n {
		r := f.replicate(f.t.Context(), dr.CrashConsistent, replication.GroupOptions{})
		require.NoError(f.t, r.Err())
		if r.Mark.IsZero() {
			continue
		}
		marks++
		require.True(f.t, r.Whole)
		if err := broken(f.read(r.Machines[0].Report.Point.ID, r.Machines[1].Report.Point.ID)); err != nil {
			return marks, fmt.Errorf("mark %s: %w", r.Mark.ID, err)
		}
		f.forget()
	}
	return marks, nil
}

// TestGroupPointsKeepWhatIsTrueAcrossMachines is the proof that a mark means
// something: a thousand of them, none broken.
func TestGroupPointsKeepWhatIsTrueAcrossMachines(t *testing.T) {
	f := newFleet(t, 2, memory.Options{}, memstore.Options{}, nil)
	marks, worst := f.tries(1000)
	require.NoError(t, worst)
	require.Equal(t, 1000, marks, "a mark that could be earned must be")
	f.quiet()
	require.Empty(t, f.left())
}

// TestOrdinaryPointsBreakIt shows that the proof can fail: points of the
// machines one by one are of different moments, and are seen to be.
func TestOrdinaryPointsBreakIt(t *testing.T) {
	f := newFleet(t, 2, memory.Options{}, memstore.Options{}, nil)
	l := f.openLedger()
	defer l.close(t)
	for range 1000 {
		var ids [2]dr.PointID
		for i := range ids {
			r, err := f.env.Replicate(t.Context(), f.ids[i], dr.CrashConsistent, nil)
			require.NoError(t, err)
			ids[i] = r.Point.ID
		}
		if broken(f.read(ids[0], ids[1])) != nil {
			return
		}
		f.forget()
	}
	t.Fatal("a thousand pairs of points, and none is broken: the writer doesn't write")
}

// around is newFleet's wrap: interceptors around every site's backend.
func around(is ...backendtest.Interceptor) func(int, backend.Backend) backend.Backend {
	return func(_ int, b backend.Backend) backend.Backend { return backendtest.Wrap(b, is...) }
}

// flakyStore fails the n-th Create.
type flakyStore struct {
	recoverypoint.PointStore
	n int64
	atomic.Int64
}

func (s *flakyStore) Unwrap() any { return s.PointStore }

func (s *flakyStore) Create(ctx context.Context, p dr.Point) (dr.Draft, error) {
	if s.Add(1) == s.n {
		return nil, backendtest.ErrInjected
	}
	return s.PointStore.Create(ctx, p)
}

// TestGroupFaults fails every call that a moment is made of, one at a time, on
// either side of its effect. No machine stays frozen, no mark is given to points
// of different moments, every machine has a point or says why not, nothing is
// left at the sources when the next cycle has ended, and that earns its mark.
func TestGroupFaults(t *testing.T) {
	run := func(t *testing.T, prepare func(f *fleet), fault *backendtest.Fault, moment bool) {
		var over atomic.Bool // the first cycle is: what follows works
		wrap := around(func(ctx context.Context, c backendtest.Call, do func() error) error {
			if over.Load() || fault == nil {
				return do()
			}
			return fault.Intercept(ctx, c, do)
		})
		f := newFleet(t, 3, memory.Options{}, memstore.Options{}, wrap)
		if prepare != nil {
			prepare(f)
		}
		l := f.openLedger()
		defer l.close(t)
		r := f.replicate(t.Context(), dr.CrashConsistent, replication.GroupOptions{})
		over.Store(true)
		f.quiet()
		failed := 0
		for i, m := range r.Machines {
			if m.Err != nil {
				require.ErrorIs(t, m.Err, backendtest.ErrInjected)
				failed++
			}
			for _, p := range f.points(i) {
				require.Equal(t, r.Mark, p.Group, "only a mark that the report knows of, or none")
			}
		}
		require.LessOrEqual(t, failed, 1, "one fault costs one machine's point at most")
		if moment && fault.Fired() {
			require.ErrorIs(t, r.Why, backendtest.ErrInjected)
			require.True(t, r.Mark.IsZero())
			require.Zero(t, failed, "that the moment isn't common costs no point")
		}
		if r.Whole {
			require.NoError(t, broken(f.read(r.Machines[0].Report.Point.ID, r.Machines[1].Report.Point.ID)))
		}
		if failed == 0 {
			require.Equal(t, r.Whole, !r.Mark.IsZero())
		}
		r = f.replicate(t.Context(), dr.CrashConsistent, replication.GroupOptions{})
		require.NoError(t, r.Err())
		require.NoError(t, r.Why)
		require.True(t, r.Whole)
		require.NoError(t, broken(f.read(r.Machines[0].Report.Point.ID, r.Machines[1].Report.Point.ID)))
		require.Empty(t, f.left())
	}
	for _, when := range []backendtest.When{backendtest.Before, backendtest.After} {
		for _, op := range []backendtest.Op{backendtest.OpQuiesce, backendtest.OpCapture, backendtest.OpThaw, backendtest.OpRelease, backendtest.OpReadAt, ""} {
			moment := op == backendtest.OpQuiesce || op == backendtest.OpCapture || op == backendtest.OpThaw
			fired := true
			for n := 1; fired; n++ {
				fault := backendtest.FailNth(n, when)
				if op != "" {
					fault = backendtest.FailNth(n, when, op)
				}
				t.Run(fmt.Sprintf("%s after=%v %d", op, when, n), func(t *testing.T) { run(t, nil, fault, moment) })
				fired = fault.Fired()
			}
		}
	}
	for n := int64(1); n <= 3; n++ {
		t.Run(fmt.Sprint("Create ", n), func(t *testing.T) {
			run(t, func(f *fleet) {
				s := f.env.Sites["away"]
				s.Points = &flakyStore{PointStore: f.store, n: n}
				f.env.Sites["away"] = s
			}, nil, false)
		})
	}
}

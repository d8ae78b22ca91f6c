package failback_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

var (
	histories = flag.Int("histories", 1000, "how many random histories")
	seed      = flag.Uint64("seed", 0, "the seed of the first history; 0: of the clock")
)

// Random histories of everything that can be asked of a protection, against a
// model that knows every machine's and every point's bytes. Runs are cancelled
// at random steps, processes die at random calls, trackers forget, guests
// write on both sides. Run it for an hour with -histories 1000000 -timeout 0;
// a failure prints the seed that repeats it with -histories 1 -seed N, but for
// the moments at which processes die.
func TestHistories(t *testing.T) {
	first, n := *seed, *histories
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	if testing.Short() {
		n = min(n, 100)
	}
	const lanes = 4
	for lane := range lanes {
		t.Run(fmt.Sprint("lane", lane), func(t *testing.T) {
			t.Parallel()
			for i := lane; i < n && !t.Failed(); i += lanes {
				seed := first + uint64(i)
				// A test of its own, so that it is cleaned up behind each.
				t.Run(fmt.Sprint(seed), func(t *testing.T) { history(t, seed) })
			}
		})
	}
}

// model is what should be.
type model struct {
	*world
	seed     uint64
	log      []string
	dirty    bool                     // a cycle was interrupted: its capture and draft may be there
	contents map[dr.MachineID]content // of machines whose bytes are known
	points   map[dr.PointID]content
}

func history(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 77))
	maybe := func() bool { return rnd.IntN(4) == 0 }
	options := func() memory.Options {
		return memory.Options{
			NoTracker: maybe(), NoMap: maybe(), NoSums: maybe(), NoZero: maybe(), NoResume: maybe(),
			NoQuiesce: true, NoSweep: maybe(), NoProbe: maybe(), NoShutdown: rnd.IntN(8) == 0,
		}
	}
	w := newWorld(t, options(), options())
	w.rnd = rnd
	defer w.end()
	for _, site := range []string{hq, away} {
		if rnd.IntN(4) == 0 {
			w.stores[site] = memstore.New(memstore.Options{Deferred: true})
		}
	}
	w.end()
	w.open()
	m := &model{world: w, seed: seed, contents: map[dr.MachineID]content{}, points: map[dr.PointID]content{}}
	defer func() {
		if t.Failed() {
			t.Logf("repeat with -histories 1 -seed %d\n%s", seed, strings.Join(m.log, "\n"))
		}
	}()
	w.serve(dr.Actions{"own.block@1": m.block})
	w.enroll()
	m.contents[vm] = w.disks(hq, vm)
	for range 4 + rnd.IntN(8) {
		m.step()
		m.check()
	}
}

func (m *model) logf(f string, args ...any) { m.log = append(m.log, fmt.Sprintf(f, args...)) }

// block is a step that waits to be cancelled.
func (m *model) block(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// step does something that is allowed now.
func (m *model) step() {
	p := m.record()
	ops := p.Allowed()
	switch n := m.rnd.IntN(10); {
	case n < 2:
		m.write(p.Active)
		return
	case n == 2 && p.Standby.Machine != "":
		m.mistake(p)
		return
	case n == 3:
		site := []string{hq, away}[m.rnd.IntN(2)]
		for _, id := range m.machines(site) {
			m.logf("the tracker of %s forgets", id)
			require.NoError(m.t, m.hosts[site].LoseChanges(id))
		}
		return
	case n == 4 && (p.State == dr.Protected || p.State == dr.FailedOver):
		gone, err := m.env.Expire(m.t.Context(), pid, recoverypoint.Policy{Keep: 1})
		require.NoError(m.t, err)
		m.logf("%d points expire", len(gone))
		return
	}
	op := ops[m.rnd.IntN(len(ops))]
	if op == dr.OpUnprotect && m.rnd.IntN(4) != 0 {
		return
	}
	switch op {
	case dr.OpReplicate:
		if m.rnd.IntN(4) == 0 {
			m.brokenCycle(p)
			return
		}
		if rep := m.cycle(); rep.Point.ID != "" {
			m.points[rep.Point.ID] = m.known(p.Active)
			if m.dirty { // it may have gone on with an earlier attempt's moment
				require.NoError(m.t, m.stores[p.Standby.Site].Process(m.t.Context(), p.Active.Machine))
				m.points[rep.Point.ID] = m.pointBytes(p.Standby.Site, p.Active.Machine, rep.Point.ID)
			}
			_, sweeps := dr.As[backend.Sweeper](m.hosts[p.Active.Site])
			m.dirty = m.dirty && !sweeps // else what is left is removed by hand
			m.logf("cycle %s", rep.Point.ID)
		}
		m.write(p.Active)
	case dr.OpPause, dr.OpResume:
		require.NoError(m.t, m.env.Pause(m.t.Context(), pid))
		require.NoError(m.t, m.env.Resume(m.t.Context(), pid))
	default:
		m.flow(op, p)
	}
}

// brokenCycle is one that a call fails, if there are as many.
func (m *model) brokenCycle(p dr.Protection) {
	m.intercept(backendtest.FailNth(1+m.rnd.IntN(30), m.rnd.IntN(2) == 0).Intercept)
	rep, err := m.env.Replicate(m.t.Context(), pid, dr.CrashConsistent, nil)
	m.intercept(nil)
	m.dirty = m.dirty || err != nil
	m.logf("cycle %s: %v", rep.Point.ID, err)
	store, at := p.Standby.Site, p.Active.Machine
	require.NoError(m.t, m.stores[store].Process(m.t.Context(), at))
	for q, err := range m.stores[store].List(m.t.Context(), at) {
		require.NoError(m.t, err)
		if m.points[q.ID] == nil { // it was made all the same, perhaps of an earlier attempt's moment
			m.points[q.ID] = m.pointBytes(store, at, q.ID)
		}
	}
}

func (m *model) known(at dr.Place) content {
	m.t.Helper()
	c, ok := m.contents[at.Machine]
	require.True(m.t, ok, "the model knows %s", at.Machine)
	return c
}

// write has the guest write, and the model know it.
func (m *model) write(at dr.Place) {
	if m.power(at.Site, at.Machine) != dr.On {
		return
	}
	m.guestAt(at)
	m.contents[at.Machine] = m.disks(at.Site, at.Machine)
	m.logf("the guest of %s writes", at.Machine)
}

func (m *model) guestAt(at dr.Place) {
	was, had := m.contents[at.Machine]
	if had { // the write itself must be the only change
		m.same(was, m.disks(at.Site, at.Machine), "seed %d: before a write to %s", m.seed, at.Machine)
	}
	m.scribble(at.Site, at.Machine, 1+m.rnd.IntN(3))
}

// mistake presses the standby machine's button; its guest writes.
func (m *model) mistake(p dr.Protection) {
	at := p.Standby
	if m.power(at.Site, at.Machine) == dr.On {
		require.NoError(m.t, m.hosts[at.Site].Power(at.Machine, dr.Off))
		m.logf("%s is switched off", at.Machine)
		return
	}
	if err := m.hosts[at.Site].Power(at.Machine, dr.On); err != nil {
		require.ErrorIs(m.t, err, dr.ErrTorn)
		return
	}
	m.logf("%s is switched on by mistake", at.Machine)
	m.write(at)
	if m.rnd.IntN(2) == 0 {
		require.NoError(m.t, m.hosts[at.Site].Power(at.Machine, dr.Off))
		m.logf("%s is switched off", at.Machine)
	}
}

// choice is a point to ask for, among those that there are.
func (m *model) choice(store string, of dr.MachineID) recoverypoint.Choice {
	var ids []dr.PointID
	for q, err := range m.stores[store].List(m.t.Context(), of) {
		require.NoError(m.t, err)
		if !q.Base {
			ids = append(ids, q.ID)
		}
	}
	if len(ids) == 0 || m.rnd.IntN(2) == 0 {
		return recoverypoint.Choice{}
	}
	return recoverypoint.Choice{Option: recoverypoint.Custom, Point: ids[m.rnd.IntN(len(ids))]}
}

// flow plans the operation, runs it through whatever happens, and compares.
func (m *model) flow(op dr.Operation, p dr.Protection) {
	var pl dr.Plan
	var err error
	direct := false
	switch op {
	case dr.OpProtect:
		pl, err = replication.Protect(p)
	case dr.OpUnprotect:
		pl, err = replication.Unprotect(p)
	case dr.OpTestFailover:
		pl, err = failover.Test(p, m.next(failover.FlowTest), failover.Options{Point: m.choice(p.Standby.Site, p.Active.Machine)})
	case dr.OpCleanUpTest:
		pl, err = failover.CleanUp(p, "")
	case dr.OpPlannedFailover:
		pl, err = failover.Planned(p, failover.Options{PowerOff: true, ShutdownTimeout: patience})
	case dr.OpUnplannedFailover:
		pl, err = failover.Unplanned(p, failover.Options{Shutdown: m.rnd.IntN(2) == 0, PowerOff: m.rnd.IntN(2) == 0, ShutdownTimeout: patience, Point: m.choice(p.Standby.Site, p.Active.Machine)})
	case dr.OpChangePoint:
		pl, err = failover.ChangePoint(p, m.choice(p.Active.Site, p.Standby.Machine), failover.Options{})
	case dr.OpCommit:
		pl, err = failover.Commit(p, failover.CommitOptions{Discard: m.rnd.IntN(3) == 0})
	case dr.OpCancelFailover:
		pl, err = failover.Cancel(p)
	case dr.OpReprotect:
		pl, err = failback.Reprotect(p, failback.ReprotectOptions{Alternate: m.rnd.IntN(4) == 0, Cold: m.rnd.IntN(3) == 0})
	case dr.OpFailback:
		o := failback.Options{Sync: []failback.Sync{failback.FromPoints, failback.Before, failback.During}[m.rnd.IntN(3)]}
		o.PowerOff, o.ShutdownTimeout = true, patience
		if o.Sync == failback.FromPoints {
			if p.State != dr.Protected {
				return
			}
			o.Point = m.choice(p.Standby.Site, p.Active.Machine)
		} else {
			o.Alternate, direct = m.rnd.IntN(4) == 0, true
		}
		pl, err = failback.Failback(p, o)
	default:
		require.Fail(m.t, "operation", "%s", op)
	}
	require.NoError(m.t, err)
	m.logf("%s from %s, %s beside %s", pl.Flow, p.State, p.Active.Machine, p.Standby.Machine)

	standbyOn := p.Standby.Machine != "" && m.power(p.Standby.Site, p.Standby.Machine) == dr.On
	before := m.picture()
	st := m.endure(pl)
	m.logf("  %s %s", st.State, st.Reason)
	now := m.record()
	require.Empty(m.t, now.Run, "seed %d", m.seed)
	if st.State == dr.RunDone {
		m.done(op, p, now, st)
		return
	}
	if st.State == dr.RunFailed {
		require.True(m.t, standbyOn, "seed %d: %s failed: %s", m.seed, pl.Flow, st.Reason)
		require.Contains(m.t, st.Reason, "running")
	}
	if op == dr.OpChangePoint && !m.equal(m.known(p.Active), m.disks(p.Active.Site, p.Active.Machine)) {
		m.contents[p.Active.Machine] = m.points[p.Failover.Point.ID] // given up
		return
	}
	if s := p.Standby; !standbyOn && op != dr.OpCancelFailover && op != dr.OpCommit && op != dr.OpChangePoint && op != dr.OpCleanUpTest && op != dr.OpTestFailover {
		delete(m.contents, s.Machine) // perhaps it holds another point now
	}
	if standbyOn && (direct || op == dr.OpReprotect) {
		// What was being written stays off; what the base didn't keep is gone.
		delete(m.contents, p.Standby.Machine)
		return
	}
	require.Equal(m.t, m.plain(before), m.plain(m.picture()), "seed %d: %s %s: %s", m.seed, pl.Flow, st.State, st.Reason)
}

// plain leaves out what an interrupted cycle has left, and a flow may sweep.
func (m *model) plain(picture string) string {
	if !m.dirty {
		return picture
	}
	return left.ReplaceAllString(picture, "")
}

var left = regexp.MustCompile(`captures \[[^\]]*\]| ?"pending [^"]*"`)

// done takes the flow's effects into the model.
func (m *model) done(op dr.Operation, p, now dr.Protection, st dr.Status) {
	switch op {
	case dr.OpProtect, dr.OpReprotect:
		m.points[now.Last.ID] = m.known(p.Active)
		if op == dr.OpReprotect {
			delete(m.contents, p.Standby.Machine)
			delete(m.contents, now.Standby.Machine)
		}
	case dr.OpTestFailover:
		rep := resultOf[failover.Report](m.t, st, failover.StepFinish)
		at := now.Test.Place
		m.same(m.points[rep.Point.ID], m.disks(at.Site, at.Machine), "seed %d: the drill's bytes", m.seed)
		require.Equal(m.t, dr.On, m.power(at.Site, at.Machine))
		m.scribble(at.Site, at.Machine, 2)
	case dr.OpPlannedFailover, dr.OpUnplannedFailover, dr.OpFailback:
		rep := resultOf[failover.Report](m.t, st, failover.StepFinish)
		c, ok := m.points[rep.Point.ID]
		if !ok { // the flow's own
			c = m.known(p.Active)
			m.points[rep.Point.ID] = c
		}
		if rep.Loss.None {
			m.same(m.known(p.Active), c, "seed %d: a failover that says it lost nothing", m.seed)
		}
		if op != dr.OpUnplannedFailover {
			require.Equal(m.t, dr.Off, m.power(p.Active.Site, p.Active.Machine), "seed %d", m.seed)
		}
		m.contents[now.Active.Machine] = c
	case dr.OpChangePoint:
		id := now.Failover.Point.ID
		if m.points[id] == nil { // a last replication that was not chosen, and only received until now
			m.points[id] = m.pointBytes(now.Active.Site, now.Standby.Machine, id)
		}
		m.contents[now.Active.Machine] = m.points[id]
	}
}

// check compares the world with the model.
func (m *model) check() {
	p := m.record()
	require.Equal(m.t, dr.On, m.power(p.Active.Site, p.Active.Machine), "seed %d: the protected machine runs", m.seed)
	m.same(m.known(p.Active), m.disks(p.Active.Site, p.Active.Machine), "seed %d: the protected machine's bytes", m.seed)
	store, line := p.Standby.Site, p.Active.Machine
	if p.State == dr.FailedOver {
		store, line = p.Active.Site, p.Standby.Machine
	}
	if m.rnd.IntN(2) == 0 {
		require.NoError(m.t, m.stores[store].Process(m.t.Context(), line))
	}
	for q, err := range m.stores[store].List(m.t.Context(), line) {
		require.NoError(m.t, err)
		if q.Base {
			continue
		}
		want, ok := m.points[q.ID]
		if !ok { // the last replication of a flow that was taken back
			require.True(m.t, strings.Contains(string(q.ID), failover.StepSync), "seed %d: point %s", m.seed, q.ID)
			m.points[q.ID] = m.pointBytes(store, line, q.ID)
			continue
		}
		m.same(want, m.pointBytes(store, line, q.ID), "seed %d: the bytes of point %s", m.seed, q.ID)
	}
	switch p.State {
	case dr.Committed, dr.Unprotected:
		require.Empty(m.t, p.Pins)
	}
	for q := range p.Pins {
		img, err := m.stores[store].Open(m.t.Context(), line, q)
		require.NoError(m.t, err, "seed %d: point %s is pinned as %s", m.seed, q, p.Pins[q])
		require.NoError(m.t, img.Close())
	}
	if !m.dirty {
		m.clean(fmt.Sprint("seed ", m.seed))
	}
	if p.Test == nil {
		for _, site := range []string{hq, away} {
			for _, id := range m.machines(site) {
				pl, err := m.hosts[site].Placement(id)
				require.NoError(m.t, err)
				require.False(m.t, strings.HasPrefix(pl.Key, "test/"), "seed %d: machine %s of a drill is left", m.seed, id)
			}
		}
	}
}

// endure runs the plan to its end: cancelled at a step, or dying at calls, at
// random.
func (m *model) endure(pl dr.Plan) dr.Status {
	m.t.Helper()
	cancelled := m.rnd.IntN(4) == 0
	if cancelled {
		i := m.rnd.IntN(len(pl.Steps))
		if final(pl, pl.Steps[i].ID) {
			cancelled = false
		} else {
			var err error
			pl, err = pl.InsertBefore(pl.Steps[i].ID, dr.Step{ID: "own", Action: "own.block@1"})
			require.NoError(m.t, err)
			m.logf("  cancelled before %s", pl.Steps[i+1].ID)
		}
	}
	if m.rnd.IntN(3) == 0 {
		m.dieAt(1+m.rnd.IntN(90), m.rnd.IntN(2) == 0)
	}
	defer m.intercept(nil)
	verdict := dr.Approve
	if m.rnd.IntN(4) == 0 {
		verdict = dr.Reject
	}
	m.runs++
	run := runID(m.runs, pl.Flow)
	require.NoError(m.t, m.engine.Start(m.t.Context(), run, pl))
	for {
		st, err := dr.Wait(m.t.Context(), m.engine, run, func(s dr.Status) {
			for _, x := range s.Steps {
				switch {
				case x.State == dr.StepWaiting:
					_ = m.engine.Decide(m.t.Context(), run, x.ID, dr.Decision{Verdict: verdict, By: "test"})
				case x.ID == "own" && x.State == dr.StepRunning && cancelled:
					_ = m.engine.Cancel(m.t.Context(), run, "at random")
				}
			}
		})
		if !m.life.dead.Load() {
			require.NoError(m.t, err)
			return st
		}
		m.logf("  the process died")
		m.crash()
		if m.rnd.IntN(3) == 0 {
			m.dieAt(1+m.rnd.IntN(60), m.rnd.IntN(2) == 0)
		} else {
			m.intercept(nil)
		}
	}
}

// dieAt lets the process die at its n-th call from now.
func (m *model) dieAt(n int, behind bool) {
	var seen atomic.Int64
	life := m.life
	m.intercept(func(_ ctx, _ backendtest.Call, do func() error) error {
		if seen.Add(1) != int64(n) {
			return do()
		}
		if behind {
			_ = do()
		}
		life.dead.Store(true)
		return errDead
	})
}

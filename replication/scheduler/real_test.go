package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// pruner is a store that can be pruned.
type pruner struct {
	*memstore.Store
	prune func(context.Context) (int64, error)
}

func (p pruner) Prune(ctx context.Context) (int64, error) { return p.prune(ctx) }

// yard is two sites with real cycles.
type yard struct {
	home    *memory.Backend
	store   *memstore.Store
	records *records
	env     *replication.Env
}

const diskSize = 4 << 20

func newYard(t *testing.T, machines int, wrap func(backend.Backend) backend.Backend) *yard {
	y := &yard{home: memory.New(memory.Options{Site: "home"}), store: memstore.New(memstore.Options{}), records: newRecords()}
	var b backend.Backend = y.home
	if wrap != nil {
		b = wrap(b)
	}
	y.env = &replication.Env{Records: y.records, Copy: replication.CopyOptions{Chunk: dr.SumBlock, Readers: 1}, Sites: replication.Sites{
		"home": {Backend: b, Points: memstore.New(memstore.Options{})},
		"away": {Backend: memory.New(memory.Options{Site: "away"}), Points: y.store},
	}}
	for i := range machines {
		id := dr.MachineID(fmt.Sprint("vm", i))
		require.NoError(t, y.home.Add(dr.Machine{ID: id, Power: dr.On, Disks: []dr.Disk{{ID: "d", Size: diskSize}}}))
		y.write(t, id, 0, diskSize, byte(i+1))
		p := replication.New(dr.ProtectionID("p-"+id), dr.Place{Site: "home", Machine: id}, "away")
		p.State = dr.Protected
		_, err := y.records.Save(t.Context(), p)
		require.NoError(t, err)
	}
	return y
}

func (y *yard) write(t *testing.T, id dr.MachineID, off int64, n int, with byte) {
	p := make([]byte, n)
	for i := range p {
		p[i] = with
	}
	require.NoError(t, y.home.Write(id, "d", p, off))
}

// holds checks that a machine's newest point is what its disk holds.
func (y *yard) holds(t *testing.T, id dr.MachineID) {
	p, err := recoverypoint.Newest(t.Context(), y.store, id)
	require.NoError(t, err)
	img, err := y.store.Open(t.Context(), id, p.ID)
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, diskSize)
	_, err = img.ReadAt(t.Context(), "d", got, 0)
	require.NoError(t, err)
	r, err := y.home.Disk(id, "d")
	require.NoError(t, err)
	want, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// Real cycles over hours: app-consistent points each hour, crash-consistent ones
// between; retention by the policy; stores pruned one at a time; and when it
// ends nothing is left at the source.
func TestRealCyclesFollowThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t, 3, nil)
		var mu sync.Mutex
		pruning, prunes := 0, 0
		prune := func(ctx context.Context) (int64, error) {
			mu.Lock()
			pruning++
			prunes++
			require.Equal(t, 1, pruning, "one at a time")
			mu.Unlock()
			select {
			case <-time.After(2 * time.Hour):
			case <-ctx.Done():
			}
			mu.Lock()
			defer mu.Unlock()
			pruning--
			return 7, nil
		}
		for name, site := range y.env.Sites {
			site.Points = pruner{site.Points.(*memstore.Store), prune}
			y.env.Sites[name] = site
		}
		counts := map[scheduler.EventKind]int{}
		s, err := scheduler.New(y.env, scheduler.Options{
			Policies: replication.Policies{"": {Every: 10 * time.Minute, Forward: recoverypoint.Policy{Keep: 3 * time.Hour, ApplicationEvery: time.Hour, RPO: 15 * time.Minute}}},
			Observe:  func(e scheduler.Event) { counts[e.Kind]++; require.NoError(t, e.Err) },
			Prune:    3 * time.Hour,
		})
		require.NoError(t, err)
		stop := live(t, s)
		for i := range 24 {
			time.Sleep(30 * time.Minute)
			y.write(t, "vm1", int64(i)*4096, 4096, byte(i))
		}
		time.Sleep(30 * time.Minute)
		st := s.Status()
		stop()
		require.Zero(t, st.Totals.Failures)
		require.Zero(t, st.Totals.Missed)
		require.InDelta(t, 3*75, st.Totals.Cycles, 6)
		require.Equal(t, int(st.Totals.Cycles), counts[scheduler.Ended])
		require.Positive(t, counts[scheduler.Expired])
		require.Positive(t, counts[scheduler.Pruned])
		require.GreaterOrEqual(t, prunes, 5)
		for i := range 3 {
			id := dr.MachineID(fmt.Sprint("vm", i))
			y.holds(t, id)
			left, err := y.home.Captures(id)
			require.NoError(t, err)
			require.Empty(t, left)
			var all, app int
			for p, err := range y.store.List(t.Context(), id) {
				require.NoError(t, err)
				all++
				require.Less(t, st.Time.Sub(p.Time), 4*time.Hour+11*time.Minute, "retention is at most its interval and a cycle late")
				if p.Consistency == dr.ApplicationConsistent {
					app++
				}
			}
			require.InDelta(t, 21, all, 5)
			require.InDelta(t, 4, app, 2)
		}
		// Three writes a point, and two each time that retention has found something.
		require.Less(t, y.records.writes, int(st.Totals.Cycles)+2*counts[scheduler.Expired]+10)
	})
}

// A scheduler that is stopped in the middle of a copy leaves no goroutine and
// no failure; the next one's ordinary cycle goes on with what was copied.
func TestInterruptedCyclesAreGoneOnWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t, 1, nil)
		var reports []replication.Report
		o := scheduler.Options{
			Bandwidth: []scheduler.Bandwidth{{From: "home", Rate: 64 << 10}}, // a block a second: more than a minute
			Observe: func(e scheduler.Event) {
				if e.Kind == scheduler.Ended {
					reports = append(reports, e.Report)
				}
			},
		}
		first, err := scheduler.New(y.env, o)
		require.NoError(t, err)
		stop := live(t, first)
		for {
			time.Sleep(time.Second)
			if p, _ := first.Protection("p-vm0"); p.Running && len(p.Disks) > 0 && p.Disks[0].Done > diskSize/2 {
				break
			}
		}
		stop()
		synctest.Wait()
		require.Empty(t, reports)
		p, err := y.records.Load(t.Context(), "p-vm0")
		require.NoError(t, err)
		require.Zero(t, p.Upkeep, "being stopped is no failure")
		second, err := scheduler.New(y.env, o)
		require.NoError(t, err)
		stop = live(t, second)
		time.Sleep(3 * time.Minute)
		stop()
		require.NotEmpty(t, reports)
		require.Greater(t, reports[0].Resumed, int64(diskSize/4))
		y.holds(t, "vm0")
	})
}

// A platform that hangs in the middle of a capture holds nobody else up; one
// that fails is tried again, and succeeds.
func TestPlatformsThatHangOrFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := 3
		var mu sync.Mutex
		y := newYard(t, 4, func(b backend.Backend) backend.Backend {
			return backendtest.Wrap(b, func(ctx context.Context, c backendtest.Call, do func() error) error {
				if c.Op != backendtest.OpCapture {
					return do()
				}
				if c.Machine == "vm0" {
					<-ctx.Done()
					return ctx.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				if c.Machine == "vm1" && fails > 0 {
					fails--
					return errors.New("the host is restarting")
				}
				return do()
			})
		})
		s, err := scheduler.New(y.env, scheduler.Options{Limits: scheduler.Limits{Total: 4}})
		require.NoError(t, err)
		stop := live(t, s)
		time.Sleep(2 * time.Hour)
		p, _ := s.Protection("p-vm0")
		require.Contains(t, p.Upkeep.Err, "no progress")
		for _, id := range []dr.ProtectionID{"p-vm1", "p-vm2", "p-vm3"} {
			p, _ = s.Protection(id)
			require.Zero(t, p.Upkeep.Failures, id)
			require.InDelta(t, 24, p.Totals.Cycles, 2, id)
		}
		stop()
	})
}

// A flow that takes hold of a machine in the middle of its cycle stops that,
// and it is no failure.
func TestAFlowTakesAMachineFromItsCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t, 1, nil)
		var kinds []scheduler.EventKind
		s, err := scheduler.New(y.env, scheduler.Options{Bandwidth: []scheduler.Bandwidth{{Rate: 4 << 10}},
			Observe: func(e scheduler.Event) { kinds = append(kinds, e.Kind) }})
		require.NoError(t, err)
		stop := live(t, s)
		time.Sleep(2 * time.Minute)
		p, _ := s.Protection("p-vm0")
		require.True(t, p.Running)
		_, err = y.env.Amend(t.Context(), "p-vm0", func(p *dr.Protection) error { p.Run = "failover"; return nil })
		require.NoError(t, err)
		require.NoError(t, y.env.Hold(t.Context(), "p-vm0"))
		time.Sleep(5 * time.Minute)
		p, _ = s.Protection("p-vm0")
		require.False(t, p.Running)
		require.Zero(t, p.Upkeep)
		require.Contains(t, p.Why, "failover")
		stop()
		require.Equal(t, []scheduler.EventKind{scheduler.Started, scheduler.Stopped}, kinds)
	})
}

// A prune that doesn't heed its context, as a call to a share whose server is gone, keeps
// Run from its end for Grace and no longer, and is named.
func TestRunEndsThoughAPruneHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(2, 1, 1, "")
		never := make(chan struct{})
		defer close(never) // but for the test
		f.env.Sites = replication.Sites{"recovery": {Points: pruner{nil, func(context.Context) (int64, error) { <-never; return 0, nil }}}}
		s, err := scheduler.New(f.env, scheduler.Options{Prune: time.Hour, Expire: f.expire, Replicate: f.replicate})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(90*time.Minute + 10*time.Second)
		synctest.Wait()
		require.Equal(t, "recovery", s.Status().Pruning)
		began := time.Now()
		cancel()
		err = <-ended
		require.Less(t, time.Since(began), 2*time.Minute)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "pruning")
	})
}

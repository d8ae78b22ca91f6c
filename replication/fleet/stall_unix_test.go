//go:build unix

package fleet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// world is what processes share, in a file that one has at a time: leases, records
// that heed them, and a platform that remembers the highest epoch of each shard.
type world struct{ dir string }

type shared struct {
	Leases   *fleet.Memory
	Records  map[dr.ProtectionID]dr.Protection
	Platform map[fleet.Shard]uint64
	// Effects are all that was done, in order; Fenced counts what was refused.
	Effects []effect
	Fenced  int
}

type effect struct {
	Worker, What string
	Shard        fleet.Shard
	Epoch        uint64
	Machine      dr.ProtectionID
}

// with has the world to itself.
func (w world) with(f func(*shared) error) error {
	lock, err := os.OpenFile(filepath.Join(w.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	s := shared{Leases: &fleet.Memory{}, Records: map[dr.ProtectionID]dr.Protection{}, Platform: map[fleet.Shard]uint64{}}
	name := filepath.Join(w.dir, "world")
	if b, err := os.ReadFile(name); err == nil {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	failed := f(&s)
	b, err := json.Marshal(&s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return errors.Join(failed, os.Rename(name+".new", name))
}

func (w world) Renew(ctx context.Context, m fleet.Member) (v fleet.View, err error) {
	err = w.with(func(s *shared) error { v, err = s.Leases.Renew(ctx, m); return err })
	return v, err
}

func (w world) Take(ctx context.Context, member string, shards []fleet.Shard) (l []fleet.Lease, err error) {
	err = w.with(func(s *shared) error { l, err = s.Leases.Take(ctx, member, shards); return err })
	return l, err
}

func (w world) Release(ctx context.Context, member string, shards []fleet.Shard) error {
	return w.with(func(s *shared) error { return s.Leases.Release(ctx, member, shards) })
}

func (w world) Leave(ctx context.Context, member string) error {
	return w.with(func(s *shared) error { return s.Leases.Leave(ctx, member) })
}

func (w world) View(ctx context.Context) (v fleet.View, err error) {
	err = w.with(func(s *shared) error { v, err = s.Leases.View(ctx); return err })
	return v, err
}

// heeding are its records.
type heeding struct {
	world
	name string
}

func (heeding) FencesShards() bool { return true }

func (h heeding) Load(_ context.Context, id dr.ProtectionID) (p dr.Protection, err error) {
	err = h.with(func(s *shared) error {
		var ok bool
		if p, ok = s.Records[id]; !ok {
			return dr.ErrNotFound
		}
		return nil
	})
	return p, err
}

func (h heeding) Save(ctx context.Context, p dr.Protection) (dr.Protection, error) {
	err := h.with(func(s *shared) error {
		shard, epoch, ok := fleet.Fence(ctx)
		if ok && s.Leases.Newest(shard) != epoch {
			s.Fenced++
			return dr.ErrFenced
		}
		if s.Records[p.ID].Version != p.Version {
			return dr.ErrConflict
		}
		p.Version++
		s.Records[p.ID] = p
		if ok {
			s.Effects = append(s.Effects, effect{h.name, "save", shard, epoch, p.ID})
		}
		return nil
	})
	return p, err
}

func (h heeding) Protections(context.Context) iter.Seq2[dr.Protection, error] {
	return func(yield func(dr.Protection, error) bool) {
		var all map[dr.ProtectionID]dr.Protection
		if err := h.with(func(s *shared) error { all = s.Records; return nil }); err != nil {
			yield(dr.Protection{}, err)
			return
		}
		for _, id := range slices.Sorted(maps.Keys(all)) {
			if !yield(all[id], nil) {
				return
			}
		}
	}
}

// touch is what a cycle does at its platform, which refuses what is fenced.
func (h heeding) touch(ctx context.Context, id dr.ProtectionID) error {
	return h.with(func(s *shared) error {
		shard, epoch, _ := fleet.Fence(ctx)
		if epoch < s.Platform[shard] {
			s.Fenced++
			return dr.ErrFenced
		}
		s.Platform[shard] = epoch
		s.Effects = append(s.Effects, effect{h.name, "touch", shard, epoch, id})
		return nil
	})
}

const (
	stallTTL    = 1200 * time.Millisecond
	stallWorker = "LIFEBOAT_TEST_FLEET_WORKER"
)

// TestMain makes a worker of the test's own program.
func TestMain(m *testing.M) {
	if dir := os.Getenv(stallWorker); dir != "" {
		if err := stallable(world{dir}, os.Getenv(stallWorker+"_NAME")); err != nil {
			fmt.Println("ended", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stallable is a worker whose cycles heed nothing: what keeps them from doing harm
// is the fence alone.
func stallable(w world, name string) error {
	h := heeding{w, name}
	env := &replication.Env{Records: h}
	worker, err := fleet.New(env, fleet.Options{Leases: w, Layout: fleet.Layout{Shards: 6}, Name: name, TTL: stallTTL,
		Observe: func(e fleet.Event) { fmt.Println(e.Kind, e.Shard, e.Epoch) },
		Scheduler: scheduler.Options{Policies: replication.Policies{"": {Every: time.Second}}, List: 500 * time.Millisecond, Ramp: time.Millisecond,
			Expire: func(context.Context, dr.ProtectionID) ([]dr.PointID, error) { return nil, nil },
			Replicate: func(ctx context.Context, id dr.ProtectionID, _ replication.KeepOptions) (replication.Report, error) {
				began := time.Now()
				ctx = context.WithoutCancel(ctx)
				if err := h.touch(ctx, id); err != nil {
					return replication.Report{}, err
				}
				time.Sleep(300 * time.Millisecond)
				if err := h.touch(ctx, id); err != nil {
					return replication.Report{}, err
				}
				p, err := env.Amend(ctx, id, func(p *dr.Protection) error {
					p.Last, p.Upkeep = dr.Point{ID: replication.CycleName(began), Time: began}, dr.Upkeep{}
					return nil
				})
				return replication.Report{Point: p.Last}, err
			}}})
	if err != nil {
		return err
	}
	return worker.Run(context.Background())
}

// Workers in processes of their own are stopped in the middle of their cycles,
// others take over, and they wake. Whatever they then try is refused: of each shard
// no effect is seen under an epoch after one of a higher epoch.
func TestAStoppedWorkerWakesFenced(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	w := world{t.TempDir()}
	const machines = 18
	const patience = 2 * time.Minute // on a machine that does much else
	require.NoError(t, w.with(func(s *shared) error {
		for i := range machines {
			id := dr.ProtectionID(fmt.Sprintf("vm-%02d", i))
			p := replication.New(id, dr.Place{Site: "berlin", Machine: dr.MachineID(id)}, "bonn")
			p.State, p.Version = dr.Protected, 1
			p.Last = dr.Point{ID: "seed", Time: time.Now()}
			s.Records[id] = p
		}
		return nil
	}))
	exe, err := os.Executable()
	require.NoError(t, err)
	var procs []*exec.Cmd
	for i := range 3 {
		c := exec.Command(exe, "-test.run", "^$")
		c.Env = append(os.Environ(), stallWorker+"="+w.dir, stallWorker+fmt.Sprintf("_NAME=w%d", i))
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		c.Stderr = os.Stderr
		require.NoError(t, c.Start())
		procs = append(procs, c)
		go func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "ended") {
					fmt.Println(lines.Text())
				}
			}
		}()
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	}
	look := func() (s shared) {
		require.NoError(t, w.with(func(now *shared) error {
			s = shared{Records: now.Records, Effects: now.Effects, Fenced: now.Fenced}
			return nil
		}))
		return s
	}
	holders := func() map[string]int {
		v, err := w.View(t.Context())
		require.NoError(t, err)
		m := map[string]int{}
		for _, st := range fleet.Table(fleet.Layout{Shards: 6}, v) {
			m[st.Name]++
		}
		return m
	}
	require.Eventually(t, func() bool { return maps.Equal(holders(), map[string]int{"w0": 2, "w1": 2, "w2": 2}) }, patience, 50*time.Millisecond)
	fencedRounds := 0
	for round := 0; round < 8 && fencedRounds < 2; round++ {
		victim := rnd.IntN(len(procs))
		before := look()
		// Only between its visits, so that it doesn't keep the others out.
		require.NoError(t, w.with(func(*shared) error { return procs[victim].Process.Signal(syscall.SIGSTOP) }))
		name := fmt.Sprint("w", victim)
		require.Eventually(t, func() bool { h := holders(); return h[name] == 0 && h[""] == 0 }, patience, 50*time.Millisecond)
		// Those who took over have done something.
		n := len(look().Effects)
		require.Eventually(t, func() bool { return len(look().Effects) > n+machines }, patience, 50*time.Millisecond)
		require.NoError(t, procs[victim].Process.Signal(syscall.SIGCONT))
		require.Eventually(t, func() bool { h := holders(); return h[name] == 2 && h[""] == 0 }, patience, 50*time.Millisecond)
		if look().Fenced > before.Fenced {
			fencedRounds++
		}
	}
	s := look()
	require.Positive(t, s.Fenced, "a worker was stopped in the middle of a cycle, and tried to go on")
	high := map[fleet.Shard]uint64{}
	for i, e := range s.Effects {
		require.GreaterOrEqual(t, e.Epoch, high[e.Shard], "effect %d: %+v", i, e)
		high[e.Shard] = e.Epoch
	}
	now := time.Now()
	require.Eventually(t, func() bool {
		for _, p := range look().Records {
			if p.Last.Time.Before(now) {
				return false
			}
		}
		return true
	}, patience, 50*time.Millisecond, "all machines are kept in the end")
	t.Logf("%d effects, %d refused", len(s.Effects), s.Fenced)
}

package transfer

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// watch notes what two schedulers do with the same machines.
type watch struct {
	mu      sync.Mutex
	cycling map[dr.MachineID]string // who captures it
	doubled []string
	failed  []string
	oldest  map[dr.ProtectionID]time.Duration // worst age of a newest point, while settled
	ended   map[string]int
	stopped int
}

func (w *watch) enter(id dr.MachineID, who string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if by := w.cycling[id]; by != "" {
		w.doubled = append(w.doubled, fmt.Sprintf("%s: by %s and %s", id, by, who))
	}
	w.cycling[id] = who
}

func (w *watch) leave(id dr.MachineID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cycling[id] = ""
}

func (w *watch) observe(who string) func(scheduler.Event) {
	return func(e scheduler.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch e.Kind {
		case scheduler.Ended:
			w.ended[who]++
			w.oldest[e.Protection] = max(w.oldest[e.Protection], e.RPO)
		case scheduler.Stopped:
			w.stopped++
		case scheduler.Failed:
			w.failed = append(w.failed, fmt.Sprintf("%s by %s: %v", e.Protection, who, e.Err))
		}
	}
}

// slow takes a minute and a half for each capture, unless it is stopped.
type slow struct {
	backend.Backend
	who string
	w   *watch
}

func (s slow) Unwrap() any { return s.Backend }

func (s slow) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	s.w.enter(id, s.who)
	defer s.w.leave(id)
	select {
	case <-time.After(90 * time.Second):
		return s.Backend.Capture(ctx, id, name, want)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestMoveUnderSchedulers moves sixteen machines, one after another, from a
// process that replicates them to another that does from then on. No machine is
// replicated by both at once, none gets older than an interval and a little, and
// a cycle that was under way is not lost.
func TestMoveUnderSchedulers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const machines, every, disk = 16, 5 * time.Minute, 1 << 20
		home, store := memory.New(memory.Options{Site: "home"}), memstore.New(memstore.Options{})
		away := replication.Site{Backend: memory.New(memory.Options{Site: "away"}), Points: store}
		here, there := inMemory(), inMemory()
		from := Leaving(here)
		w := &watch{cycling: map[dr.MachineID]string{}, oldest: map[dr.ProtectionID]time.Duration{}, ended: map[string]int{}}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		// The old one looks seldom at what there is, the new one often.
		start := func(who string, records dr.Records, look time.Duration) *replication.Env {
			env := &replication.Env{Records: records, Sites: replication.Sites{
				"home": {Backend: slow{home, who, w}, Points: memstore.New(memstore.Options{})}, "away": away}}
			s, err := scheduler.New(env, scheduler.Options{Policies: replication.Policies{"": {Every: every}}, List: look, Ramp: time.Second, Observe: w.observe(who)})
			require.NoError(t, err)
			running.Go(func() { _ = s.Run(ctx) })
			return env
		}
		for i := range machines {
			id := dr.MachineID(fmt.Sprint("vm", i))
			require.NoError(t, home.Add(dr.Machine{ID: id, Power: dr.On, Disks: []dr.Disk{{ID: "d", Size: disk}}}))
			p := replication.New(dr.ProtectionID("p-"+id), dr.Place{Site: "home", Machine: id}, "away")
			p.State = dr.Protected
			save(t, from, p)
		}
		running.Go(func() { // guests go on writing
			for n := byte(1); ctx.Err() == nil; n++ {
				for i := range machines {
					block := make([]byte, disk/2)
					for j := range block {
						block[j] = n + byte(j>>12)
					}
					if err := home.Write(dr.MachineID(fmt.Sprint("vm", i)), "d", block, 0); err != nil {
						t.Errorf("%v", err)
					}
				}
				time.Sleep(time.Minute)
			}
		})
		env := start("old", from, 2*time.Minute)
		start("new", there, 2*time.Second)
		time.Sleep(30 * time.Minute)
		w.mu.Lock()
		require.Zero(t, w.ended["new"])
		before := w.ended["old"]
		clear(w.oldest) // the first points
		w.mu.Unlock()
		require.Greater(t, before, machines)

		// One is held by a run for a while.
		_, err := env.Amend(ctx, "p-vm7", func(p *dr.Protection) error { p.Run = "drill"; return nil })
		require.NoError(t, err)
		time.AfterFunc(90*time.Second, func() {
			_, err := env.Amend(context.Background(), "p-vm7", func(p *dr.Protection) error { p.Run = ""; return nil })
			require.NoError(t, err)
		})
		report, err := Move(ctx, from, there, Options{To: "new", Hold: env.Hold, Wait: 5 * time.Second,
			Each: func(dr.ProtectionID) { time.Sleep(3 * time.Second) }})
		require.NoError(t, err)
		require.Equal(t, machines, report.Moved)
		time.Sleep(20 * time.Minute)
		w.mu.Lock()
		old := w.ended["old"]
		w.mu.Unlock()
		time.Sleep(20 * time.Minute)
		stop()
		running.Wait()

		require.Empty(t, w.doubled)
		require.Empty(t, w.failed)
		require.Equal(t, old, w.ended["old"], "the old process does nothing any more")
		require.Greater(t, w.ended["new"], 4*machines)
		worst := time.Duration(0)
		for id, age := range w.oldest {
			worst = max(worst, age)
			require.Less(t, age, every*3/2, id)
		}
		t.Logf("%d cycles by the old process, %d by the new, %d stopped; no point older than %v at an interval of %v", w.ended["old"], w.ended["new"], w.stopped, worst, every)
		require.Len(t, w.oldest, machines)
		for id := range w.oldest {
			p, err := there.Load(t.Context(), id)
			require.NoError(t, err)
			left, err := here.Load(t.Context(), id)
			require.NoError(t, err)
			require.True(t, p.Last.Time.After(left.Last.Time))
		}
	})
}

package failover_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A lost site doesn't refuse: it says nothing. An unplanned failover with all
// it can be asked for goes on, in bounded time, whatever call is the first that
// isn't answered.
func TestLostSiteDoesNotHoldAFailoverUp(t *testing.T) {
	for lost := 1; ; lost++ {
		answered := 0
		synctest.Test(t, func(t *testing.T) {
			hq, away := memory.New(memory.Options{}), memory.New(memory.Options{})
			require.NoError(t, hq.Add(dr.Machine{ID: "vm1", Power: dr.On, Disks: []dr.Disk{{ID: "a", Size: 1 << 20}}}))
			require.NoError(t, hq.Write("vm1", "a", []byte("first"), 0))
			var mu sync.Mutex
			silent := false
			n := 0
			env := &replication.Env{Records: &oneRecord{}, Sites: replication.Sites{
				"hq": {Points: memstore.New(memstore.Options{}), Backend: backendtest.Wrap(hq, func(ctx context.Context, c backendtest.Call, do func() error) error {
					mu.Lock()
					if silent && c.Op != backendtest.OpClose {
						n++
					}
					dead := silent && n >= lost
					mu.Unlock()
					if dead && c.Op != backendtest.OpClose {
						<-ctx.Done()
						return ctx.Err()
					}
					return do()
				})},
				"away": {Points: memstore.New(memstore.Options{}), Backend: away},
			}}
			acts, err := dr.Merge(replication.Actions(env), failover.Actions(env))
			require.NoError(t, err)
			p, err := env.Records.Save(t.Context(), replication.New("p", dr.Place{Site: "hq", Machine: "vm1"}, "away"))
			require.NoError(t, err)
			plan, err := replication.Protect(p)
			require.NoError(t, err)
			drive(t, acts, "protect", plan)

			silent = true
			p, err = env.Records.Load(t.Context(), "p")
			require.NoError(t, err)
			plan, err = failover.Unplanned(p, failover.Options{Shutdown: true})
			require.NoError(t, err)
			began := time.Now()
			drive(t, acts, "out", plan)
			require.Less(t, time.Since(began), 25*time.Minute, "lost from call %d on", lost)
			if lost == 1 {
				require.LessOrEqual(t, time.Since(began), 4*failover.LookTimeout, "lost from the beginning")
			}
			p, err = env.Records.Load(t.Context(), "p")
			require.NoError(t, err)
			require.Equal(t, dr.FailedOver, p.State)
			m, err := away.Machine(t.Context(), p.Active.Machine)
			require.NoError(t, err)
			require.Equal(t, dr.On, m.Power)
			answered = n
		})
		if answered < lost {
			break
		}
	}
}

// drive runs a plan as an engine would, each step once, in this goroutine: so
// that time is the bubble's.
func drive(t *testing.T, acts dr.Actions, id dr.RunID, p dr.Plan) {
	r := dr.NewRun(id, p)
	at := func() time.Time { return time.Now() }
	require.NoError(t, r.Apply(dr.Event{Kind: dr.EventClaimed, At: at()}))
	for !r.Ended() {
		task := r.Next()[0]
		if task.Kind == dr.TaskRelease {
			require.NoError(t, r.Apply(dr.Event{Kind: dr.EventReleased, At: at()}))
			break
		}
		begun := task.Begin(at())
		require.NoError(t, r.Apply(begun))
		call := r.Call(task, begun.Attempt)
		ctx, cancel := context.WithCancel(context.Background())
		var alive *time.Timer
		if task.Step.Timeout > 0 {
			time.AfterFunc(task.Step.Timeout, cancel)
		}
		if s := task.Step.Silence; s > 0 {
			alive = time.AfterFunc(s, cancel)
			call.Beat = func(dr.Progress) { alive.Reset(s) }
		}
		res, err := acts.Exec(ctx, task, call)
		cancel()
		if err != nil {
			require.True(t, task.Step.Optional, "step %s: %v", task.Step.ID, err)
		}
		require.NoError(t, r.Apply(begun.End(at(), res, err)))
	}
	require.Equal(t, dr.RunDone, r.Status().State)
}

// oneRecord keeps one protection.
type oneRecord struct {
	mu  sync.Mutex
	raw []byte
}

func (o *oneRecord) Load(context.Context, dr.ProtectionID) (p dr.Protection, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	err = json.Unmarshal(o.raw, &p)
	return p, err
}

func (o *oneRecord) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p.Version++
	o.raw, _ = json.Marshal(p)
	return p, nil
}

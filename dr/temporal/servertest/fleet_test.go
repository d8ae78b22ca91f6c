package servertest

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal/temporalfleet"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// site is where the workers' cycles act: it refuses what is fenced, and notes two
// that act for one shard at a time.
type site struct {
	mu      sync.Mutex
	all     map[dr.ProtectionID]dr.Protection
	highest map[string]uint64
	acting  map[string]string
	wrong   []string
	aborted int
}

func (s *site) Load(_ context.Context, id dr.ProtectionID) (dr.Protection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id], nil
}

func (s *site) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[p.ID].Version != p.Version {
		return p, dr.ErrConflict
	}
	p.Version++
	s.all[p.ID] = p
	return p, nil
}

func (s *site) Protections(context.Context) iter.Seq2[dr.Protection, error] {
	s.mu.Lock()
	all := maps.Clone(s.all)
	s.mu.Unlock()
	return func(yield func(dr.Protection, error) bool) {
		for _, id := range slices.Sorted(maps.Keys(all)) {
			if !yield(all[id], nil) {
				return
			}
		}
	}
}

// act is what a cycle does.
func (s *site) act(ctx context.Context, worker string, took time.Duration) error {
	for resource, epoch := range dr.Fences(ctx) {
		who := fmt.Sprintf("%s under %d", worker, epoch)
		s.mu.Lock()
		if epoch < s.highest[resource] {
			s.mu.Unlock()
			return dr.ErrFenced
		}
		if other := s.acting[resource]; other != "" && s.highest[resource] != epoch {
			s.wrong = append(s.wrong, fmt.Sprintf("%s: %s, and %s acts still", resource, who, other))
		}
		s.highest[resource], s.acting[resource] = epoch, who
		s.mu.Unlock()
		select {
		case <-time.After(took):
		case <-ctx.Done():
		}
		s.mu.Lock()
		if s.acting[resource] == who {
			delete(s.acting, resource)
		}
		if ctx.Err() != nil {
			s.aborted++
		}
		s.mu.Unlock()
	}
	return ctx.Err()
}

// member is a worker with a connection that can be cut.
type member struct {
	*temporalfleet.Worker
	cut   atomic.Bool
	stop  context.CancelFunc
	ended chan error
}

func (s *site) start(t *testing.T, o temporalfleet.Options) *member {
	m := &member{ended: make(chan error, 1)}
	c, err := client.Dial(client.Options{HostPort: server.GetFrontendHostPort(), Namespace: server.GetDefaultNamespace(), Logger: slog.New(slog.DiscardHandler),
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if m.cut.Load() {
					return status.Error(codes.Unavailable, "cut off")
				}
				return invoke(ctx, method, req, reply, cc, opts...)
			})}}})
	require.NoError(t, err)
	env := &replication.Env{Records: fleet.Guard(s)}
	o.Scheduler = scheduler.Options{Policies: replication.Policies{"": {Every: time.Second}}, List: time.Second, Ramp: time.Millisecond,
		Expire: func(context.Context, dr.ProtectionID) ([]dr.PointID, error) { return nil, nil },
		Replicate: func(ctx context.Context, id dr.ProtectionID, _ replication.KeepOptions) (replication.Report, error) {
			began := time.Now()
			if err := s.act(ctx, o.Name, 300*time.Millisecond); err != nil {
				return replication.Report{}, err
			}
			p, err := env.Amend(ctx, id, func(p *dr.Protection) error {
				p.Last, p.Upkeep = dr.Point{ID: "p", Time: began}, dr.Upkeep{}
				return nil
			})
			return replication.Report{Point: p.Last}, err
		}}
	m.Worker, err = temporalfleet.New(c, env, o)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	go func() { m.ended <- m.Run(ctx); c.Close() }()
	return m
}

func TestAFleetOnTemporal(t *testing.T) {
	t.Parallel()
	s := &site{all: map[dr.ProtectionID]dr.Protection{}, highest: map[string]uint64{}, acting: map[string]string{}}
	for i := range 24 {
		id := dr.ProtectionID(fmt.Sprintf("vm-%02d", i))
		p := replication.New(id, dr.Place{Site: "berlin", Machine: dr.MachineID(id)}, "bonn")
		p.State, p.Last = dr.Protected, dr.Point{ID: "seed", Time: time.Now()}
		s.all[id] = p
	}
	o := temporalfleet.Options{Queue: t.Name(), Layout: fleet.Layout{Shards: 8}, Heartbeat: 3 * time.Second, Balance: 500 * time.Millisecond, Finish: 2 * time.Second}
	named := func(name string) temporalfleet.Options { o := o; o.Name = name; return o }
	console := server.GetDefaultClient()
	shares := func() map[string]int {
		all, err := temporalfleet.Shards(t.Context(), console, o)
		require.NoError(t, err)
		m := map[string]int{}
		for _, st := range all {
			m[st.Name]++
		}
		return m
	}
	await := func(want map[string]int) {
		t.Helper()
		require.Eventually(t, func() bool { return maps.Equal(shares(), want) }, time.Minute, 100*time.Millisecond, "want %v", want)
	}
	kept := func(within time.Duration) {
		t.Helper()
		require.Eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, p := range s.all {
				if time.Since(p.Last.Time) > within {
					return false
				}
			}
			return true
		}, time.Minute, 100*time.Millisecond)
	}
	a := s.start(t, named("a"))
	await(map[string]int{"a": 8})
	kept(3 * time.Second)
	b := s.start(t, named("b"))
	await(map[string]int{"a": 4, "b": 4})
	kept(3 * time.Second)

	// One is cut off: it stops, then the other has all.
	began := time.Now()
	b.cut.Store(true)
	await(map[string]int{"a": 8})
	t.Logf("taken over within %v of a cut, at a heartbeat of %v", time.Since(began).Round(time.Millisecond), o.Heartbeat)
	kept(3 * time.Second)
	require.Empty(t, b.Keeper().Summaries())
	b.cut.Store(false)
	await(map[string]int{"a": 4, "b": 4})

	// One ends gracefully: no cycle is stopped for that.
	s.mu.Lock()
	aborted := s.aborted
	s.mu.Unlock()
	a.stop()
	require.ErrorIs(t, <-a.ended, context.Canceled)
	await(map[string]int{"b": 8})
	kept(3 * time.Second)
	s.mu.Lock()
	require.Equal(t, aborted, s.aborted)
	require.Empty(t, s.wrong)
	s.mu.Unlock()
	b.stop()
	<-b.ended
	require.NoError(t, temporalfleet.Retire(t.Context(), console, o))
	await(map[string]int{"": 8})
}

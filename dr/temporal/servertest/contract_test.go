package servertest

import (
	"context"
	"fmt"
	"path/filepath"
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
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// link is a connection to the server that can be cut.
type link struct {
	mu   sync.RWMutex
	dead bool
	ctx  context.Context
	cut  context.CancelFunc
}

func newLink() *link {
	l := &link{}
	l.ctx, l.cut = context.WithCancel(context.Background())
	return l
}

// kill cuts it: when it returns nothing more comes to the server.
func (l *link) kill() {
	l.cut()
	l.mu.Lock() // waits for calls under way
	l.dead = true
	l.mu.Unlock()
}

func (l *link) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.dead {
		return status.Error(codes.PermissionDenied, "the process is dead")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	return invoke(ctx, method, req, reply, cc, opts...)
}

func (l *link) dial(t enginetest.T) client.Client {
	c, err := client.Dial(client.Options{HostPort: server.GetFrontendHostPort(), Namespace: server.GetDefaultNamespace(),
		Logger: quiet{}, ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.intercept)}}})
	require.NoError(t, err)
	return c
}

type quiet struct{}

func (quiet) Debug(string, ...any)        {}
func (quiet) Info(string, ...any)         {}
func (quiet) Warn(string, ...any)         {}
func (quiet) Error(msg string, kv ...any) { fmt.Println(msg, kv) }

// state is the runs of one queue on the server.
type state struct {
	t    enginetest.T
	o    temporal.Options
	link *link
	c    client.Client
	e    *temporal.Engine
}

var queues atomic.Int64

func newState(t enginetest.T, o temporal.Options) *state {
	o.BackoffFirst, o.BackoffMost = time.Millisecond, 4*time.Millisecond
	o.Heartbeat = time.Second
	o.Queue = fmt.Sprintf("q%d", queues.Add(1))
	if o.Claims == nil {
		o.Claims = newClaims(t)
	}
	return &state{t: t, o: o}
}

func newClaims(t enginetest.T) dr.Claims {
	e, err := embedded.Open(filepath.Join(t.TempDir(), "claims"), embedded.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

func (s *state) Open() (o dr.Orchestrator, err error) {
	s.link = newLink()
	s.c = s.link.dial(s.t)
	if s.e, err = temporal.Open(s.c, s.o); err != nil {
		return nil, err
	}
	return polite{s.e, s.o.Queue}, nil
}

// polite asks for the status no more often than a console would. The suite asks
// each millisecond, which keeps a small machine from doing anything else.
type polite struct {
	*temporal.Engine
	q string
}

func (p polite) Status(ctx context.Context, id dr.RunID) (dr.Status, error) {
	time.Sleep(25 * time.Millisecond)
	start := time.Now()
	st, err := p.Engine.Status(ctx, id)
	if time.Since(start) > 3*time.Second {
		p.dump(p.q, id, start)
	}
	return st, err
}

func (s *state) Kill() {
	if s.e != nil {
		s.link.kill()
		s.e.Close()
		s.c.Close()
	}
}

// Patience: a death is noticed after a heartbeat's time.
func (s *state) Patience() time.Duration { return 90 * time.Second }

func TestContract(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t enginetest.T) enginetest.State {
		t.(*testing.T).Parallel()
		return newState(t, temporal.Options{})
	})
}

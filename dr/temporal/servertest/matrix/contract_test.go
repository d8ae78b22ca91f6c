package matrix

import (
	"context"
	"fmt"
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
	"github.com/lifeboat-dr/lifeboat/dr/claims"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
	"github.com/lifeboat-dr/lifeboat/internal/temporalserver"
)

// state is the runs of one queue on a server of many.
type state struct {
	t       enginetest.T
	address string
	queue   string
	codec   *temporal.Codec
	dir     string

	c    client.Client
	e    *temporal.Engine
	mu   sync.RWMutex // held by calls under way
	dead bool
	cut  context.CancelFunc
}

func (s *state) Open() (dr.Orchestrator, error) {
	var ctx context.Context
	ctx, s.cut = context.WithCancel(context.Background())
	s.dead = false
	var err error
	s.c, err = temporal.Connect(s.t.Context(), temporal.ConnectOptions{Address: s.address, Codec: s.codec, DialTimeout: patience,
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(call context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				s.mu.RLock()
				defer s.mu.RUnlock()
				if s.dead {
					return status.Error(codes.PermissionDenied, "the process is dead")
				}
				call, cancel := context.WithCancel(call)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				return invoke(call, method, req, reply, cc, opts...)
			})}})
	if err != nil {
		return nil, err
	}
	s.e, err = temporal.Open(s.c, temporal.Options{Claims: claims.NewDir(s.dir, claims.Options{}), Queue: s.queue, Heartbeat: 3 * heartbeat,
		BackoffFirst: time.Millisecond, BackoffMost: 4 * time.Millisecond, Converter: s.codec.DataConverter()})
	return s.e, err
}

// Kill lets nothing come to the server any more when it returns.
func (s *state) Kill() {
	if s.e == nil {
		return
	}
	s.cut()
	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
	s.e.Close()
	s.c.Close()
}

// Patience: a death is noticed after a heartbeat's time.
func (s *state) Patience() time.Duration { return patience }

// The whole contract on a server as it is installed: PostgreSQL below, and
// payloads sealed.
func TestContractOnPostgreSQL(t *testing.T) {
	if !long() {
		t.Skip("minutes; LIFEBOAT_LONG=1 runs it, and the same contract is kept on a server within the process")
	}
	server := temporalserver.Start(t, temporalserver.Options{})
	codec, err := temporal.NewCodec(temporal.CodecOptions{Keys: []temporal.Key{{ID: "k", Secret: make([]byte, 32)}}})
	require.NoError(t, err)
	var queues atomic.Int64
	begun := time.Now()
	t.Run("all", func(t *testing.T) {
		enginetest.Run(t, func(t enginetest.T) enginetest.State {
			t.(*testing.T).Parallel()
			return &state{t: t, address: server.Address, queue: fmt.Sprint("q", queues.Add(1)), codec: codec, dir: t.TempDir()}
		})
	})
	t.Logf("%v; the server used %v of CPU", time.Since(begun), server.CPU())
}

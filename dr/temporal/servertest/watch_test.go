package servertest

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// Who watches a run in which nothing happens doesn't have its workflow asked
// again and again, and sees all the same what happens then.
func TestWatchAsksLittle(t *testing.T) {
	t.Parallel()
	var queries, looks atomic.Int64
	c, err := client.Dial(client.Options{HostPort: server.GetFrontendHostPort(), Namespace: server.GetDefaultNamespace(), Logger: quiet{},
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				switch {
				case strings.HasSuffix(method, "/QueryWorkflow"):
					queries.Add(1)
				case strings.HasSuffix(method, "/DescribeWorkflowExecution"):
					looks.Add(1)
				}
				return invoke(ctx, method, req, reply, cc, opts...)
			})}}})
	require.NoError(t, err)
	defer c.Close()
	e, err := temporal.Open(c, temporal.Options{Claims: newClaims(t), Queue: t.Name()})
	require.NoError(t, err)
	defer e.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	plan := dr.Plan{Flow: "watched", Locks: []string{"m/" + t.Name()}, Steps: []dr.Step{{ID: "ask", Gate: "Go on?"}}}
	require.NoError(t, e.Start(ctx, "watched", plan))

	decided := false
	var last dr.Status
	for s, err := range e.Watch(ctx, "watched") {
		require.NoError(t, err)
		if last = s; s.State != dr.RunWaiting || decided {
			continue
		}
		decided = true
		go func() {
			for asked, seen := queries.Load(), looks.Load(); looks.Load() < seen+6; time.Sleep(10 * time.Millisecond) {
				if ctx.Err() != nil || queries.Load() > asked+2 {
					break
				}
			}
			_ = e.Decide(ctx, "watched", "ask", dr.Decision{Verdict: dr.Approve, By: "test"})
		}()
	}
	require.Equal(t, dr.RunDone, last.State)
	require.Greater(t, looks.Load(), int64(6))
	require.LessOrEqual(t, queries.Load(), int64(4), "of %d looks", looks.Load())
}

package servertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

const forgetfulEnv = "LIFEBOAT_TEST_FORGETFUL_DRIVER"

func init() { children[forgetfulEnv] = forgetfulDriver }

// answers are what a driver said to those who asked it.
type answers struct {
	Asked   int64 // queries answered by a driver itself
	Refused int64 // of them, for non-determinism
	Failed  int64 // workflow tasks, for whatever reason
}

// A driver that is asked about a run which it doesn't remember reads its
// history. The SDK reads more of it than it was asked about, if the run goes on
// meanwhile, and takes what it reads for non-determinism (TMPRL1100). Only the
// answer fails, never the run, and who asks an Engine doesn't see it.
//
// If nothing is refused here the SDK has learned it.
func TestAskedOfWhatIsForgotten(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(life{server.GetFrontendHostPort(), server.GetDefaultNamespace(), fmt.Sprintf("asked%d", queues.Add(1)), t.TempDir()})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), forgetfulEnv+"="+string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var a answers
	require.NoError(t, json.Unmarshal(out, &a), "%s", out)
	t.Logf("%+v", a)
	require.Positive(t, a.Refused)
	require.Zero(t, a.Failed)
}

// forgetfulDriver drives a few runs, remembers none, is slow to read a history
// now and then, and asks itself about its runs all the time.
func forgetfulDriver(raw string) error {
	var l life
	if err := json.Unmarshal([]byte(raw), &l); err != nil {
		return err
	}
	worker.SetStickyWorkflowCacheSize(1) // which it keeps free for the next one
	var asked, refused, failed atomic.Int64
	watch := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		switch r := req.(type) {
		case *workflowservice.RespondQueryTaskCompletedRequest:
			asked.Add(1)
			if strings.Contains(r.GetErrorMessage(), "TMPRL1100") {
				refused.Add(1)
			}
		case *workflowservice.RespondWorkflowTaskFailedRequest:
			failed.Add(1)
		case *workflowservice.GetWorkflowExecutionHistoryRequest:
			if rand.IntN(10) == 0 {
				time.Sleep(300 * time.Millisecond)
			}
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	c, err := client.Dial(client.Options{HostPort: l.HostPort, Namespace: l.Namespace, Logger: quiet{},
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(watch)}}})
	if err != nil {
		return err
	}
	defer c.Close()
	claims, err := embedded.Open(filepath.Join(l.Dir, "claims"), embedded.Options{})
	if err != nil {
		return err
	}
	defer claims.Close()
	e, err := temporal.Open(c, temporal.Options{Claims: claims, Queue: l.Queue})
	if err != nil {
		return err
	}
	defer e.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	nothing := func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }
	go func() { served <- e.Serve(ctx, dr.Actions{"do@1": nothing, "undo@1": nothing}) }()
	// It is a matter of chance, and mostly happens some ten times.
	for n := 0; n < 20 && err == nil && refused.Load() == 0; n += 4 {
		var wg sync.WaitGroup
		ended := make([]error, 4)
		for i := range ended {
			wg.Go(func() { ended[i] = startAndAsk(ctx, e, n+i) })
		}
		wg.Wait()
		err = errors.Join(ended...)
	}
	cancel()
	<-served
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answers{asked.Load(), refused.Load(), failed.Load()})
}

// startAndAsk starts run i, of many short steps, and asks how far it is until
// it has ended.
func startAndAsk(ctx context.Context, e *temporal.Engine, i int) error {
	p := dr.Plan{Flow: "asked", Locks: []string{fmt.Sprint("m", i)}, Steps: []dr.Step{do("s0")}}
	for s := 1; s < 30; s++ {
		p.Steps = append(p.Steps, do(fmt.Sprint("s", s), fmt.Sprint("s", s-1)))
	}
	id := dr.RunID(fmt.Sprint("r", i))
	if err := e.Start(ctx, id, p); err != nil {
		return err
	}
	for {
		s, err := e.Status(ctx, id)
		if err != nil {
			return err
		}
		if s.State.Ended() {
			if s.State != dr.RunDone {
				return fmt.Errorf("run %s: %s: %s", id, s.State, s.Reason)
			}
			return nil
		}
	}
}

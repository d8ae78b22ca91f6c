//go:build unix

package servertest

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

var kills = flag.Int("kills", 3, "how often TestSIGKILL kills a process")

// childEnv tells the test binary to be the process that is killed.
const childEnv = "LIFEBOAT_TEST_KILLED_WORKER"

// work is what the process does: four runs of five steps.
func (l life) work() enginetest.Killed {
	return enginetest.Killed{Dir: l.Dir, Runs: 4, Steps: 5, Pause: 200 * time.Millisecond}
}

func init() { children[childEnv] = killedChild }

// killedChild drives and serves until all runs have ended.
func killedChild(raw string) error {
	var l life
	if err := json.Unmarshal([]byte(raw), &l); err != nil {
		return err
	}
	claims, err := embedded.Open(filepath.Join(l.Dir, "claims"), embedded.Options{})
	if err != nil {
		return err
	}
	defer claims.Close()
	c, err := client.Dial(client.Options{HostPort: l.HostPort, Namespace: l.Namespace, Logger: quiet{}})
	if err != nil {
		return err
	}
	defer c.Close()
	e, err := temporal.Open(c, temporal.Options{Claims: claims, Queue: l.Queue, BackoffFirst: time.Millisecond, Heartbeat: 3 * time.Second})
	if err != nil {
		return err
	}
	defer e.Close()
	return l.work().Work(context.Background(), e, func() { fmt.Println("up") })
}

// TestSIGKILL kills a process that drives and serves, at random moments, until
// it has done its work, and then looks at what it left. Its deaths are noticed
// by the server, by nobody else.
func TestSIGKILL(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	l := life{server.GetFrontendHostPort(), server.GetDefaultNamespace(), fmt.Sprintf("killed%d", queues.Add(1)), t.TempDir()}
	raw, err := json.Marshal(l)
	require.NoError(t, err)
	done := false
	for n := 0; !done; n++ {
		require.Less(t, n, *kills+3, "it doesn't come to an end")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err, "it comes up")
		if n < *kills {
			time.AfterFunc(time.Duration(100+rng.IntN(1500))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		err = cmd.Wait()
		cancel()
		if done = err == nil; !done {
			require.ErrorContains(t, err, "killed")
		}
	}
	claims, err := embedded.Open(filepath.Join(l.Dir, "claims"), embedded.Options{})
	require.NoError(t, err)
	defer claims.Close()
	e, err := temporal.Open(server.GetDefaultClient(), temporal.Options{Claims: claims, Queue: l.Queue})
	require.NoError(t, err)
	defer e.Close()
	l.work().Check(t, e, claims)
	n := 0
	for _, err := range e.Runs(t.Context()) {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, l.work().Runs, n)
}

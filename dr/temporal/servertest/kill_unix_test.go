//go:build unix

package servertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

var kills = flag.Int("kills", 3, "how often TestSIGKILL kills a process")

// childEnv tells the test binary to be the process that is killed.
const childEnv = "LIFEBOAT_TEST_KILLED_WORKER"

const killedRuns, killedSteps = 4, 5

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
	acts := dr.Actions{"do": record(l.Dir), "undo": record(l.Dir), "fail": func(context.Context, *dr.Call) (json.RawMessage, error) {
		return nil, dr.Permanent(errors.New("broken"))
	}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, acts) }()
	fmt.Println("up") // now it may be killed
	for i := range killedRuns {
		id := dr.RunID(fmt.Sprint("r", i))
		if err := e.Start(ctx, id, killPlan(i)); err != nil && !errors.Is(err, dr.ErrRunExists) {
			return err
		}
	}
	for i := range killedRuns {
		if _, err := dr.Wait(ctx, e, dr.RunID(fmt.Sprint("r", i)), nil); err != nil {
			return err
		}
	}
	cancel()
	<-served
	return nil
}

// record is an action whose effect is a file named after its key.
func record(dir string) dr.Action {
	return func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		select { // take a little time, so that kills hit in the middle
		case <-time.After(time.Duration(rand.IntN(200)) * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		f, err := os.OpenFile(filepath.Join(dir, "effects", url.PathEscape(c.Key)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return nil, f.Close()
	}
}

func killPlan(i int) dr.Plan {
	p := dr.Plan{Flow: "killed", Locks: []string{fmt.Sprint("m", i)}}
	for s := range killedSteps {
		st := dr.Step{ID: fmt.Sprint("s", s), Action: "do", Undo: "undo"}
		if s > 0 {
			st.After = []string{fmt.Sprint("s", (s-1)/2)}
		}
		p.Steps = append(p.Steps, st)
	}
	if last := &p.Steps[killedSteps-1]; i%2 == 1 {
		last.Action, last.After = "fail", []string{"s1", "s2", "s3"}
	}
	return p
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
	require.NoError(t, os.Mkdir(filepath.Join(l.Dir, "effects"), 0o700))
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
	entries, err := os.ReadDir(filepath.Join(l.Dir, "effects"))
	require.NoError(t, err)
	var got, want []string
	for _, e := range entries {
		key, err := url.PathUnescape(e.Name())
		require.NoError(t, err)
		got = append(got, key)
	}
	for i := range killedRuns {
		for s := range killedSteps {
			key := dr.StepKey(dr.RunID(fmt.Sprint("r", i)), fmt.Sprint("s", s), false)
			if i%2 == 0 || s != killedSteps-1 {
				want = append(want, key)
			}
			if i%2 == 1 {
				want = append(want, strings.TrimSuffix(key, "/undo")+"/undo")
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	require.Equal(t, want, got, "effects")
	e, err := temporal.Open(server.GetDefaultClient(), temporal.Options{Claims: newClaims(t), Queue: l.Queue})
	require.NoError(t, err)
	defer e.Close()
	n := 0
	for s, err := range e.Runs(t.Context()) {
		require.NoError(t, err)
		end := dr.RunDone
		if s.Run == "r1" || s.Run == "r3" {
			end = dr.RunFailed
		}
		require.Equal(t, end, s.State, s.Reason)
		n++
	}
	require.Equal(t, killedRuns, n)
}

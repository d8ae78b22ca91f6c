//go:build unix

package embedded

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
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var kills = flag.Int("kills", 25, "how often TestSIGKILL kills a process")

// childEnv tells the test binary to be the process that is killed, with its
// state in this folder.
const childEnv = "LIFEBOAT_TEST_KILLED_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child opens the journal, starts the runs that are missing, and serves until
// all have ended.
func child(dir string) error {
	e, err := Open(filepath.Join(dir, "journal"), Options{BackoffFirst: time.Millisecond})
	if err != nil {
		return err
	}
	defer e.Close()
	acts := dr.Actions{"do": record(dir), "undo": record(dir), "fail": func(context.Context, *dr.Call) (json.RawMessage, error) {
		return nil, dr.Permanent(errors.New("broken"))
	}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, acts) }()
	fmt.Println("up") // now it may be killed
	for i := range 6 {
		id := dr.RunID(fmt.Sprint("r", i))
		if err := e.Start(ctx, id, killPlan(i)); err != nil && !errors.Is(err, dr.ErrRunExists) {
			return err
		}
	}
	for i := range 6 {
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
		case <-time.After(time.Duration(rand.IntN(4)) * time.Millisecond):
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
	for s := range 8 {
		st := dr.Step{ID: fmt.Sprint("s", s), Action: "do", Undo: "undo"}
		if s > 0 {
			st.After = []string{fmt.Sprint("s", (s-1)/2)}
		}
		p.Steps = append(p.Steps, st)
	}
	if i%2 == 1 {
		p.Steps[7].Action = "fail"
	}
	return p
}

// TestSIGKILL kills a real process at random moments until it has done its
// work, and then looks at what it left.
func TestSIGKILL(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for round := 0; killed < *kills; round++ {
		dir := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(dir, "effects"), 0o700))
		for life := 0; ; life++ {
			// The last lives are let live, or it might never end.
			after := time.Duration(rng.IntN(60)) * time.Millisecond
			if life >= 8 || killed >= *kills {
				after = time.Minute
			}
			if !killedIn(t, dir, after) {
				break
			}
			killed++
		}
		checkKilled(t, dir)
	}
	t.Logf("%d kills", killed)
}

// killedIn runs the child and kills it some time after it is up, unless it
// ends before.
func killedIn(t *testing.T, dir string, after time.Duration) bool {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	bufio.NewScanner(out).Scan()
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	timer.Stop()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, -1, exit.ExitCode(), "it did not end by itself: %s", stderr.String())
	return true
}

func checkKilled(t *testing.T, dir string) {
	want := map[string]bool{}
	e := open(t, filepath.Join(dir, "journal"), Options{})
	for i := range 6 {
		id := dr.RunID(fmt.Sprint("r", i))
		s, err := e.Status(t.Context(), id)
		require.NoError(t, err)
		for _, st := range killPlan(i).Steps {
			started, _ := s.Step(st.ID)
			if st.Action == "do" && !started.Started.IsZero() {
				want[dr.StepKey(id, st.ID, false)] = true
			}
			if i%2 == 1 && !started.Started.IsZero() {
				want[dr.StepKey(id, st.ID, true)] = true
			}
		}
		if i%2 == 1 {
			require.Equal(t, dr.RunFailed, s.State, s.Reason)
		} else {
			require.Equal(t, dr.RunDone, s.State, s.Reason)
		}
		_, err = e.Acquire(t.Context(), fmt.Sprint("m", i), "check")
		require.NoError(t, err, "the claims were given back")
	}
	got := map[string]bool{}
	files, err := os.ReadDir(filepath.Join(dir, "effects"))
	require.NoError(t, err)
	for _, f := range files {
		k, err := url.PathUnescape(f.Name())
		require.NoError(t, err)
		got[k] = true
	}
	require.Equal(t, want, got)
}

//go:build unix

package embedded

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
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

// work is what the process does: six runs of eight steps.
func work(dir string) enginetest.Killed {
	return enginetest.Killed{Dir: dir, Runs: 6, Steps: 8, Pause: 4 * time.Millisecond}
}

// child opens the journal and works.
func child(dir string) error {
	e, err := Open(filepath.Join(dir, "journal"), Options{BackoffFirst: time.Millisecond})
	if err != nil {
		return err
	}
	defer e.Close()
	return work(dir).Work(context.Background(), e, func() { fmt.Println("up") })
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
		e := open(t, filepath.Join(dir, "journal"), Options{})
		work(dir).Check(t, e, e)
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

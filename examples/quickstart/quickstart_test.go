package main

import (
	"bytes"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var killSeed = flag.Uint64("kill-seed", 0, "seed of the kills; 0: a new one each time")

// build makes the program; e2fsprogs must be there.
func build(t *testing.T) string {
	t.Helper()
	if _, err := e2fs("mke2fs"); err != nil {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	bin := filepath.Join(t.TempDir(), "quickstart")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return bin
}

// whole checks that the program has told the whole story.
func whole(t *testing.T, out string) {
	t.Helper()
	_, table, ok := strings.Cut(out, "STAGE")
	require.True(t, ok, "no table:\n%s", out)
	table, _, _ = strings.Cut(table, "\n\n")
	lines := strings.Split(strings.TrimSpace(table), "\n")[1:]
	require.Len(t, lines, 14)
	verified := 0
	for _, l := range lines {
		if strings.HasSuffix(strings.TrimSpace(l), "yes") {
			verified++
		}
	}
	require.Equal(t, 11, verified, "every stage that moves data is verified:\n%s", table)
}

func TestTheWholeCycle(t *testing.T) {
	bin := build(t)
	dir := filepath.Join(t.TempDir(), "state")
	out, err := exec.Command(bin, "-dir", dir, "-mib", "32").CombinedOutput()
	require.NoError(t, err, "%s", out)
	whole(t, string(out))
	require.NoDirExists(t, dir, "a complete cycle leaves nothing behind")
}

// Killed with -9 at random moments and started again, it goes on and ends the
// same.
func TestKilledAtRandomMoments(t *testing.T) {
	seed := *killSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	bin := build(t)
	dir := filepath.Join(t.TempDir(), "state")
	kills, most := 0, 60
	if testing.Short() {
		most = 10
	}
	for {
		var out bytes.Buffer
		cmd := exec.Command(bin, "-dir", dir, "-mib", "32")
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, cmd.Start())
		kill := func() bool { return false }
		if kills < most {
			timer := time.AfterFunc(time.Duration(20+rnd.IntN(250))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			kill = timer.Stop
		}
		err := cmd.Wait()
		kill()
		if err == nil {
			whole(t, out.String())
			t.Logf("%d kills; repeat with -kill-seed=%d", kills, seed)
			require.Positive(t, kills)
			return
		}
		require.Contains(t, err.Error(), "killed", "seed %d, after %d kills:\n%s", seed, kills, out.String())
		kills++
	}
}

// Two programs on one folder: the second is refused, clearly, and the first
// does not notice.
func TestSecondProgramIsRefused(t *testing.T) {
	bin := build(t)
	dir := filepath.Join(t.TempDir(), "state")
	first := exec.Command(bin, "-dir", dir, "-mib", "32")
	said, err := first.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, first.Start())
	one := make([]byte, 1)
	_, err = io.ReadFull(said, one) // it has told of a step: everything is open
	require.NoError(t, err)
	out, err := exec.Command(bin, "-dir", dir, "-mib", "32").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "busy", "the second says what is wrong")
	rest, err := io.ReadAll(said)
	require.NoError(t, err)
	require.NoError(t, first.Wait())
	whole(t, string(rest))
}

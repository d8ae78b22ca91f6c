package main

import (
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

	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

var killSeed = flag.Uint64("kill-seed", 0, "seed of the kills; 0: a new one each time")

func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "plan")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return bin
}

// The whole story, as a user runs it.
func TestTheStory(t *testing.T) {
	cmd := exec.Command(build(t))
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	raw, err := cmd.CombinedOutput()
	out := string(raw)
	require.NoError(t, err, out)
	require.Equal(t, 3, strings.Count(out, "checked: all six run at"), out)
	require.Equal(t, 2, strings.Count(out, "nothing was lost"), out)
	require.Equal(t, 2, strings.Count(out, "was killed; it is started again"), out)
	require.Contains(t, out, "another process answers: plan decide")
	for _, id := range []string{"db1", "db2", "app1", "app2", "web1", "web2"} {
		require.Regexp(t, id+` +at hq +runs .* sound`, out)
	}
	page, err := os.ReadFile(filepath.Join(temp, "lifeboat-drill.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), ">passed</div>")
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing but the report is left behind")
}

// The program that serves is killed again and again, whenever it may be.
func TestKilledAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("it kills for ten seconds")
	}
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-kill-seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir, err := os.MkdirTemp("", "plan") // short: there are sockets in it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &story{client: client{dir}, program: build(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	sites, err := s.spawn(ctx, "sites", "sites.json")
	require.NoError(t, err)
	defer func() { _ = end(sites) }()
	require.NoError(t, s.serve(ctx))
	defer func() { _ = end(s.serving) }()
	require.NoError(t, s.protect(ctx, t.Output()))

	for _, c := range []struct{ flow, at, left string }{
		{recoveryplan.FlowUnplanned, away, home}, {recoveryplan.FlowCommit, away, ""}, {recoveryplan.FlowReprotect, away, ""}, {recoveryplan.FlowFailback, home, away},
	} {
		run, err := s.start(ctx, c.flow)
		require.NoError(t, err)
		for range 3 {
			time.Sleep(time.Duration(rnd.IntN(700)) * time.Millisecond) // the moment is what is random
			require.NoError(t, s.kill(ctx))
		}
		gate, err := s.watch(ctx, run, t.Output())
		require.NoError(t, err)
		require.Empty(t, gate)
		if c.left != "" {
			require.NoError(t, s.check(ctx, c.at, s.lastAt(ctx, c.left)))
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"-dir", "d", "start"}, {"-dir", "d", "nothing"}, {"-dir", "d", "decide", "a", "b", "no", "more"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			dir, rest := "", args
			if args[0] == "-dir" {
				dir, rest = filepath.Join(t.TempDir(), "d"), args[2:]
			}
			err := run(t.Context(), dir, rest)
			require.ErrorAs(t, err, new(usageError))
		})
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// systemd understands the unit, and the arguments in it are this program's.
func TestUnit(t *testing.T) {
	b, err := os.ReadFile("worker.service")
	require.NoError(t, err)
	const where = "/usr/local/bin/lifeboat-worker"
	var start, more string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "ExecStart="); ok {
			start = s
		}
		if s, ok := strings.CutPrefix(line, `Environment="WORKER_ARGS=`); ok {
			more = strings.TrimSuffix(s, `"`)
		}
	}
	args := strings.Fields(strings.Replace(start, "$WORKER_ARGS", more, 1))
	require.Equal(t, []string{where, "serve"}, args[:2])
	_, err = parseServe(args[2:])
	require.NoError(t, err)

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatal("systemd-analyze is not installed, and LIFEBOAT_REQUIRE=all")
		}
		t.Skip("systemd-analyze is not installed (Debian: systemd)")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	unit := filepath.Join(t.TempDir(), "lifeboat-worker.service")
	require.NoError(t, os.WriteFile(unit, []byte(strings.ReplaceAll(string(b), where, self)), 0o644))
	out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), unit, "it warns of something")
	out, err = exec.Command(analyze, "security", "--offline=yes", "--threshold=20", "--no-pager", unit).CombinedOutput()
	require.NoError(t, err, "%s", out) // at most 2.0: it can do next to nothing
}

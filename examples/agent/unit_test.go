package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// systemd understands the unit, and what the agent is started with is what it takes.
func TestUnit(t *testing.T) {
	b, err := os.ReadFile("agent.service")
	require.NoError(t, err)
	const where = "/usr/local/bin/lifeboat-agent"
	var start string
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			start = s
		}
	}
	args := strings.Fields(start)
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
	unit := filepath.Join(t.TempDir(), "lifeboat-agent.service")
	require.NoError(t, os.WriteFile(unit, []byte(strings.ReplaceAll(string(b), where, self)), 0o644))
	out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), unit, "it warns of something")
}

package fsfreeze

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// hookScript copies one of the examples to a folder of its own, with settings.
func hookScript(t *testing.T, name, settings, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	script, err := os.ReadFile(filepath.Join("../../../examples/agent/hooks", name))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), script, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, settings), []byte(text), 0o600))
	return dir
}

// cluster is a folder that looks like a server's, with programs that say so.
func cluster(t *testing.T, state string) (data, settings string) {
	t.Helper()
	data, bin := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "pg_controldata"),
		fmt.Appendf(nil, "#!/bin/sh\n[ -d \"$1\" ] && echo 'Database cluster state:               %s'\n", state), 0o755))
	return data, fmt.Sprintf("BIN='%s' DATA='%s' OPTIONS= WAIT=20\n", bin, data)
}

// The example that stops PostgreSQL says that no recovery is needed only where it
// knows.
func TestPostgreSQLStopClaimsOnlyWhatItKnows(t *testing.T) {
	for name, c := range map[string]struct {
		state string
		spoil func(data string) error
		more  string
		want  dr.Consistency
	}{
		"cleanly down":        {"shut down", nil, "", dr.ApplicationConsistent},
		"crashed":             {"in production", nil, "", dr.FileSystemConsistent},
		"another version":     {"shut down", os.RemoveAll, "", dr.FileSystemConsistent},
		"no programs":         {"shut down", nil, "BIN=/nowhere\n", dr.FileSystemConsistent},
		"it can't be stopped": {"in production", runs, "OWNER=nobody-of-this-name\n", dr.FileSystemConsistent},
		"stop does nothing":   {"in production", runs, "STOP=true START=true\n", dr.FileSystemConsistent},
	} {
		t.Run(name, func(t *testing.T) {
			data, settings := cluster(t, c.state)
			if c.spoil != nil {
				require.NoError(t, c.spoil(data))
			}
			freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: hookScript(t, "postgresql-stop", ".postgresql", settings+c.more)}})
			e, seen := event(dr.ApplicationConsistent)
			require.NoError(t, freeze(t.Context(), e))
			require.Equal(t, c.want, seen.reached, seen.out.String())
			require.NoError(t, thaw(t.Context(), e))
		})
	}
}

// runs has the cluster's server be this process.
func runs(data string) error {
	return os.WriteFile(filepath.Join(data, "postmaster.pid"), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600)
}

// A shutdown that goes on longer than it may is waited for before the server is
// started again: a start that comes too early leaves it down.
func TestPostgreSQLStartsAfterASlowShutdown(t *testing.T) {
	data, settings := cluster(t, "in production")
	server := exec.Command("sleep", "3600")
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		require.NoError(t, server.Process.Kill())
		_ = server.Wait()
	})
	pid := filepath.Join(data, "postmaster.pid")
	require.NoError(t, os.WriteFile(pid, fmt.Appendf(nil, "%d\n%s\nready\n", server.Process.Pid, data), 0o600))
	started := filepath.Join(t.TempDir(), "started")
	start := filepath.Join(t.TempDir(), "start")
	require.NoError(t, os.WriteFile(start, fmt.Appendf(nil, "#!/bin/sh\n[ ! -e '%s' ] && : >'%s'\n", pid, started), 0o755))
	stop := filepath.Join(t.TempDir(), "stop")
	require.NoError(t, os.WriteFile(stop, fmt.Appendf(nil, `#!/bin/sh
sed -i s/ready/stopping/ '%[1]s'
(sleep 0.5; rm '%[1]s') </dev/null >/dev/null 2>&1 &
exit 1
`, pid), 0o755))

	freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: hookScript(t, "postgresql-stop", ".postgresql", settings+fmt.Sprintf("STOP='%s' START='%s'\n", stop, start))}})
	e, seen := event(dr.ApplicationConsistent)
	require.NoError(t, freeze(t.Context(), e))
	require.Equal(t, dr.FileSystemConsistent, seen.reached)
	require.NoError(t, thaw(t.Context(), e))
	require.FileExists(t, started)
}

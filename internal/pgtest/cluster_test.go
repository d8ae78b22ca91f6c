package pgtest_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// What was committed is there after a kill, under the same address; what
// wasn't is gone.
func TestClusterOutlivesItsProcesses(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	require.Equal(t, "1", c.Query("SELECT 1"))
	c.Query("CREATE TABLE kept(n int); INSERT INTO kept VALUES(7)")
	dsn := c.DSN("")

	c.Kill()
	require.Error(t, c.Command("pg_isready", "-q", "-d", dsn).Run(), "it is gone")
	c.Start()
	require.Contains(t, c.Log(), "was not properly shut down")
	require.Equal(t, dsn, c.DSN(""))
	require.Equal(t, "7", c.Query("SELECT n FROM kept"))

	c.Stop()
	c.Start()
	require.Equal(t, "7", c.Query("SELECT n FROM kept"))

	other := c.CreateDatabase("other")
	require.Equal(t, "other", c.Run("psql", "-XAtq", "-d", other, "-c", "SELECT current_database()"), "over TCP, with the password")
	require.Error(t, c.Command("psql", "-XAtq", "-d", c.DSNAs("postgres", "wrong", ""), "-c", "SELECT 1").Run())
}

// A test that fails to find PostgreSQL doesn't pass where it must be there.
func TestWithoutPostgreSQL(t *testing.T) {
	if os.Getenv("PGTEST_CHILD") != "" {
		pgtest.Tool(t, "no-such-program")
		return
	}
	for require_, code := range map[string]int{"": 0, "all": 1} {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestWithoutPostgreSQL$", "-test.v")
		cmd.Env = append(os.Environ(), "PGTEST_CHILD=1", "LIFEBOAT_REQUIRE="+require_)
		out, _ := cmd.CombinedOutput()
		require.Equal(t, code, cmd.ProcessState.ExitCode(), "%s", out)
		require.Contains(t, string(out), "no-such-program is not installed")
	}
}

package fsfreeze

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// scripts makes a folder of programs that note their calls in a log.
func scripts(t testing.TB, bodies map[string]string) (dir, log string) {
	t.Helper()
	dir, log = t.TempDir(), filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.Chmod(dir, 0o755))
	for name, body := range bodies {
		text := fmt.Sprintf("#!/bin/sh\necho %s $1 >>%s\n%s\n", name, log, body)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	return dir, log
}

func lines(t testing.TB, log string) []string {
	t.Helper()
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// The scripts of a freeze without any disk: what is called in which order, and
// what it is worth.
func TestScripts(t *testing.T) {
	both := []string{"10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"}
	for name, c := range map[string]struct {
		bodies  map[string]string
		calls   []string
		reached dr.Consistency
		held    dr.Consistency
		said    string
	}{
		"all succeed": {map[string]string{"10-a": "", "20-b": "echo done", "README.md": "", ".settings": "", "20-b.dpkg-old": ""},
			both, dr.ApplicationConsistent, dr.ApplicationConsistent, ""},
		"the second fails": {map[string]string{"10-a": "", "20-b": "echo no room >&2; exit 3", "30-c": ""},
			both, dr.FileSystemConsistent, dr.FileSystemConsistent, "no room"},
		"the first recovers": {map[string]string{"10-a": "exit 10", "20-b": ""},
			both, dr.FileSystemConsistent, dr.FileSystemConsistent, "recover as after a crash: 10-a"},
		"a thaw fails": {map[string]string{"10-a": "", "20-b": "[ $1 = freeze ]"},
			both, dr.ApplicationConsistent, dr.FileSystemConsistent, ""},
		"one hangs": {map[string]string{"10-a": "", "20-b": "[ $1 = thaw ] || sleep 60"},
			both, dr.FileSystemConsistent, dr.FileSystemConsistent, "took longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, log := scripts(t, c.bodies)
			limit := 20 * time.Second
			if name == "one hangs" {
				limit = time.Second
			}
			var r Report
			freeze, thaw := Hooks(Options{Scripts: Scripts{dir, limit}, Report: func(x Report) { r = x }})
			e, seen := event(dr.ApplicationConsistent)
			require.NoError(t, freeze(t.Context(), e))
			require.Equal(t, c.reached, seen.reached)
			require.NoError(t, thaw(t.Context(), e))
			require.Equal(t, c.calls, lines(t, log))
			require.Contains(t, seen.out.String(), c.said)
			require.Equal(t, c.held, seen.reached)
			require.Equal(t, c.held, r.Reached)
			require.Len(t, r.Scripts, len(c.calls))
		})
	}
}

// They aren't called for less than application consistency.
func TestScriptsAreOfApplications(t *testing.T) {
	dir, log := scripts(t, map[string]string{"a": ""})
	freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: dir}})
	e, seen := event(dr.FileSystemConsistent)
	require.NoError(t, freeze(t.Context(), e))
	require.NoError(t, thaw(t.Context(), e))
	require.NoFileExists(t, log)
	require.Equal(t, dr.FileSystemConsistent, seen.reached)
}

// What others could have written is not run, and what can't be run isn't
// forgotten.
func TestScriptsOfOthers(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"a folder for all": func(dir string) error { return os.Chmod(dir, 0o777) },
		"a file for all":   func(dir string) error { return os.Chmod(filepath.Join(dir, "b"), 0o777) },
		"not executable":   func(dir string) error { return os.Chmod(filepath.Join(dir, "b"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, log := scripts(t, map[string]string{"a": "", "b": ""})
			require.NoError(t, spoil(dir))
			freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: dir}})
			e, seen := event(dr.ApplicationConsistent)
			require.NoError(t, freeze(t.Context(), e))
			require.NoError(t, thaw(t.Context(), e))
			require.NoFileExists(t, log)
			require.Equal(t, dr.FileSystemConsistent, seen.reached)
			require.Contains(t, seen.out.String(), "No application was prepared")
		})
	}
}

// Scripts don't see what this process has in its environment.
func TestScriptsGetNoSecrets(t *testing.T) {
	t.Setenv("SECRET", "hunter2")
	dir, log := scripts(t, map[string]string{"a": `env >>"${0%/*}/../env"; [ -z "$SECRET" ]`})
	freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: dir}})
	e, seen := event(dr.ApplicationConsistent)
	require.NoError(t, freeze(t.Context(), e))
	require.NoError(t, thaw(t.Context(), e))
	require.Equal(t, dr.ApplicationConsistent, seen.reached, seen.out.String())
	require.Equal(t, []string{"a freeze", "a thaw"}, lines(t, log))
}

// A thaw that comes while a script prepares ends it, and undoes it.
func TestThawDuringScripts(t *testing.T) {
	dir, log := scripts(t, map[string]string{"a": "[ $1 = thaw ] || sleep 60"})
	freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: dir}})
	e, _ := event(dr.ApplicationConsistent)
	failed := make(chan error, 1)
	go func() { failed <- freeze(context.Background(), e) }()
	require.Eventually(t, func() bool { // the file is there before it says anything
		b, _ := os.ReadFile(log)
		return len(b) > 0
	}, time.Minute, time.Millisecond)
	require.NoError(t, thaw(t.Context(), e))
	require.Error(t, <-failed)
	require.Equal(t, []string{"a freeze", "a thaw"}, lines(t, log))
}

// The example for MySQL, with a program in its client's place: the lock is held
// from the one call to the other by a session that ends when nobody asks for it.
func TestMySQLReadLock(t *testing.T) {
	client := filepath.Join(t.TempDir(), "client")
	log := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(client, fmt.Appendf(nil, `#!/bin/sh
read -r statements
case $statements in "SET SESSION lock_wait_timeout=5; FLUSH TABLES WITH READ LOCK; SELECT 'lifeboat has it';") ;; *) exit 1 ;; esac
[ -z "$(cat %[1]s.refuse 2>/dev/null)" ] || { echo no such user >&2; exit 1; }
echo locked >>%[1]s
echo lifeboat has it
cat >/dev/null # until the session ends
echo unlocked >>%[1]s
`, log), 0o755))
	script, err := os.ReadFile("../../../examples/agent/hooks/mysql-read-lock")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mysql-read-lock"), script, 0o755))
	settings := fmt.Sprintf("CLIENT=%s STATE=%s HOLD=60 WAIT=5\n", client, filepath.Join(t.TempDir(), "state"))
	configure := func(more string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, ".mysql"), []byte(settings+more), 0o600))
	}
	unlocked := func() bool { return lines(t, log)[len(lines(t, log))-1] == "unlocked" }

	for more, want := range map[string]dr.Consistency{"": dr.FileSystemConsistent, "INNODB=no\n": dr.ApplicationConsistent} {
		configure(more)
		var r Report
		freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: dir}, Report: func(x Report) { r = x }})
		e, seen := event(dr.ApplicationConsistent)
		require.NoError(t, freeze(t.Context(), e))
		require.Equal(t, want, seen.reached, seen.out.String())
		require.Equal(t, "locked", lines(t, log)[len(lines(t, log))-1])
		require.NoError(t, thaw(t.Context(), e))
		require.Eventually(t, unlocked, time.Minute, time.Millisecond)
		for _, s := range r.Scripts {
			require.NoError(t, s.Err)
		}
	}

	require.NoError(t, os.WriteFile(log+".refuse", []byte("yes"), 0o600))
	freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: dir}})
	e, seen := event(dr.ApplicationConsistent)
	require.NoError(t, freeze(t.Context(), e))
	require.Equal(t, dr.FileSystemConsistent, seen.reached)
	require.Contains(t, seen.out.String(), "no such user")
	require.NoError(t, thaw(t.Context(), e))
}

package vhdx

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// missing skips the test, or fails it if LIFEBOAT_REQUIRE=all says that nothing
// may be missing.
func missing(t testing.TB, what, debian string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("no %s, and LIFEBOAT_REQUIRE=all", what)
	}
	t.Skipf("no %s (Debian: %s)", what, debian)
}

func need(t testing.TB, name, debian string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		missing(t, name, debian)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	require.NoError(t, err, "%s %q: %s", name, args, out)
	return out
}

func try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

func qemuImg(t testing.TB, args ...string) string {
	t.Helper()
	need(t, "qemu-img", "qemu-utils")
	return run(t, "qemu-img", args...)
}

// create makes an image in a file of the host's.
func create(t testing.TB, name string, o Options) *Disk {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	d, err := Create(OSFile(f), o)
	require.NoError(t, err)
	return d
}

func openFile(t testing.TB, name string, o OpenOptions) *Disk {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	d, err := Open(OSFile(f), o)
	require.NoError(t, err)
	return d
}

func plain(t testing.TB, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	return name
}

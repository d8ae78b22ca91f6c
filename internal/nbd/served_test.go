package nbd

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// tool finds a program that a test talks to. Without it the test is skipped,
// or fails if LIFEBOAT_REQUIRE=all says that nothing may be missing.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("%s is not installed, and LIFEBOAT_REQUIRE=all", name)
	}
	t.Skipf("%s is not installed (Debian: qemu-utils, libnbd-bin, nbdkit)", name)
	return ""
}

// command runs a tool to its end and returns its output.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), tool(t, name), args...).CombinedOutput()
	require.NoError(t, err, "%s %q:\n%s", name, args, out)
	return string(out)
}

// serve runs s on a Unix socket until the test ends, and returns its path.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	path, _ := serveUntil(t, s)
	return path
}

// serveUntil is serve with the end in the caller's hand: stop ends Serve and
// waits for it.
func serveUntil(t testing.TB, s *Server) (path string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir may be too long for a socket
	require.NoError(t, err)
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(t, <-done)
		os.RemoveAll(dir)
	}
	t.Cleanup(stop)
	return path, stop
}

func uri(socket, export string) string { return "nbd+unix:///" + export + "?socket=" + socket }

// picture is a disk's content with data, zeros and an odd end.
func picture(size int, seed byte) []byte {
	b := make([]byte, size)
	for i := range b {
		if i/(64<<10)%3 != 1 {
			b[i] = byte(i>>9) ^ byte(i*7) ^ seed
		}
	}
	return b
}

func equalBytes(t testing.TB, want, got []byte, what string) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	require.Len(t, got, len(want), what)
	for i := range want {
		if want[i] != got[i] {
			t.Fatalf("%s: byte %d is %#x, not %#x", what, i, got[i], want[i])
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// program is the command as users have it.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "vault")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// result is how a run of the command ended.
type result struct {
	code        int
	out, errors string
}

// start prepares a run without the caller's passphrases.
func start(t testing.TB, args ...string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), program, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "LIFEBOAT_PASSPHRASE") {
			c.Env = append(c.Env, v)
		}
	}
	return c
}

func run(t testing.TB, args ...string) result { return end(t, start(t, args...)) }

func end(t testing.TB, c *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// ok runs the command, which must succeed silently but for its output.
func ok(t testing.TB, args ...string) string {
	t.Helper()
	r := run(t, args...)
	require.Equal(t, 0, r.code, "vault %q:\n%s%s", args, r.out, r.errors)
	require.Empty(t, r.errors, "vault %q", args)
	return r.out
}

// fails runs the command, which must fail with the code and say nothing but
// the line.
func fails(t testing.TB, code int, line string, args ...string) {
	t.Helper()
	r := run(t, args...)
	require.Equal(t, result{code, "", "vault: " + line + "\n"}, r, "vault %q", args)
}

// tool finds a program that a test needs. Without it the test is skipped, or
// fails if LIFEBOAT_REQUIRE=all says that nothing may be missing.
func tool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		lacks(t, name+" (Debian: qemu-utils, libnbd-bin, util-linux)")
	}
}

func lacks(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("no %s, and LIFEBOAT_REQUIRE=all", what)
	}
	t.Skipf("no %s", what)
}

func shell(t testing.TB, name string, args ...string) string {
	t.Helper()
	tool(t, name)
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %q:\n%s", name, args, out)
	return string(out)
}

// source of random numbers whose seed is printed when the test fails.
func random(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// picture is disk content: zeros, what compresses, and what doesn't.
func picture(r *rand.Rand, size int) []byte {
	p := make([]byte, size)
	for off := 0; off < size; {
		n := min(size-off, 1+r.IntN(300<<10))
		scribble(r, p[off:off+n])
		off += n
	}
	return p
}

func scribble(r *rand.Rand, p []byte) {
	switch r.IntN(3) {
	case 0:
		clear(p)
	case 1:
		word := fmt.Sprintf("text %d ", r.Uint32())
		copy(p, bytes.Repeat([]byte(word), len(p)/len(word)+1))
	case 2:
		noise(r, p)
	}
}

func noise(r *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(r.Uint32() >> 11)
	}
}

// write puts an image file there, with holes.
func write(t testing.TB, path string, content []byte) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(int64(len(content))))
	const block = 4 << 10
	for off := 0; off < len(content); off += block {
		if b := content[off:min(off+block, len(content))]; len(bytes.Trim(b, "\x00")) > 0 {
			_, err := f.WriteAt(b, int64(off))
			require.NoError(t, err)
		}
	}
}

func equalFile(t testing.TB, want []byte, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	equal(t, want, got)
}

func equal(t testing.TB, want, got []byte) {
	t.Helper()
	require.Equal(t, len(want), len(got), "size")
	if bytes.Equal(want, got) {
		return
	}
	for i := range want {
		if want[i] != got[i] {
			t.Fatalf("differs from byte %d on", i)
		}
	}
}

// id is the point's ID at the beginning of what add prints.
func id(t testing.TB, out string) string {
	t.Helper()
	id, _, found := strings.Cut(out, ":")
	require.True(t, found, out)
	return id
}

// exported exports a point of a machine with one disk and returns its bytes.
func exported(t testing.TB, store, machine, point string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	ok(t, "export", "--store", store, "--machine", machine, "--point", point, out)
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	return b
}

// settled waits until the file system's clock tells a write from now on apart from
// those before.
func settled(t testing.TB, path string) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	for stamp(info, time.Now()) == "" {
		runtime.Gosched()
	}
}

// put adds points with a time of their own, which the command can't.
func put(t testing.TB, store, machine string, at time.Time, content []byte) {
	t.Helper()
	s, err := vault.OpenDir(store, vault.Options{})
	require.NoError(t, err)
	defer s.Close()
	p := dr.Point{ID: dr.PointID(at.UTC().Format("20060102T150405Z")), Time: at, Machine: dr.Machine{
		ID: dr.MachineID(machine), Disks: []dr.Disk{{ID: "disk.img", Size: int64(len(content))}}}}
	parent, err := newest(t.Context(), s, p.Machine.ID)
	require.NoError(t, err)
	p.Parent = parent.ID
	d, err := s.Create(t.Context(), p)
	require.NoError(t, err)
	defer d.Close()
	_, err = d.WriteAt(t.Context(), "disk.img", content, 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), p))
}

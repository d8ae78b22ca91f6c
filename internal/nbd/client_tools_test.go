package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// activated is a socket that outlives the servers behind it: connections wait
// until one takes them.
type activated struct {
	t    testing.TB
	path string
	fd   *os.File
}

func activate(t testing.TB) *activated {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &activated{t: t, path: filepath.Join(dir, "s")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	require.NoError(t, err)
	a.fd, err = l.File()
	require.NoError(t, err)
	t.Cleanup(func() { a.fd.Close(); l.Close() })
	return a
}

// run starts a server by socket activation, which nbdkit and qemu-nbd know. The
// process ends with the test, or with stop.
func (a *activated) run(name string, args ...string) (stop func()) {
	a.t.Helper()
	// The server wants its own process number in LISTEN_PID.
	shell := append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", tool(a.t, name)}, args...)
	cmd := exec.Command("/bin/sh", shell...)
	cmd.ExtraFiles = []*os.File{a.fd}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(a.t, cmd.Start())
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cmd.Process.Kill()
			cmd.Wait()
			if a.t.Failed() {
				a.t.Logf("%s %q said: %s", name, args, said.String())
			}
		})
	}
	a.t.Cleanup(stop)
	return stop
}

func (a *activated) options() Options { return unixOptions(a.path, "") }

// sparseImage writes a raw file with data, zeros and holes.
func sparseImage(t *testing.T, size int64) (string, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(size))
	want := make([]byte, size)
	for off := int64(0); off < size; off += 1 << 20 {
		n := min(size-off, 192<<10)
		copy(want[off:], noise(int(n)))
		_, err = f.WriteAt(want[off:][:n], off)
		require.NoError(t, err)
	}
	return path, want
}

// exercise changes a server's export in every way and compares with a model.
func exercise(t *testing.T, c *Client, model []byte) {
	t.Helper()
	ctx := t.Context()
	equalBytes(t, model, readAll(t, c), "at first")
	p := noise(300_000)
	_, err := c.WriteAt(ctx, p, 123_456)
	require.NoError(t, err)
	copy(model[123_456:], p)
	_, err = c.WriteThrough(ctx, p[:4096], 8192)
	require.NoError(t, err)
	copy(model[8192:], p[:4096])
	require.NoError(t, c.Zero(ctx, 200_001, 70_000))
	clear(model[200_001:270_001])
	require.NoError(t, c.Zero(ctx, 1<<20, 1<<20))
	clear(model[1<<20:][:1<<20])
	if c.Info().CanTrim {
		require.NoError(t, c.Trim(ctx, 2<<20, 64<<10))
		_, err := c.WriteAt(ctx, model[2<<20:][:64<<10], 2<<20) // what a trim leaves is anybody's guess
		require.NoError(t, err)
	}
	if c.Info().CanCache {
		require.NoError(t, c.Prefetch(ctx, 0, c.Size()))
	}
	require.NoError(t, c.Flush(ctx))
	equalBytes(t, model, readAll(t, c), "afterwards")
	next := int64(0)
	for e, err := range c.Extents(ctx, 0, c.Size()) {
		require.NoError(t, err)
		require.Equal(t, next, e.Off)
		next += e.Len
		if e.Zero {
			require.Empty(t, bytes.Trim(model[e.Off:][:e.Len], "\x00"), "%+v", e)
		}
	}
	require.Equal(t, c.Size(), next)
}

func TestClientOfNbdkit(t *testing.T) {
	for _, extra := range [][]string{nil, {"--no-sr"}, {"--mask-handshake=0"}, {"--filter=blocksize-policy"}} {
		t.Run(strings.Join(extra, " "), func(t *testing.T) {
			path, model := sparseImage(t, 5<<20)
			a := activate(t)
			args := append([]string{"-f"}, extra...)
			args = append(args, "file", path)
			if len(extra) > 0 && strings.Contains(extra[0], "blocksize") {
				args = append(args, "blocksize-minimum=4096", "blocksize-preferred=64K", "blocksize-maximum=128K", "blocksize-error-policy=error")
			}
			a.run("nbdkit", args...)
			o := a.options()
			o.Connections = 2
			c := dialTest(t, o)
			require.Equal(t, len(extra) == 0 || strings.Contains(extra[0], "blocksize"), c.Info().Structured)
			exercise(t, c, model)
			require.NoError(t, c.Close())
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			equalBytes(t, model, got, "in the file")
		})
	}
}

func TestClientOfQemuNbd(t *testing.T) {
	path, model := sparseImage(t, 5<<20)
	a := activate(t)
	a.run("qemu-nbd", "-t", "-f", "raw", "--discard=unmap", "-x", "disk", "-D", "of qemu", path)
	o := a.options()
	l, err := List(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []Listed{{"disk", "of qemu"}}, l)
	_, err = Dial(t.Context(), o)
	require.ErrorIs(t, err, ErrNoExport)
	o.Export = "disk"
	c := dialTest(t, o)
	require.Equal(t, "of qemu", c.Info().Description)
	require.True(t, c.Info().Structured && c.Info().CanTrim && c.Info().CanZero && c.Info().CanFUA)
	exercise(t, c, model)
}

// The map is qemu-img's own.
func TestClientMapIsQemus(t *testing.T) {
	path, _ := sparseImage(t, 9<<20)
	qcow := filepath.Join(t.TempDir(), "disk.qcow2")
	command(t, "qemu-img", "convert", "-O", "qcow2", path, qcow)
	command(t, "qemu-io", "-f", "qcow2", "-c", "write -z 512k 128k", "-c", "discard 3m 64k", qcow)
	var regions []struct {
		Start, Length int64
		Zero, Data    bool
	}
	out := command(t, "qemu-img", "map", "--output=json", "-f", "qcow2", qcow)
	require.NoError(t, json.Unmarshal([]byte(out), &regions))
	a := activate(t)
	a.run("qemu-nbd", "-t", "-r", "-f", "qcow2", qcow)
	c := dialTest(t, a.options())
	type mapped struct {
		off, n int64
		zero   bool
	}
	var want, got []mapped
	note := func(to []mapped, m mapped) []mapped {
		if k := len(to); k > 0 && to[k-1].zero == m.zero {
			to[k-1].n += m.n
			return to
		}
		return append(to, m)
	}
	for _, r := range regions {
		want = note(want, mapped{r.Start, r.Length, r.Zero})
	}
	for e, err := range c.Extents(t.Context(), 0, c.Size()) {
		require.NoError(t, err)
		got = note(got, mapped{e.Off, e.Len, e.Zero})
	}
	require.Greater(t, len(want), 10)
	require.Equal(t, want, got)
}

func TestClientReadsDirtyBitmaps(t *testing.T) {
	qcow := filepath.Join(t.TempDir(), "disk.qcow2")
	command(t, "qemu-img", "create", "-q", "-f", "qcow2", qcow, "16M")
	command(t, "qemu-io", "-f", "qcow2", "-c", "write 0 16M", qcow)
	command(t, "qemu-img", "bitmap", "--add", "--enable", "-g", "64K", qcow, "since monday")
	command(t, "qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "-c", "write 5000k 1", "-c", "write -z 12M 256k", qcow)
	a := activate(t)
	a.run("qemu-nbd", "-t", "-r", "-f", "qcow2", "-B", "since monday", qcow)
	o := a.options()
	bitmap := DirtyBitmap("since monday")
	o.Contexts = []string{bitmap, DirtyBitmap("not there")}
	c := dialTest(t, o)
	require.Equal(t, []string{ContextAllocation, bitmap}, c.Info().Contexts)
	dirty := func(off, n int64) (all []span) {
		for s, err := range c.BlockStatus(t.Context(), off, n, bitmap) {
			require.NoError(t, err)
			if s.Flags&FlagDirty != 0 {
				all = append(all, span{s.Off, s.Len})
			}
		}
		return all
	}
	require.Equal(t, []span{{1 << 20, 64 << 10}, {5000 << 10 >> 16 << 16, 64 << 10}, {12 << 20, 256 << 10}}, dirty(0, c.Size()))
	require.Equal(t, []span{{1<<20 + 5, 100}}, dirty(1<<20+5, 100))
	for _, err := range c.BlockStatus(t.Context(), 0, 10, DirtyBitmap("not there")) {
		require.ErrorIs(t, err, ErrNoContext)
	}
}

func TestClientOfFailingDisks(t *testing.T) {
	for _, e := range []Errno{EIO, ENOSPC, EPERM, ENOMEM} {
		name := map[Errno]string{EIO: "EIO", ENOSPC: "ENOSPC", EPERM: "EPERM", ENOMEM: "ENOMEM"}[e]
		t.Run(name, func(t *testing.T) {
			switched := filepath.Join(t.TempDir(), "fail")
			a := activate(t)
			a.run("nbdkit", "-f", "--filter=error", "memory", "4M", "error="+name, "error-rate=100%", "error-file="+switched)
			c := dialTest(t, a.options())
			exercise(t, c, make([]byte, 4<<20))
			require.NoError(t, os.WriteFile(switched, nil, 0o600))
			p := make([]byte, 4096)
			_, err := c.ReadAt(t.Context(), p, 8192)
			require.ErrorIs(t, err, e)
			require.ErrorContains(t, err, "read of 4096 bytes at 8192")
			_, err = c.WriteAt(t.Context(), p, 0)
			require.ErrorIs(t, err, e)
			require.ErrorIs(t, c.Zero(t.Context(), 0, 5), e)
			require.ErrorIs(t, c.Trim(t.Context(), 0, 4096), e)
			for _, err := range c.Extents(t.Context(), 0, 4096) {
				require.ErrorIs(t, err, e)
			}
			require.NoError(t, os.Remove(switched))
			readAll(t, c)
		})
	}
}

// Some requests among many fail, and each caller learns of its own.
func TestClientOfUnreliableDisk(t *testing.T) {
	a := activate(t)
	a.run("nbdkit", "-f", "--filter=error", "pattern", "16M", "error-pread=EIO", "error-pread-rate=30%")
	c := dialTest(t, a.options())
	var mu sync.Mutex
	good, bad := 0, 0
	var all sync.WaitGroup
	for w := range int64(8) {
		all.Go(func() {
			p := make([]byte, 65536)
			for off := w * 65536; off < c.Size(); off += 8 * 65536 {
				_, err := c.ReadAt(t.Context(), p, off)
				mu.Lock()
				if err == nil {
					good++
					want := fmt.Sprintf("%016x", off+65528)
					if got := fmt.Sprintf("%x", p[65528:]); got != want {
						t.Errorf("at %d: %s, not %s", off, got, want)
					}
				} else {
					bad++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Logf("%d good, %d bad", good, bad)
	require.NotZero(t, good)
	require.NotZero(t, bad)
}

// Cancelled requests leave the connection to the others.
func TestClientCancelsAtSlowServer(t *testing.T) {
	a := activate(t)
	a.run("nbdkit", "-f", "--filter=delay", "memory", "1M", "rdelay=2", "wdelay=0")
	c := dialTest(t, a.options())
	_, err := c.WriteAt(t.Context(), []byte("quick"), 0)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	p := make([]byte, 5)
	done := make(chan error)
	go func() {
		_, err := c.ReadAt(ctx, p, 0)
		done <- err
	}()
	q := make([]byte, 5)
	go func() {
		_, err := c.ReadAt(t.Context(), q, 0)
		done <- err
	}()
	require.NoError(t, c.Flush(t.Context()), "others don't wait")
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.NoError(t, <-done)
	require.Equal(t, "quick", string(q))
	require.Equal(t, make([]byte, 5), p)
}

// nbdkit is killed while requests are in flight, and started again.
func TestClientOutlivesItsServer(t *testing.T) {
	path, want := sparseImage(t, 4<<20)
	a := activate(t)
	start := func(delay string) func() {
		return a.run("nbdkit", "-f", "--filter=delay", "file", path, "rdelay="+delay)
	}
	stop := start("100000")
	o := a.options()
	o.Reconnect, o.Connections = time.Minute, 2
	c := dialTest(t, o)
	got := make([]byte, len(want))
	const part = 256 << 10 // fewer requests than nbdkit has threads, or the write would wait for them
	var all sync.WaitGroup
	for off := 0; off < len(got); off += part {
		all.Go(func() {
			if _, err := c.ReadAt(t.Context(), got[off:][:part], int64(off)); err != nil {
				t.Error(err)
			}
		})
	}
	_, err := c.WriteThrough(t.Context(), want[:part], 0) // the server was there
	require.NoError(t, err)
	stop()
	start("0")
	all.Wait()
	equalBytes(t, want, got, "over two lives")
	require.NoError(t, c.Flush(t.Context()))

	// The same without a flush is reported.
	_, err = c.WriteAt(t.Context(), want[:part], 0)
	require.NoError(t, err)
	c.lanes.mu.Lock()
	for _, l := range c.lanes.links {
		l.raw.Close()
	}
	c.lanes.mu.Unlock()
	_, err = c.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.ErrorIs(t, c.Flush(t.Context()), ErrUnflushed)
}

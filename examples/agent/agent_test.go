package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// The test's binary is the program itself, if it is asked to be.
func TestMain(m *testing.M) {
	if os.Getenv("AGENT_PROGRAM") == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// output is what a process has said so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// host is a host with its agent.
type host struct {
	t        *testing.T
	dir, pki string
	cmd      *exec.Cmd
	addr     string
	errs     *output
}

func program(t *testing.T, args ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "AGENT_PROGRAM=1")
	return cmd
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir(), pki: filepath.Join(t.TempDir(), "pki"), addr: "127.0.0.1:0"}
	out, err := program(t, "pki", "--dir", h.pki, "--host", "127.0.0.1").CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(h.kill)
	return h
}

// machine makes one of random disks, of which the middle is zeros.
func (h *host) machine(name string, sizes ...int) (disks [][]byte) {
	rnd := rand.NewChaCha8([32]byte{7})
	require.NoError(h.t, os.MkdirAll(filepath.Join(h.dir, name), 0o700))
	for i, n := range sizes {
		b := make([]byte, n)
		_, _ = rnd.Read(b[:n/3])
		_, _ = rnd.Read(b[n-n/3:])
		require.NoError(h.t, os.WriteFile(filepath.Join(h.dir, name, string(rune('a'+i))+".img"), b, 0o600))
		disks = append(disks, b)
	}
	return disks
}

// start runs the agent, again under the same address.
func (h *host) start(more ...string) {
	h.t.Helper()
	h.cmd = program(h.t, append([]string{"serve", "--listen", h.addr, "--cert", filepath.Join(h.pki, "server.pem"),
		"--key", filepath.Join(h.pki, "server.key"), "--clients", filepath.Join(h.pki, "ca.pem"), "--backend", "physical:" + h.dir}, more...)...)
	h.errs = &output{}
	h.cmd.Stderr = h.errs
	out, err := h.cmd.StdoutPipe()
	require.NoError(h.t, err)
	require.NoError(h.t, h.cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(h.t, err, "%s", h.errs)
	h.addr = strings.TrimSpace(line)
}

func (h *host) kill() {
	if h.cmd != nil && h.cmd.ProcessState == nil {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	}
}

// tls is a client's side, with a certificate of the authority under pki.
func (h *host) tls(pki string) *tls.Config {
	cert, err := tls.LoadX509KeyPair(filepath.Join(pki, "client.pem"), filepath.Join(pki, "client.key"))
	require.NoError(h.t, err)
	pem, err := os.ReadFile(filepath.Join(h.pki, "ca.pem"))
	require.NoError(h.t, err)
	roots := x509.NewCertPool()
	require.True(h.t, roots.AppendCertsFromPEM(pem))
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}
}

func (h *host) dial() *remote.Client {
	h.t.Helper()
	c, err := remote.Dial(h.t.Context(), h.addr, remote.DialOptions{TLS: h.tls(h.pki)})
	require.NoError(h.t, err, "%s", h.errs)
	h.t.Cleanup(func() { require.NoError(h.t, c.Close()) })
	return c
}

// An agent that dies in the middle of a copy and comes back costs the copy
// nothing but the time: the same moment is opened again.
func TestKilledInTheMiddleOfACopy(t *testing.T) {
	h := newHost(t)
	want := h.machine("db", 12<<20, 3<<20)
	h.start()
	c := h.dial()
	v, err := vault.OpenDir(t.TempDir(), vault.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { v.Close() })
	killed := make(chan struct{})
	var once sync.Once
	cycle := replication.Cycle{Source: c, Points: v, Copy: replication.CopyOptions{
		Limit:   rate.NewLimiter(64<<20, 1<<20), // so that there is a middle
		Readers: 2,
	}}
	r, err := cycle.ReplicateAs(t.Context(), "db", "p1", dr.CrashConsistent, replication.CycleOptions{
		Progress: func(p dr.Progress) {
			if p.Done > 3<<20 {
				once.Do(func() {
					go func() {
						defer close(killed)
						h.kill()
						h.start()
					}()
				})
			}
		},
	})
	require.NoError(t, err, "%s", h.errs)
	<-killed
	require.Contains(t, h.errs.String(), "a client has come", "the second agent served the rest")
	require.Equal(t, int64(15<<20), r.Changed)
	img, err := v.Open(t.Context(), "db", "p1")
	require.NoError(t, err)
	defer img.Close()
	for i, disk := range []dr.DiskID{"a", "b"} {
		got := make([]byte, len(want[i]))
		_, _ = img.ReadAt(t.Context(), disk, got, 0)
		require.True(t, bytes.Equal(want[i], got), "disk %s", disk)
	}
}

// Asked to stop, it stops well, also with a client that has something open.
func TestStopsWell(t *testing.T) {
	if os.PathSeparator == '\\' {
		t.Skip("there are no signals on Windows: there it is the service manager that stops it")
	}
	h := newHost(t)
	h.machine("db", 1<<20)
	h.start("--grace", "100ms")
	img, err := h.dial().Capture(t.Context(), "db", "p", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, h.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, h.cmd.Wait(), "%s", h.errs)
	require.Contains(t, h.errs.String(), "msg=stopped")
	require.NoError(t, img.Close())
}

func TestTurnsAway(t *testing.T) {
	h := newHost(t)
	h.machine("db", 1<<20)
	h.machine("mail", 1<<20)
	h.start("--machine", "db")

	t.Run("a certificate of somebody else's authority", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "pki")
		out, err := program(t, "pki", "--dir", other, "--host", "127.0.0.1").CombinedOutput()
		require.NoError(t, err, "%s", out)
		_, err = remote.Dial(t.Context(), h.addr, remote.DialOptions{TLS: h.tls(other)})
		require.ErrorIs(t, err, fs.ErrPermission)
		require.True(t, dr.IsPermanent(err))
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		conf := h.tls(h.pki)
		conf.MaxVersion = tls.VersionTLS12
		_, err := tls.Dial("tcp", h.addr, conf)
		require.ErrorContains(t, err, "protocol version")
	})
	t.Run("no certificate", func(t *testing.T) {
		conf := h.tls(h.pki)
		conf.Certificates, conf.NextProtos = nil, []string{"http/1.1"}
		conn, err := tls.Dial("tcp", h.addr, conf)
		require.NoError(t, err) // in TLS 1.3 the client is done before the server has looked
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		require.ErrorContains(t, err, "certificate required")
	})
	t.Run("a machine that isn't listed", func(t *testing.T) {
		c := h.dial()
		_, err := c.Machine(t.Context(), "db")
		require.NoError(t, err)
		_, err = c.Machine(t.Context(), "mail")
		require.ErrorIs(t, err, fs.ErrPermission)
	})
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"serve"}, {"serve", "--listen"}, {"no-such-command"}, {"pki", "--dir", "x"},
		{"token"}, {"revoke", "--dir", "x"}, {"authority", "--dir", "x", "--listen", ":0"}, {"enrol", "--dir", "x"}, {"rotate", "more"},
		{"serve", "--listen", ":0", "--identity", "i", "--cert", "c", "--backend", "physical:x"},
		{"serve", "--listen", ":0", "--cert", "c", "--key", "k", "--clients", "p", "--backend", "physical:x", "more"},
	} {
		var out, errs bytes.Buffer
		require.Equal(t, exitUsage, run(context.Background(), args, &out, &errs), "%q", args)
		require.Contains(t, errs.String(), "agent serve", "%q", args)
	}
	_, _, err := open("toaster:x", nil)
	require.ErrorContains(t, err, "toaster")
}

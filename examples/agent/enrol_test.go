package main

import (
	"bufio"
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/enrol"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// begin starts the program and returns its first lines.
func begin(t *testing.T, lines int, args ...string) ([]string, *exec.Cmd, *output) {
	t.Helper()
	cmd, errs := program(t, args...), &output{}
	cmd.Stderr = errs
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	r := bufio.NewReader(out)
	var said []string
	for range lines {
		line, err := r.ReadString('\n')
		require.NoError(t, err, "%s", errs)
		said = append(said, strings.TrimSpace(line))
	}
	return said, cmd, errs
}

// does runs the program to its end, with the token, if any, where arguments don't show it.
func does(t *testing.T, token string, args ...string) string {
	t.Helper()
	cmd := program(t, args...)
	cmd.Env = append(cmd.Env, tokenVariable+"="+token)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// An authority, an agent and a client, each a process or with files of its own: they enrol,
// a machine is copied while certificates are renewed, and a client that is revoked is out
// and stays out.
func TestEnrolledAgent(t *testing.T) {
	h := newHost(t)
	want := h.machine("db", 12<<20)
	dir := filepath.Join(t.TempDir(), "authority")
	said, _, authorityLog := begin(t, 2, "authority", "--dir", dir, "--listen", "127.0.0.1:0", "--host", "127.0.0.1", "--life", "12s")
	url, pin := "https://"+said[0], said[1]
	invite := func(args ...string) (token string) {
		lines := strings.Fields(does(t, "", append([]string{"token", "--dir", dir}, args...)...))
		require.Len(t, lines, 2)
		require.Equal(t, pin, lines[1])
		return lines[0]
	}
	self := filepath.Join(t.TempDir(), "identity")
	token := invite("--name", "disks1", "--role", "agent", "--host", "127.0.0.1")
	does(t, token, "enrol", "--dir", self, "--url", url, "--pin", pin)
	cmd := program(t, "enrol", "--dir", filepath.Join(t.TempDir(), "thief"), "--url", url, "--pin", pin, "--token", token)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "used already")

	said, agent, agentLog := begin(t, 1, "serve", "--listen", "127.0.0.1:0", "--identity", self, "--backend", "physical:"+h.dir, "--poll", "200ms")
	addr := said[0]
	become := func(name string) *enrol.Identity {
		id, err := enrol.Enrol(t.Context(), t.TempDir(), enrol.Invitation{URL: url, Token: invite("--name", name, "--role", "client"), Pin: pin},
			enrol.IdentityOptions{Poll: 200 * time.Millisecond})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = id.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		return id
	}
	id := become("replicator")
	c, err := remote.Dial(t.Context(), addr, remote.DialOptions{GetTLS: id.ClientTLS, Recheck: id.Recheck, RecheckEvery: 100 * time.Millisecond, Patience: 5 * time.Second})
	require.NoError(t, err, "%s", agentLog)
	defer c.Close()

	serial := func() string {
		b, err := os.ReadFile(filepath.Join(self, "identity.pem"))
		require.NoError(t, err)
		return string(b)
	}
	first, firstOwn := serial(), id.Certificate()
	v, err := vault.OpenDir(t.TempDir(), vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	cycle := replication.Cycle{Source: c, Points: v, Copy: replication.CopyOptions{Limit: rate.NewLimiter(3<<20, 1<<20)}} // until certificates are renewed
	r, err := cycle.ReplicateAs(t.Context(), "db", "p1", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err, "%s", agentLog)
	require.EqualValues(t, 12<<20, r.Changed)
	img, err := v.Open(t.Context(), "db", "p1")
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, len(want[0]))
	_, _ = img.ReadAt(t.Context(), "a", got, 0)
	require.True(t, bytes.Equal(want[0], got))
	require.Eventually(t, func() bool { return serial() != first && !id.Certificate().Equal(firstOwn) }, time.Minute, 20*time.Millisecond)
	require.Equal(t, 1, strings.Count(agentLog.String(), "a client has come"), "the session outlived both certificates")
	again, err := remote.Dial(t.Context(), addr, remote.DialOptions{GetTLS: id.ClientTLS})
	require.NoError(t, err, "and both new ones meet")
	require.NoError(t, again.Close())

	// A key that is rotated changes nothing for who is in.
	other := become("other")
	does(t, "", "rotate", "--dir", dir, "--after", "2s")

	open, err := c.Capture(t.Context(), "db", "p2", dr.CrashConsistent)
	require.NoError(t, err)
	require.Contains(t, does(t, "", "revoke", "--dir", dir, "--what", "replicator"), "revoked")
	var once sync.Once
	var begun time.Time
	require.Eventually(t, func() bool {
		once.Do(func() { begun = time.Now() })
		_, err = open.ReadAt(t.Context(), "a", got[:4096], 0)
		return err != nil
	}, time.Minute, 20*time.Millisecond)
	t.Logf("out after %v", time.Since(begun))
	_, err = remote.Dial(t.Context(), addr, remote.DialOptions{GetTLS: id.ClientTLS})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Contains(t, agentLog.String(), "the certificate is revoked")
	require.Eventually(t, func() bool { return strings.Contains(authorityLog.String(), "code=revoked") }, time.Minute, 20*time.Millisecond,
		"it asks to be renewed, in vain")
	_ = open.Close()
	c2, err := remote.Dial(t.Context(), addr, remote.DialOptions{GetTLS: other.ClientTLS})
	require.NoError(t, err, "%s", agentLog)
	_, err = c2.Machine(t.Context(), "db")
	require.NoError(t, err)
	require.NoError(t, c2.Close())
	for _, log := range []*output{agentLog, authorityLog} {
		require.NotContains(t, log.String(), token)
		require.NotContains(t, log.String(), "PRIVATE")
	}
	require.NoError(t, agent.Process.Kill())
}

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// served is what a stand-in asks for.
type served struct {
	Socket, PidFile, VM, Snapshot, File, Password string
}

// standIn is this test's binary under the name of nbdkit: it has the test serve
// the disk where nbdkit would, for as long as it lives itself.
func standIn(args []string) int {
	parent := os.Getppid()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	var s served
	for i, a := range args {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "--unix":
			s.Socket = args[i+1]
		case "--pidfile":
			s.PidFile = args[i+1]
		case "vm":
			s.VM = strings.TrimPrefix(value, "moref=")
		case "snapshot":
			s.Snapshot = value
		case "file":
			s.File = value
		case "password":
			p, _ := io.ReadAll(os.NewFile(3, "password"))
			s.Password = string(p)
		}
	}
	c, err := net.Dial("unix", filepath.Join(filepath.Dir(args[0]), "disks"))
	if err == nil {
		err = json.NewEncoder(c).Encode(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nbdkit: error:", err)
		return 1
	}
	for os.Getppid() == parent { // as --exit-with-parent
		select {
		case <-ended:
			return 0
		case <-time.After(20 * time.Millisecond):
		}
	}
	return 1
}

// withVDDK has the command read through what it takes for nbdkit and VDDK.
func (s *site) withVDDK() {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "v") // sockets' paths are short
	require.NoError(s.t, err)
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	require.NoError(s.t, err)
	fake := filepath.Join(dir, "nbdkit")
	require.NoError(s.t, os.Symlink(self, fake))
	require.NoError(s.t, os.MkdirAll(filepath.Join(dir, "lib64"), 0o700))
	require.NoError(s.t, os.WriteFile(filepath.Join(dir, "lib64", "libvixDiskLib.so.8"), nil, 0o600))
	l, err := net.Listen("unix", filepath.Join(dir, "disks"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	s.args = append(s.args, "--vddk", dir, "--nbdkit", fake, "--transport", "vddk")
}

func (s *site) serve(c net.Conn) {
	defer c.Close()
	var r served
	password, _ := s.sim.URL.User.Password()
	if err := json.NewDecoder(c).Decode(&r); err != nil || r.Password != password {
		s.t.Errorf("nbdkit was started wrongly: %v", err)
		return
	}
	l, err := net.Listen("unix", r.Socket)
	if err != nil {
		s.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.sim.ServeNBD(ctx, l, vmwaretest.NBDExport{File: r.File,
			VM:       types.ManagedObjectReference{Type: "VirtualMachine", Value: r.VM},
			Snapshot: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: r.Snapshot}})
	}()
	if err := os.WriteFile(r.PidFile, nil, 0o600); err != nil {
		s.t.Error(err)
	}
	_, _ = c.Read(make([]byte, 1)) // until the stand-in is gone
	cancel()
	<-done
}

func (s *site) sent() int64 { return s.sim.Traffic(vmwaretest.NBD).Sent }

func TestOnlyChangesTravel(t *testing.T) {
	s := newSite(t, vmwaretest.Options{Password: "s3cret"})
	s.withVDDK()
	a, b := s.add("a", 1, 24*mib), s.add("b", 2, 8*mib, 8*mib)
	s.protect("--all")
	require.EqualValues(t, 40*mib, s.sent())
	s.holds(a, a.want)
	s.holds(b, b.want)

	before := s.sent()
	a.write(0, noise(64<<10), 3*mib)
	a.write(0, noise(100), 20*mib)
	b.write(1, noise(mib), 7*mib)
	r := s.protect("--all")
	require.EqualValues(t, 2*(64<<10)+mib, s.sent()-before, "what changed, in the 64 KiB of change tracking, and nothing else")
	require.Regexp(t, `(?m)^a +crash +128\.0 KiB +128\.0 KiB +128\.0 KiB`, r.out)
	require.Regexp(t, `(?m)^b +crash +1\.0 MiB +1\.0 MiB +1\.0 MiB`, r.out)
	s.holds(a, a.live())
	s.holds(b, b.live())

	before = s.sent()
	s.protect("--all")
	require.Equal(t, before, s.sent(), "nothing changed, nothing travels")
	s.clean(a, b)
	s.verified("no damage: 6 points of 2 machines")
}

// caught starts the command, and signals it once as many bytes have travelled.
func (s *site) caught(sig syscall.Signal, bytesSent int64, args ...string) (c *exec.Cmd, errs *bytes.Buffer) {
	s.t.Helper()
	before := s.sent()
	c = s.command(append([]string{"--store", s.store}, args...)...)
	errs = new(bytes.Buffer)
	c.Stderr = errs
	require.NoError(s.t, c.Start())
	deadline := time.Now().Add(time.Minute)
	for s.sent()-before < bytesSent {
		require.True(s.t, time.Now().Before(deadline), "the copy doesn't get there:\n%s", errs)
		time.Sleep(time.Millisecond)
	}
	require.NoError(s.t, c.Process.Signal(sig))
	return c, errs
}

// begun is what the store has of the machine's copy that was cut off, in bytes.
func (s *site) begun(g *guest) (stored int64) {
	s.t.Helper()
	v := s.open()
	defer v.Close()
	ctx := context.Background()
	for p, err := range v.Pending(ctx, g.id) {
		require.NoError(s.t, err)
		d, err := v.Create(ctx, p)
		require.NoError(s.t, err)
		r, ok := dr.As[dr.Resumer](d)
		require.True(s.t, ok)
		for _, disk := range p.Machine.Disks {
			for e, err := range r.Durable(ctx, disk.ID) {
				require.NoError(s.t, err)
				stored += e.Len
			}
		}
		require.NoError(s.t, d.Close())
	}
	return stored
}

func TestKilledCopyGoesOn(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	s.withVDDK()
	const size = 160 * mib // of noise: segments of the store have 32
	g := s.add("web", 1, size)
	c, _ := s.caught(syscall.SIGKILL, 100*mib, "--limit", "100MiB", "web")
	require.Error(t, c.Wait())
	require.Empty(t, s.points(g.id), "nothing half done is seen")
	require.Equal(t, 1, g.vm.Snapshots(), "what the copy goes on with")
	stored := s.begun(g)
	require.GreaterOrEqual(t, stored, int64(32*mib))

	// The guest goes on; the point is of the moment when it was begun.
	frozen := bytes.Clone(g.want[0])
	g.write(0, noise(2*mib), 0)
	g.write(0, noise(2*mib), 150*mib)
	before := s.sent()
	r := s.protect("web")
	require.EqualValues(t, size-stored, s.sent()-before, "what is stored isn't copied again")
	require.Contains(t, r.errors, " MiB resumed")
	s.holds(g, [][]byte{frozen})
	s.clean(g)

	before = s.sent()
	s.protect("web")
	require.EqualValues(t, 4*mib, s.sent()-before)
	s.holds(g, g.live())
	s.clean(g)
	s.verified("no damage: 2 points of 1 machine")
}

// The snapshot of a copy that was killed, and that can't be gone on with any
// more, is swept all the same.
func TestOrphansAreSwept(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	s.withVDDK()
	g := s.add("web", 1, 160*mib)
	c, _ := s.caught(syscall.SIGKILL, 60*mib, "--limit", "60MiB", "web")
	require.Error(t, c.Wait())
	require.Equal(t, 1, g.vm.Snapshots())
	require.NoError(t, os.RemoveAll(s.store))
	foreign, err := g.vm.AddSnapshot("before the upgrade", "somebody's own")
	require.NoError(t, err)
	s.protect("web")
	require.Equal(t, 1, g.vm.Snapshots(), "only what isn't ours is left")
	require.NoError(t, g.vm.RemoveSnapshot(foreign))
	s.holds(g, g.want)
	s.clean(g)
}

func TestInterruptEndsInOrder(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	s.withVDDK()
	a, b, late := s.add("a", 1, 160*mib), s.add("b", 2, 160*mib), s.add("late", 3, mib)
	c, errs := s.caught(syscall.SIGINT, 80*mib, "--limit", "60MiB", "--parallel", "2", "--all")
	require.Error(t, c.Wait())
	require.Equal(t, 130, c.ProcessState.ExitCode())
	require.Equal(t, "a: interrupted\nb: interrupted\n"+program+": interrupted\n", sorted(errs.String()))
	s.clean(a, b, late)
	require.Zero(t, s.begun(a)+s.begun(b))

	c, _ = s.caught(syscall.SIGTERM, 80*mib, "--limit", "80MiB", "--keep-snapshots", "a")
	require.Error(t, c.Wait())
	require.Equal(t, 130, c.ProcessState.ExitCode())
	require.Equal(t, 1, a.vm.Snapshots())
	stored, before := s.begun(a), s.sent()
	require.GreaterOrEqual(t, stored, int64(32*mib))
	s.protect("a")
	require.EqualValues(t, 160*mib-stored, s.sent()-before)
	s.holds(a, a.want)
	s.clean(a, b)
}

// sorted puts the lines of machines, which end in any order, into theirs.
func sorted(text string) string {
	lines := strings.SplitAfter(text, "\n")
	for i := range lines {
		for j := i; j > 0 && strings.HasSuffix(lines[j], ": interrupted\n") && !strings.HasPrefix(lines[j], program) && lines[j] < lines[j-1]; j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	return strings.Join(lines, "")
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	s.withVDDK()
	g := s.add("a", 1, 64*mib)
	hold := make(chan struct{})
	s.sim.Fault(vmwaretest.Fault{Call: "RemoveSnapshot_Task", Err: &types.TaskInProgress{}, Hold: hold})
	defer close(hold)
	c, _ := s.caught(syscall.SIGINT, 8*mib, "--limit", "8MiB", "a")
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case <-ended:
		t.Fatal("it should be waiting for the snapshot to be removed")
	case <-time.After(500 * time.Millisecond):
	}
	require.NoError(t, c.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.True(t, errors.As(<-ended, &exit))
	require.Equal(t, syscall.SIGINT, exit.Sys().(syscall.WaitStatus).Signal())
	require.Equal(t, 1, g.vm.Snapshots())
}

// after interrupts a command, once, when it has printed a line of points n
// times. The line itself is printed at once.
type after struct {
	c *exec.Cmd
	n int
}

func (a *after) Write(p []byte) (int, error) {
	before := a.n
	if a.n -= strings.Count(string(p), "1 point of 1 machine in "); before > 0 && a.n <= 0 {
		_ = a.c.Process.Signal(syscall.SIGINT)
	}
	return len(p), nil
}

func TestEveryRoundExpiresOldPoints(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	g := s.add("web", 1, 4*mib)
	c := s.command("--store", s.store, "--every", "1s", "--keep", "1s", "web")
	c.Stdout = &after{c, 4}
	r := end(t, c)
	require.Equal(t, 0, r.code, "between rounds nothing is interrupted")
	require.Regexp(t, `1 point expired, \d`, r.out)
	require.LessOrEqual(t, len(s.points(g.id)), 3)
	s.holds(g, g.want)
	s.clean(g)

	// A round that fails doesn't end it.
	s.sim.Fault(vmwaretest.Fault{Call: "CreateSnapshot_Task", Err: &types.NoPermission{}})
	c = s.command("--store", s.store, "--every", "1s", "web")
	c.Stdout = &after{c, 1}
	r = end(t, c)
	require.Equal(t, 0, r.code)
	require.Contains(t, r.errors, "round 1: every machine failed")
	require.Contains(t, r.out, "1 point of 1 machine in ")
}

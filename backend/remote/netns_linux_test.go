package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// The addresses of the two ends, each in a network namespace of its own.
const (
	agentIP      = "192.0.2.1"
	replicatorIP = "192.0.2.2"
)

// wires are two network namespaces and the cable between them: what TCP does about
// a line that breaks is the kernel's own doing.
type wires struct {
	t                 testing.TB
	agent, replicator string // names of the namespaces
}

var wiresMade atomic.Int64

func newWires(t testing.TB) *wires {
	t.Helper()
	if testing.Short() {
		t.Skip("processes of their own, and mostly waiting")
	}
	if os.Geteuid() != 0 {
		lack(t, "network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		lack(t, "ip is not installed")
	}
	id := fmt.Sprintf("lb%d-%d", os.Getpid(), wiresMade.Add(1))
	w := &wires{t: t, agent: id + "a", replicator: id + "r"}
	for _, ns := range []string{w.agent, w.replicator} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			lack(t, fmt.Sprintf("a network namespace can't be made: %s", out))
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	}
	w.ip("-n", w.agent, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", w.replicator)
	for ns, ip := range map[string]string{w.agent: agentIP, w.replicator: replicatorIP} {
		w.ip("-n", ns, "addr", "add", ip+"/30", "dev", "cable")
		w.ip("-n", ns, "link", "set", "cable", "up")
		w.ip("-n", ns, "link", "set", "lo", "up")
	}
	return w
}

func (w *wires) ip(args ...string) {
	w.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(w.t, err, "ip %s: %s", strings.Join(args, " "), out)
}

// pull pulls the cable out at the replicator's end, or puts it in again. Nobody is
// told: packets are not delivered.
func (w *wires) pull(out bool) {
	w.t.Helper()
	state := "up"
	if out {
		state = "down"
	}
	w.ip("-n", w.replicator, "link", "set", "cable", state)
}

// sent is how many bytes have left the agent's host, headers and what was sent
// again included.
func (w *wires) sent() int64 {
	w.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", w.agent, "cat", "/sys/class/net/cable/statistics/tx_bytes").Output()
	require.NoError(w.t, err)
	n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	require.NoError(w.t, err)
	return n
}

// resent is how many segments the agent's kernel had to send again.
func (w *wires) resent() int {
	w.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", w.agent, "cat", "/proc/net/snmp").Output()
	require.NoError(w.t, err)
	var names, values []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); f[0] == "Tcp:" {
			names, values = values, f
		}
	}
	k := slices.Index(names, "RetransSegs")
	require.Positive(w.t, k)
	n, err := strconv.Atoi(values[k])
	require.NoError(w.t, err)
	return n
}

// within is the beginning of a command line that runs in a namespace.
func within(ns string) []string { return []string{"ip", "netns", "exec", ns} }

// errand is what a replicator is to do, as a process.
type errand struct {
	Addr, PKI, Vault string
	Machine          dr.MachineID
	Point            dr.PointID
	Weather          faultyline.Weather
	Seed             uint64
	Once             bool // an error ends it; else it goes on until the point is there
}

// outcome is what it says at its end.
type outcome struct {
	Report   replication.Report
	Attempts int
	Error    string        // of the last attempt that failed
	Longest  time.Duration // an attempt that failed took
}

func init() { roles["replicate"] = replicate }

// replicate is the replicator: its job is in the environment, the outcome goes to
// standard output.
func replicate() int {
	var e errand
	if err := json.Unmarshal([]byte(os.Getenv("LIFEBOAT_TEST_JOB")), &e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o, err := e.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(o)
	return 0
}

func (e errand) run(ctx context.Context) (o outcome, err error) {
	addr := e.Addr
	if e.Weather != (faultyline.Weather{}) {
		line, err := faultyline.New(addr, e.Seed)
		if err != nil {
			return o, err
		}
		defer line.Close()
		line.Set(e.Weather)
		addr = line.Addr()
	}
	v, err := vault.OpenDir(e.Vault, vault.Options{})
	if err != nil {
		return o, err
	}
	defer v.Close()
	conf, err := pkiTLS(e.PKI)
	if err != nil {
		return o, err
	}
	var c *Client
	for {
		err = nil
		begun := time.Now()
		o.Attempts++
		if c == nil {
			c, err = Dial(ctx, addr, DialOptions{TLS: conf})
		}
		if err == nil {
			o.Report, err = (&replication.Cycle{Source: c, Points: v}).ReplicateAs(ctx, e.Machine, e.Point, dr.CrashConsistent, replication.CycleOptions{})
		}
		if err == nil {
			return o, c.Close()
		}
		o.Error, o.Longest = err.Error(), max(o.Longest, time.Since(begun))
		fmt.Fprintf(os.Stderr, "attempt %d: %v\n", o.Attempts, err)
		if e.Once {
			return o, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return o, ctx.Err()
		}
	}
}

// replicator is such a process under way.
type replicator struct {
	t      testing.TB
	cmd    *exec.Cmd
	out    said
	log    said
	waited chan error
}

func (w *wires) replicate(e errand) *replicator {
	w.t.Helper()
	self, err := os.Executable()
	require.NoError(w.t, err)
	job, err := json.Marshal(e)
	require.NoError(w.t, err)
	args := append(within(w.replicator), self)
	r := &replicator{t: w.t, cmd: exec.Command(args[0], args[1:]...), waited: make(chan error, 1)}
	r.cmd.Env = append(os.Environ(), "LIFEBOAT_TEST_ROLE=replicate", "LIFEBOAT_TEST_JOB="+string(job))
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.log
	require.NoError(w.t, r.cmd.Start())
	go func() { r.waited <- r.cmd.Wait() }()
	w.t.Cleanup(r.kill)
	return r
}

// kill ends it without a word. ip has become the process itself.
func (r *replicator) kill() {
	select {
	case err := <-r.waited:
		r.waited <- err
		return
	default:
	}
	_ = r.cmd.Process.Signal(syscall.SIGKILL)
	r.waited <- <-r.waited
}

// outcome waits for its end.
func (r *replicator) outcome(limit time.Duration) (o outcome) {
	r.t.Helper()
	select {
	case err := <-r.waited:
		r.waited <- err
		require.NoError(r.t, err, "%s", &r.log)
	case <-time.After(limit):
		require.Fail(r.t, "the replicator hangs", "%v, %s", limit, &r.log)
	}
	require.NoError(r.t, json.Unmarshal([]byte(r.out.String()), &o))
	return o
}

func (r *replicator) over() bool {
	select {
	case err := <-r.waited:
		r.waited <- err
		return true
	default:
		return false
	}
}

// holds reads a point's disk from a vault that nobody has open.
func holds(t testing.TB, dir string, m dr.MachineID, p dr.PointID, size int) []byte {
	t.Helper()
	v, err := vault.OpenDir(dir, vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	img, err := v.Open(t.Context(), m, p)
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, size)
	n, err := img.ReadAt(t.Context(), "a", got, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	require.Equal(t, size, n)
	return got
}

// scribbler writes to a disk, but not while it is frozen. Who has made the folder gate
// may write or has frozen.
type scribbler struct {
	t    testing.TB
	dir  string
	disk string
	stop func()
}

func newGuest(t testing.TB, dir, disk string) *scribbler {
	return &scribbler{t: t, dir: dir, disk: disk}
}

// freeze and thaw are its host's hooks. A freeze that is repeated succeeds.
func (g *scribbler) freeze() []string {
	return []string{"/bin/sh", "-c", `cd "$0" && { test -e gate/frozen || { until mkdir gate 2>/dev/null; do sleep 0.01; done; : > gate/frozen; }; } && cp "$1" frozen.img`, g.dir, g.disk}
}

func (g *scribbler) thaw() []string {
	return []string{"/bin/sh", "-c", `cd "$0" && { ! test -e gate/frozen || rm -r gate; }`, g.dir}
}

func (g *scribbler) frozen() bool {
	_, err := os.Stat(filepath.Join(g.dir, "gate", "frozen"))
	return err == nil
}

// write lets it write p at off, when it isn't frozen.
func (g *scribbler) write(ctx context.Context, p []byte, off int64) bool {
	gate := filepath.Join(g.dir, "gate")
	for os.Mkdir(gate, 0o700) != nil {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	f, err := os.OpenFile(g.disk, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(p, off)
		if e := f.Close(); err == nil {
			err = e
		}
	}
	if err != nil {
		g.t.Error(err)
	}
	_ = os.Remove(gate)
	return true
}

// run lets it write one thing after the other until stop is called.
func (g *scribbler) run(next func() ([]byte, int64)) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			p, off := next()
			if !g.write(ctx, p, off) {
				return
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	g.stop = func() { cancel(); all.Wait() }
}

package vmware

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var everyStop = flag.Bool("every-stop", false, "let the old worker stand still at every call, not at a sample of them")

var oneStop = flag.Int("one-stop", 0, "let it stand still before this call only")

// stops are how many calls of each kind are tried of those that a flow makes.
const stops = 8

// orders is what the old worker is told.
type orders struct {
	URL   string       // of the simulator
	Disks string       // socket where disks are served
	Key   string       // of the replica
	Wire  bool         // it stands still with the call decided and not sent, else before it is decided
	Stop  int          // the number of the call at which it does; 0: never
	Epoch uint64       // of its claim
	Size  int64        // of the disk
	Fresh int64        // VSphere.fresh once it wakes, in nanoseconds
	ID    dr.MachineID // of the machine that the replica stands for
}

// said is what it tells of each of its steps, one JSON value each.
type said struct {
	Step   string
	Before int // calls before the step
	After  int
	Err    string
	Fenced bool
}

// A worker's process stands still at a call of its flow, another takes its claim
// over and fills the replica otherwise, and then it wakes and goes on. Of what it
// asks for then vSphere does nothing, but for the one call that was decided
// before: and of those only power, snapshots, and the machine's end, which take
// no condition.
func TestTheOldWorkerStoodStill(t *testing.T) {
	w := newVCenter(t, vmwaretest.Options{})
	served := serveDisks(t, w)
	rest := orders{URL: w.sim.URL.String(), Disks: served, Epoch: 1, Size: mib, Fresh: int64(20 * time.Millisecond)}
	v := connect(t, w.o)
	v.fresh = 25 * time.Duration(rest.Fresh) // it answers in time, also on a busy machine
	var late []string                        // what took effect after all
	for _, wire := range []bool{false, true} {
		name := map[bool]string{false: "before the call is decided", true: "before the call is sent"}[wire]
		t.Run(name, func(t *testing.T) {
			o := rest
			o.Wire, o.Key = wire, "all "+name
			worker := startOld(t, o)
			worker.wait()
			require.Len(t, worker.told, len(oldSteps))
			for _, s := range worker.told {
				require.Empty(t, s.Err, s.Step)
			}
			calls := worker.told[len(worker.told)-1].After
			if *oneStop > 0 {
				o.Stop, o.Key = *oneStop, fmt.Sprint(name, *oneStop)
				takeOver(t, w, v, o)
				return
			}
			at := rand.New(rand.NewPCG(*seed, 1)).Perm(calls)
			if !*everyStop {
				at = at[:stops]
			}
			slices.Sort(at)
			t.Logf("seed %d: of %d calls it stands still at %d", *seed, calls, len(at))
			for _, n := range at {
				o.Stop, o.Key = n+1, fmt.Sprint(name, n+1)
				late = append(late, takeOver(t, w, v, o)...)
			}
		})
	}
	slices.Sort(late)
	t.Logf("took effect after the takeover: %v", late)
}

// takeOver lets the old worker stand still, finishes in its place, wakes it, and
// tells what it did then.
func takeOver(t *testing.T, w *vcenter, v *VSphere, o orders) (late []string) {
	t.Helper()
	say := fmt.Sprintf("wire %v, call %d", o.Wire, o.Stop)
	ctx := dr.WithFences(context.Background(), map[string]uint64{"protection": o.Epoch + 1})
	worker := startOld(t, o)
	defer worker.kill()
	if !worker.stopped() {
		return nil
	}
	since := time.Now()

	content := bytes.Repeat([]byte{0xee}, mib)
	fill := func() (dr.MachineID, error) {
		r, err := v.Prepare(ctx, placement(o))
		if errors.Is(err, dr.ErrRunning) {
			require.NoError(t, v.Stop(ctx, machineFor(o.Key)), say)
			r, err = v.Prepare(ctx, placement(o))
		}
		if err != nil {
			return "", err
		}
		return r.ID, fillDisk(ctx, v, r.ID, o, "theirs", content)
	}
	id, err := fill()
	locked := err != nil
	if locked { // the old one has the disk open, which vSphere lets only one write
		require.ErrorContains(t, err, "locked", say)
	}
	if d := time.Duration(2*o.Fresh) - time.Since(since); d > 0 {
		time.Sleep(d) // it must have stood still for longer than what it knows counts
	}
	before, version, received := w.sim.AllCalls(), changeVersion(t, v, id), w.sim.Traffic(vmwaretest.NBD).Received
	worker.goOn()
	worker.wait()
	for call, n := range w.sim.AllCalls() {
		if n -= before[call]; n > 0 && acts(call) {
			late = append(late, call)
			require.Equal(t, 1, n, "%s: %s", say, call)
		}
	}
	gone := slices.Equal(late, []string{"Destroy_Task"})
	wrote := w.sim.Traffic(vmwaretest.NBD).Received - received
	for _, s := range worker.told {
		if s.Before >= o.Stop { // the one before may have had all its effects already
			require.True(t, s.Fenced || gone, "%s: %s after it woke: %q", say, s.Step, s.Err)
		}
	}
	require.LessOrEqual(t, len(late), 1, say)
	if len(late) == 0 || late[0] == "ReconfigVM_Task" || late[0] == "CreateVM_Task" { // refused: the version is stale, the name is taken
		require.Equal(t, version, changeVersion(t, v, id), say)
		late = nil
	}
	if !o.Wire {
		require.Empty(t, late, "%s: %+v", say, worker.told)
	}
	if wrote > 0 { // a write that was under way, to a disk that is torn
		require.True(t, locked && o.Wire, say)
	}

	// The machine is as well as it can be: whoever owns it goes on.
	if id, err = fill(); err != nil {
		require.NoError(t, err, say)
	}
	r, err := v.Prepare(ctx, placement(o))
	require.NoError(t, err, say)
	require.EqualValues(t, "theirs", r.Holds, say)
	vm, keys, err := w.vm(id)
	require.NoError(t, err)
	got := make([]byte, mib)
	_, err = vm.Read(keys["disk"], got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got), say)
	require.NoError(t, v.Remove(ctx, id), say)
	return late
}

// acts tells whether a method changes anything.
func acts(call string) bool {
	return strings.HasSuffix(call, "_Task") || call == "ShutdownGuest"
}

func changeVersion(t *testing.T, v *VSphere, id dr.MachineID) string {
	m, err := v.find(context.Background(), id)
	if isNotFound(err) {
		return ""
	}
	require.NoError(t, err)
	return m.config.ChangeVersion
}

func placement(o orders) backend.Placement {
	return backend.Placement{Key: o.Key, Name: o.Key, Machine: dr.Machine{ID: o.ID, Name: "web", Disks: []dr.Disk{{ID: "disk", Size: o.Size}}}}
}

// fillDisk makes the machine hold a point.
func fillDisk(ctx context.Context, v *VSphere, id dr.MachineID, o orders, point dr.PointID, content []byte) error {
	p := dr.Point{ID: point, Time: time.Unix(1, 0), Machine: placement(o).Machine}
	d, err := v.Draft(ctx, id, p)
	if err != nil {
		return err
	}
	for off := 0; off < len(content) && err == nil; off += 256 << 10 {
		_, err = d.WriteAt(ctx, "disk", content[off:off+256<<10], int64(off))
	}
	if err == nil {
		err = d.Commit(ctx, p)
	}
	return errors.Join(err, d.Close())
}

// oldSteps are the old worker's flow. It goes on whatever happens to a step.
var oldSteps = []struct {
	name string
	do   func(context.Context, *VSphere, orders) error
}{
	{"prepare", func(ctx context.Context, v *VSphere, o orders) error {
		_, err := v.Prepare(ctx, placement(o))
		return err
	}},
	{"fill", func(ctx context.Context, v *VSphere, o orders) error {
		return fillDisk(ctx, v, machineFor(o.Key), o, "first", bytes.Repeat([]byte{1}, int(o.Size)))
	}},
	{"start", func(ctx context.Context, v *VSphere, o orders) error { return v.Start(ctx, machineFor(o.Key)) }},
	{"stop", func(ctx context.Context, v *VSphere, o orders) error { return v.Stop(ctx, machineFor(o.Key)) }},
	{"fill again", func(ctx context.Context, v *VSphere, o orders) error {
		return fillDisk(ctx, v, machineFor(o.Key), o, "second", bytes.Repeat([]byte{2}, int(o.Size)))
	}},
	{"start again", func(ctx context.Context, v *VSphere, o orders) error { return v.Start(ctx, machineFor(o.Key)) }},
	{"shut down", func(ctx context.Context, v *VSphere, o orders) error { return v.Shutdown(ctx, machineFor(o.Key)) }},
	{"start once more", func(ctx context.Context, v *VSphere, o orders) error { return v.Start(ctx, machineFor(o.Key)) }},
	{"remove", func(ctx context.Context, v *VSphere, o orders) error { return v.Remove(ctx, machineFor(o.Key)) }},
}

// TestOldWorker is the process of the test above.
func TestOldWorker(t *testing.T) {
	raw := os.Getenv("LIFEBOAT_OLD_WORKER")
	if raw == "" {
		t.Skip("runs as a child only")
	}
	var o orders
	require.NoError(t, json.Unmarshal([]byte(raw), &o))
	u, err := url.Parse(o.URL)
	require.NoError(t, err)
	c := &counter{stop: o.Stop}
	at := func(wire bool) func() {
		if wire == o.Wire {
			return c.call
		}
		return func() {}
	}
	v := connect(t, Options{URL: u, Insecure: true, Transports: []Transport{counted{Servers(elsewhere(o.Disks)), at(true)}}})
	c.woken = func() { v.fresh = time.Duration(o.Fresh) }
	v.session.next = &countedCalls{v.session.next, at(true), func() {}}
	v.client.RoundTripper = &countedCalls{v.session, at(false), at(false)}
	ctx := dr.WithFences(context.Background(), map[string]uint64{"protection": o.Epoch})
	out := json.NewEncoder(os.NewFile(3, "told"))
	for _, step := range oldSteps {
		s := said{Step: step.name, Before: c.now()}
		if err := step.do(ctx, v, o); err != nil {
			s.Err, s.Fenced = err.Error(), errors.Is(err, dr.ErrFenced)
		}
		s.After = c.now()
		require.NoError(t, out.Encode(s))
	}
}

// counter counts calls, and stands still before one of them.
type counter struct {
	mu      sync.Mutex
	n, stop int
	woken   func()
}

func (c *counter) call() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n++; c.n == c.stop {
		// Sent to the process, it would stop some thread, and this one a little
		// later: perhaps when the call is decided.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP); err != nil {
			panic(err)
		}
		c.woken()
	}
}

func (c *counter) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

type countedCalls struct {
	soap.RoundTripper
	before, after func()
}

func (s *countedCalls) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	s.before()
	defer s.after()
	return s.RoundTripper.RoundTrip(ctx, req, res)
}

// counted counts the writes of disks.
type counted struct {
	Transport
	call func()
}

func (c counted) open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error) {
	dev, err := c.Transport.open(ctx, v, d, write)
	if w, ok := dr.As[writable](dev); ok && err == nil {
		return &countedDisk{w, c.call}, nil
	}
	return dev, err
}

type countedDisk struct {
	writable
	call func()
}

func (c *countedDisk) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	c.call()
	return c.writable.WriteAt(ctx, p, off)
}

// elsewhere asks another process, at a socket, to serve disks.
type elsewhere string

func (e elsewhere) ServeDisk(_ context.Context, r DiskRequest) (uri string, stop func() error, err error) {
	c, err := net.Dial("unix", string(e))
	if err != nil {
		return "", nil, err
	}
	if err := json.NewEncoder(c).Encode(vmwaretest.NBDExport{VM: types.ManagedObjectReference{Type: "VirtualMachine", Value: r.VM}, File: r.File}); err != nil {
		return "", nil, errors.Join(err, c.Close())
	}
	var a struct{ URI, Err string }
	if err := json.NewDecoder(c).Decode(&a); err != nil || a.Err != "" {
		return "", nil, errors.Join(err, c.Close(), errors.New(a.Err))
	}
	return a.URI, func() error { // until the other side says that it is over
		err := c.(*net.UnixConn).CloseWrite()
		_, rest := io.Copy(io.Discard, c)
		return errors.Join(err, rest, c.Close())
	}, nil
}

// serveDisks is the other side, for as long as the one that asked holds the
// connection.
func serveDisks(t *testing.T, w *vcenter) (socket string) {
	disks := w.o.Transports[0].(servers).DiskServer.(*inProcess)
	socket = filepath.Join(disks.dir, "ask")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var all sync.WaitGroup
	var n atomic.Int64
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				var e vmwaretest.NBDExport
				if json.NewDecoder(c).Decode(&e) != nil {
					return
				}
				at := filepath.Join(disks.dir, fmt.Sprint("asked", n.Add(1)))
				a, stop := serveOne(w.sim, at, e)
				_ = json.NewEncoder(c).Encode(a)
				_, _ = io.Copy(io.Discard, c)
				stop()
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return socket
}

func serveOne(sim *vmwaretest.Simulator, at string, e vmwaretest.NBDExport) (answer struct{ URI, Err string }, stop func()) {
	l, err := net.Listen("unix", at)
	if err != nil {
		answer.Err = err.Error()
		return answer, func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sim.ServeNBD(ctx, l, e) }()
	answer.URI = "nbd+unix:///?socket=" + at
	return answer, func() { cancel(); <-done }
}

// oldWorker is the process that stands still.
type oldWorker struct {
	t    *testing.T
	p    *os.Process
	out  *os.File
	done chan struct{}
	told []said
	over bool
}

func startOld(t *testing.T, o orders) *oldWorker {
	t.Helper()
	raw, err := json.Marshal(o)
	require.NoError(t, err)
	r, wr, err := os.Pipe()
	require.NoError(t, err)
	defer wr.Close()
	self, err := os.Executable()
	require.NoError(t, err)
	p, err := os.StartProcess(self, []string{self, "-test.run=^TestOldWorker$"}, &os.ProcAttr{
		Env: append(os.Environ(), "LIFEBOAT_OLD_WORKER="+string(raw)), Files: []*os.File{nil, nil, os.Stderr, wr}})
	require.NoError(t, err)
	w := &oldWorker{t: t, p: p, out: r, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for d := json.NewDecoder(r); ; {
			var s said
			if d.Decode(&s) != nil {
				return
			}
			w.told = append(w.told, s)
		}
	}()
	return w
}

// stopped waits until it stands still. How often it asks after tasks depends on
// the time that they take: it may have come to its end with fewer calls.
func (w *oldWorker) stopped() bool {
	w.t.Helper()
	var s syscall.WaitStatus
	_, err := syscall.Wait4(w.p.Pid, &s, syscall.WUNTRACED, nil)
	require.NoError(w.t, err)
	w.over = !s.Stopped()
	require.True(w.t, s.Stopped() || s.ExitStatus() == 0, "the old worker failed: %v", s)
	return s.Stopped()
}

func (w *oldWorker) goOn() { require.NoError(w.t, w.p.Signal(syscall.SIGCONT)) }

// wait waits for its end.
func (w *oldWorker) wait() {
	w.t.Helper()
	s, err := w.p.Wait()
	require.NoError(w.t, err)
	w.over = true
	<-w.done
	w.out.Close()
	require.True(w.t, s.Success(), "the old worker failed: %v", s)
}

func (w *oldWorker) kill() {
	if !w.over {
		_ = w.p.Kill()
		_, _ = w.p.Wait()
	}
}

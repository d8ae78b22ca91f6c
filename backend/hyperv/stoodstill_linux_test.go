package hyperv

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// remoteStops are how many moments are tried at which a client's process stands
// still.
const remoteStops = 6

// orders is what the old worker's process is told.
type orders struct {
	Addr    string
	CA      []byte
	Pair    trialpki.Pair
	Machine dr.MachineID
	Key     string
	Stop    int // at which reading or writing of its connections it stands still; 0: never
}

// stepTold is what it tells of each step of its flow.
type stepTold struct {
	Step   string
	Before int
	After  int
	Err    string
	Fenced bool
}

// A worker elsewhere, whose process stands still, has nothing under way but what
// its agent has received: the agent does nothing for it once another was there.
func TestTheOldClientStoodStill(t *testing.T) {
	s := newSite(t, hypervtest.Options{})
	ca, err := trialpki.New("trial", time.Hour)
	require.NoError(t, err)
	server, err := ca.Server("agent", "127.0.0.1")
	require.NoError(t, err)
	cert, err := server.TLS()
	require.NoError(t, err)
	pair, err := ca.Client("worker")
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- remote.Serve(ctx, ln, s.connect(), remote.ServeOptions{Grace: -1,
			TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}})
	}()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	o := orders{Addr: ln.Addr().String(), CA: ca.PEM(), Pair: pair, Key: "never"}
	told := o.start(t, s).wait()
	for _, step := range told {
		require.Empty(t, step.Err, step.Step)
	}
	turns := told[len(told)-1].After
	at := rand.New(rand.NewPCG(*seed, 3)).Perm(turns)
	if !*everyStop {
		at = at[:remoteStops]
	}
	t.Logf("seed %d: of %d turns it stands still at %d", *seed, turns, len(at))
	for _, n := range at {
		o.Stop, o.Key = n+1, fmt.Sprint("replica", n)
		o.takeOver(t, s)
	}
}

// dial connects to the agent.
func (o orders) dial(wrap func(net.Conn) net.Conn) (*remote.Client, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(o.CA)
	cert, err := o.Pair.TLS()
	if err != nil {
		return nil, err
	}
	return remote.Dial(context.Background(), o.Addr, remote.DialOptions{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return wrap(c), nil
		}})
}

func (o orders) takeOver(t *testing.T, s *site) {
	t.Helper()
	h, p, say := s.nodes[0], placed(o.Key), fmt.Sprintf("turn %d", o.Stop)
	theirs, err := o.dial(func(c net.Conn) net.Conn { return c })
	require.NoError(t, err)
	defer theirs.Close()
	old := o.start(t, s)
	defer old.kill()
	if !old.stopped() {
		return
	}
	fill := func() (dr.MachineID, error) {
		id, err := newOwner(theirs, p)
		if errors.Is(err, dr.ErrRunning) {
			require.NoError(t, theirs.Stop(claimed(2), old.id), say)
			id, err = newOwner(theirs, p)
		}
		return id, err
	}
	if _, err = fill(); err != nil { // the agent has the disk open for the old one
		require.ErrorContains(t, err, host.ErrInUse.Error(), say)
	}
	before := h.Calls()
	old.goOn()
	told := old.wait()
	require.Empty(t, since(h, before), "%s: %v", say, told)
	for _, step := range told {
		if step.Before >= o.Stop {
			require.True(t, step.Fenced, "%s: %s after it woke: %q", say, step.Step, step.Err)
		}
	}
	id, err := fill()
	require.NoError(t, err, say)
	vm, uuid, err := s.disk(id, "disk")
	require.NoError(t, err)
	got := make([]byte, diskSize)
	require.NoError(t, vm.Read(uuid, got, 0))
	require.True(t, bytes.Equal(bytes.Repeat([]byte{0xee}, diskSize), got), say)
	require.NoError(t, theirs.Remove(claimed(2), id), say)
}

// TestOldClient is the process of the test above.
func TestOldClient(t *testing.T) {
	raw := os.Getenv("LIFEBOAT_OLD_CLIENT")
	if raw == "" {
		t.Skip("runs as a child only")
	}
	var o orders
	require.NoError(t, json.Unmarshal([]byte(raw), &o))
	turns := &turns{stop: o.Stop}
	c, err := o.dial(func(c net.Conn) net.Conn { return turningConn{c, turns} })
	require.NoError(t, err)
	defer c.Close()
	turns.begin()
	out := json.NewEncoder(os.NewFile(3, "told"))
	for _, step := range oldFlow {
		x := stepTold{Step: step.name, Before: turns.now()}
		if err := step.do(claimed(1), c, placed(o.Key), o.Machine); err != nil {
			x.Err, x.Fenced = err.Error(), errors.Is(err, dr.ErrFenced)
		}
		x.After = turns.now()
		require.NoError(t, out.Encode(x))
	}
}

// turns counts what is read and written, and stands still at one of them.
type turns struct {
	mu      sync.Mutex
	on      bool
	n, stop int
}

func (c *turns) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = true
}

func (c *turns) turn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.on {
		return
	}
	if c.n++; c.n == c.stop { // this very thread, now
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP); err != nil {
			panic(err)
		}
	}
}

func (c *turns) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

type turningConn struct {
	net.Conn
	turns *turns
}

func (c turningConn) Write(p []byte) (int, error) {
	c.turns.turn()
	return c.Conn.Write(p)
}

func (c turningConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.turns.turn()
	return n, err
}

// oldClient is the process.
type oldClient struct {
	t    *testing.T
	id   dr.MachineID
	p    *os.Process
	out  *os.File
	over bool
}

// start makes the replica that it is about, and starts the process.
func (o orders) start(t *testing.T, s *site) *oldClient {
	t.Helper()
	r, err := s.connect().Prepare(claimed(1), placed(o.Key))
	require.NoError(t, err)
	vm, err := s.vm(r.ID)
	require.NoError(t, err)
	vm.SetGuest(func(g *hypervtest.Guest) { *g = linux })
	o.Machine = r.ID
	raw, err := json.Marshal(o)
	require.NoError(t, err)
	out, theirs, err := os.Pipe()
	require.NoError(t, err)
	defer theirs.Close()
	self, err := os.Executable()
	require.NoError(t, err)
	p, err := os.StartProcess(self, []string{self, "-test.run=^TestOldClient$"}, &os.ProcAttr{
		Env: append(os.Environ(), "LIFEBOAT_OLD_CLIENT="+string(raw)), Files: []*os.File{nil, nil, os.Stderr, theirs}})
	require.NoError(t, err)
	return &oldClient{t: t, id: r.ID, p: p, out: out}
}

// stopped waits until it stands still; false if it came to its end with fewer turns.
func (c *oldClient) stopped() bool {
	c.t.Helper()
	var s syscall.WaitStatus
	_, err := syscall.Wait4(c.p.Pid, &s, syscall.WUNTRACED, nil)
	require.NoError(c.t, err)
	c.over = !s.Stopped()
	require.True(c.t, s.Stopped() || s.ExitStatus() == 0, "the old client failed: %v", s)
	return s.Stopped()
}

func (c *oldClient) goOn() { require.NoError(c.t, c.p.Signal(syscall.SIGCONT)) }

// wait waits for its end, and returns what it told.
func (c *oldClient) wait() (told []stepTold) {
	c.t.Helper()
	for d := json.NewDecoder(c.out); ; {
		var x stepTold
		if d.Decode(&x) != nil {
			break
		}
		told = append(told, x)
	}
	c.out.Close()
	s, err := c.p.Wait()
	require.NoError(c.t, err)
	c.over = true
	require.True(c.t, s.Success(), "the old client failed: %v", s)
	return told
}

func (c *oldClient) kill() {
	if !c.over {
		_ = c.p.Kill()
		_, _ = c.p.Wait()
	}
}

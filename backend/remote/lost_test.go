package remote

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// cable is the way to the agent, which can be cut.
type cable struct {
	mu    sync.Mutex
	conns []net.Conn
	made  atomic.Int64
	down  atomic.Bool
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.down.Load() {
		return nil, fmt.Errorf("the cable is cut")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err == nil {
		c.made.Add(1)
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

const size = 2<<20 + 512

// site is a memory platform with one running machine "m", served over a cable.
type site struct {
	*agent
	b     *memory.Backend
	cable *cable
	c     *Client
	calls *recorder
}

// recorder counts calls, and can hold or fail them.
type recorder struct {
	mu    sync.Mutex
	n     map[backendtest.Op]int
	fault func(ctx context.Context, c backendtest.Call) error
}

func (r *recorder) intercept(ctx context.Context, c backendtest.Call, do func() error) error {
	r.mu.Lock()
	r.n[c.Op]++
	f := r.fault
	r.mu.Unlock()
	if f != nil {
		if err := f(ctx, c); err != nil {
			return err
		}
	}
	return do()
}

func (r *recorder) count(op backendtest.Op) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n[op]
}

func (r *recorder) set(f func(ctx context.Context, c backendtest.Call) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

func newSite(t *testing.T, o ServeOptions) *site {
	return newSiteOf(t, memory.Options{QuiesceLimit: time.Minute}, o)
}

func newSiteOf(t *testing.T, m memory.Options, o ServeOptions) *site {
	b := memory.New(m)
	require.NoError(t, b.Add(dr.Machine{ID: "m", Power: dr.Off, Disks: []dr.Disk{{ID: "a", Size: size, Boot: true}}}))
	require.NoError(t, b.Power("m", dr.On))
	s := &site{b: b, cable: &cable{}, calls: &recorder{n: map[backendtest.Op]int{}}}
	s.agent = serve(t, backendtest.Wrap(b, s.calls.intercept), o)
	s.c = s.dial(DialOptions{Dial: s.cable.dial, Patience: 10 * time.Second})
	return s
}

// content lets the guest write, and returns what its disk has then.
func (s *site) content(seed byte) []byte {
	p := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		p[i] = seed + byte(i>>12)
	}
	require.NoError(s.t, s.b.Write("m", "a", p, 0))
	return p
}

func (s *site) capture(name dr.PointID) dr.Image {
	s.t.Helper()
	img, err := s.c.Capture(context.Background(), "m", name, dr.CrashConsistent)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, img.Close()) })
	return img
}

func TestCallsAndImagesOutliveTheConnection(t *testing.T) {
	s := newSite(t, ServeOptions{})
	want := s.content(1)
	img := s.capture("p")
	s.content(2)
	got := make([]byte, size)
	for range 3 {
		s.cable.cut()
		_, err := s.c.Machine(t.Context(), "m")
		require.NoError(t, err)
		s.cable.cut()
		clear(got)
		_, err = img.ReadAt(t.Context(), "a", got, 0)
		require.NoError(t, err)
		require.Equal(t, want, got, "the moment that it was of")
	}
	// In the middle of a sequence: nothing is told twice, nothing is missing.
	s = newSite(t, ServeOptions{})
	for off := int64(0); off < size; off += 128 << 10 {
		require.NoError(t, s.b.Write("m", "a", want[:512], off))
	}
	m, ok := dr.As[dr.Mapper](s.capture("holes"))
	require.True(t, ok)
	var at int64
	n := 0
	for e, err := range m.Extents(t.Context(), "a") {
		n++
		require.NoError(t, err)
		require.Equal(t, at, e.Off)
		require.Positive(t, e.Len)
		at = e.End()
		s.cable.cut()
	}
	require.EqualValues(t, size, at)
	require.Greater(t, n, 10)
}

func TestAnImageOfAnotherMomentIsNeverRead(t *testing.T) {
	// Without a tracker there are no cursors to tell moments apart by.
	s := newSiteOf(t, memory.Options{NoTracker: true}, ServeOptions{})
	s.content(1)
	img := s.capture("p")
	require.NoError(t, s.b.Release(t.Context(), "m", "p"))
	s.cable.cut()
	for range 2 {
		_, err := img.ReadAt(t.Context(), "a", make([]byte, 4096), 0)
		require.ErrorIs(t, err, dr.ErrNotConsistent)
	}
	require.Equal(t, 2, s.calls.count(backendtest.OpCapture), "it isn't tried again and again")
}

func TestDraftsEndWithTheConnection(t *testing.T) {
	s := newSite(t, ServeOptions{})
	s.content(1)
	p := s.capture("p").Point()
	r, err := s.c.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	d, err := s.c.Draft(t.Context(), r.ID, p)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "a", make([]byte, 512), 0)
	require.NoError(t, err)
	s.cable.cut()
	_, err = d.WriteAt(t.Context(), "a", make([]byte, 512), 0)
	require.ErrorIs(t, err, ErrLost)
	require.False(t, dr.IsPermanent(err))
	require.ErrorIs(t, d.Commit(t.Context(), p), ErrLost)
	require.NoError(t, d.Close())
	require.ErrorIs(t, s.c.Start(t.Context(), r.ID), dr.ErrTorn)
	require.Eventually(t, func() bool { return s.calls.count(backendtest.OpClose) > 0 }, time.Minute, time.Millisecond, "the agent closes it")

	// Another one goes on where it was.
	d, err = s.c.Draft(t.Context(), r.ID, p)
	require.NoError(t, err)
	res, ok := dr.As[dr.Resumer](d)
	require.True(t, ok)
	for e, err := range res.Durable(t.Context(), "a") {
		require.NoError(t, err)
		require.Equal(t, dr.Extent{Len: 512}, e)
	}
	require.NoError(t, d.Commit(t.Context(), p))
	require.NoError(t, d.Close())
}

func TestAQuiescedMachineThawsWithTheConnection(t *testing.T) {
	s := newSite(t, ServeOptions{})
	q, ok := dr.As[backend.Quiescer](s.c)
	require.True(t, ok)
	_, thaw, err := q.Quiesce(t.Context(), "m", dr.CrashConsistent)
	require.NoError(t, err)
	s.cable.down.Store(true)
	begun := time.Now()
	s.cable.cut()
	s.content(1) // waits for the thaw
	require.Less(t, time.Since(begun), 5*time.Second, "long before the platform's own limit")
	err = thaw(t.Context())
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorIs(t, err, ErrLost)
}

func TestAnAgentThatStaysAway(t *testing.T) {
	s := newSite(t, ServeOptions{})
	s.cable.down.Store(true)
	s.cable.cut()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.c.Machine(ctx, "m")
	require.ErrorIs(t, err, context.DeadlineExceeded, "the context decides")
	impatient := s.agent.dial(DialOptions{Patience: -1})
	s.stop()
	_, err = impatient.Machine(t.Context(), "m")
	require.ErrorIs(t, err, ErrLost)
	_, err = Dial(t.Context(), s.addr, DialOptions{TLS: pki().client})
	require.ErrorIs(t, err, ErrLost)
}

func TestAnAgentThatStopsLetsWhatIsOpenEnd(t *testing.T) {
	s := newSite(t, ServeOptions{Grace: 10 * time.Second, Open: 1 << 20})
	c := s.agent.dial(DialOptions{Patience: -1})
	want := s.content(1)
	img, err := c.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.stop() }()
	require.Eventually(t, func() bool {
		img, err := c.Capture(t.Context(), "m", "q", dr.CrashConsistent)
		if err == nil {
			require.NoError(t, img.Close())
		}
		return err != nil
	}, time.Minute, time.Millisecond, "nothing new is opened")
	got := make([]byte, size)
	_, err = img.ReadAt(t.Context(), "a", got, 0)
	require.NoError(t, err)
	require.Equal(t, want, got)
	select {
	case <-stopped:
		require.Fail(t, "it stopped under an open image")
	default:
	}
	require.NoError(t, img.Close())
	begun := time.Now()
	<-stopped
	require.Less(t, time.Since(begun), 5*time.Second, "long before the grace is over")
}

func TestTheContextIsHonouredInTheMiddle(t *testing.T) {
	s := newSite(t, ServeOptions{})
	s.content(1)
	img := s.capture("p")
	entered := make(chan struct{}, 16)
	s.calls.set(func(ctx context.Context, c backendtest.Call) error {
		if c.Op == backendtest.OpReadAt || c.Op == backendtest.OpStart {
			entered <- struct{}{}
			<-ctx.Done() // the server must be told
			return ctx.Err()
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	_, err := img.ReadAt(ctx, "a", make([]byte, 4096), 0)
	require.ErrorIs(t, err, context.Canceled)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.c.Start(ctx, "m"), context.DeadlineExceeded)
	s.calls.set(nil)
	_, err = s.c.Machine(t.Context(), "m")
	require.NoError(t, err, "the connection lives on")
	require.EqualValues(t, 3, s.cable.made.Load(), "and is the same")
}

func TestASequenceLeftHalfWayCostsNothing(t *testing.T) {
	s := newSite(t, ServeOptions{Calls: 4})
	s.content(1)
	img := s.capture("p")
	m, _ := dr.As[dr.Mapper](img)
	for range 50 {
		for range m.Extents(t.Context(), "a") {
			break
		}
	}
	_, err := img.ReadAt(t.Context(), "a", make([]byte, 512), size-512)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), "a", make([]byte, 513), size-512)
	require.Equal(t, io.EOF, err)
}

// A client that comes back is let in only when nothing of its former life is under
// way: an old write must not land among the new draft's.
func TestNothingOldIsUnderWayWhenAClientComesBack(t *testing.T) {
	s := newSite(t, ServeOptions{})
	s.content(1)
	p := s.capture("p").Point()
	r, err := s.c.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	d, err := s.c.Draft(t.Context(), r.ID, p)
	require.NoError(t, err)
	var writing, overlap atomic.Bool
	begun, release := make(chan struct{}), make(chan struct{})
	s.calls.set(func(_ context.Context, c backendtest.Call) error {
		switch c.Op {
		case backendtest.OpWriteAt:
			writing.Store(true)
			close(begun)
			<-release // a disk that doesn't care for contexts
			writing.Store(false)
		case backendtest.OpDraft, backendtest.OpMachine:
			if writing.Load() {
				overlap.Store(true)
			}
		}
		return nil
	})
	go func() { _, _ = d.WriteAt(context.Background(), "a", make([]byte, 512), 0) }()
	<-begun
	s.cable.cut()
	made := s.cable.made.Load()
	go func() {
		for s.cable.made.Load() == made {
			time.Sleep(time.Millisecond)
		}
		_, _ = s.agent.dial(DialOptions{}).Machine(context.Background(), "other") // the server has time
		close(release)
	}()
	s.calls.mu.Lock()
	fault := s.calls.fault
	s.calls.fault = func(ctx context.Context, c backendtest.Call) error {
		if c.Machine == "other" {
			return nil
		}
		return fault(ctx, c)
	}
	s.calls.mu.Unlock()
	_, err = s.c.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.False(t, overlap.Load())
}

// What was open at an agent that stops ends with the client.
func TestCloseEndsWhatWasToldToGo(t *testing.T) {
	s := newSite(t, ServeOptions{Grace: time.Minute})
	c := s.agent.dial(DialOptions{Patience: -1})
	_, err := c.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.stop() }()
	require.Eventually(t, func() bool {
		_, err := c.Machine(t.Context(), "m")
		return err != nil
	}, time.Minute, time.Millisecond)
	require.NoError(t, c.Close())
	<-stopped
}

// What a client that is gone had under way is told to give up.
func TestCallsEndWithTheirClient(t *testing.T) {
	s := newSite(t, ServeOptions{})
	begun, ended := make(chan struct{}), make(chan error, 1)
	s.calls.set(func(ctx context.Context, c backendtest.Call) error {
		if c.Op == backendtest.OpStart {
			close(begun)
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
			}
			ended <- ctx.Err()
		}
		return ctx.Err()
	})
	c := s.agent.dial(DialOptions{Patience: -1})
	go func() { _ = c.Start(context.Background(), "m") }()
	<-begun
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-ended, context.Canceled)
}

// A long write is cut into several calls, and still not done in part.
func TestAWriteBeyondTheEndWritesNothing(t *testing.T) {
	s := newSite(t, ServeOptions{})
	s.content(1)
	p := s.capture("p").Point()
	r, err := s.c.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	d, err := s.c.Draft(t.Context(), r.ID, p)
	require.NoError(t, err)
	defer d.Close()
	n, err := d.WriteAt(t.Context(), "a", make([]byte, size), 512)
	require.ErrorIs(t, err, dr.ErrOutOfRange)
	require.Zero(t, n)
	require.Zero(t, s.calls.count(backendtest.OpWriteAt))
}

// A sequence that is cut off goes on behind what it had yielded.
func TestASequenceGoesOn(t *testing.T) {
	cable := &cable{}
	c := serve(t, &well{}, ServeOptions{}).dial(DialOptions{Dial: cable.dial})
	img, err := c.Capture(t.Context(), "m", "p", 0)
	require.NoError(t, err)
	defer img.Close()
	m, ok := dr.As[dr.Mapper](img)
	require.True(t, ok)
	n := int64(0)
	for e, err := range m.Extents(t.Context(), "a") {
		require.NoError(t, err)
		if want := (dr.Extent{Off: n << 20, Len: 64 << 10}); e != want {
			require.Equal(t, want, e)
		}
		if n++; n%100_000 == 0 { // more than a window holds
			cable.cut()
		}
		if n == 350_000 {
			break
		}
	}
	require.EqualValues(t, 12, cable.made.Load(), "cut three times")
}

// An agent that closes the connection in good order has not come to the end of a
// disk, nor of anything else.
func TestTheEndOfAConnectionIsNotTheEndOfADisk(t *testing.T) {
	s := newSite(t, ServeOptions{})
	s.content(1)
	p := s.capture("p").Point()
	r, err := s.c.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	d, err := s.c.Draft(t.Context(), r.ID, p)
	require.NoError(t, err)
	s.stop()
	_, err = d.WriteAt(t.Context(), "a", make([]byte, 512), 0)
	require.ErrorIs(t, err, ErrLost)
	require.NotErrorIs(t, err, io.EOF)
}

package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"iter"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// well is a backend whose images are an endless sequence of extents, and noise to
// read.
type well struct {
	backend.Backend
	extents atomic.Int64
	noise   []byte
}

type bucket struct {
	dr.Image
	w *well
}

func (w *well) Capture(context.Context, dr.MachineID, dr.PointID, dr.Consistency) (dr.Image, error) {
	return bucket{w: w}, nil
}

func (w *well) Draft(context.Context, dr.MachineID, dr.Point) (dr.Draft, error) { return sink{}, nil }

func (w *well) Machine(context.Context, dr.MachineID) (dr.Machine, error) { return dr.Machine{}, nil }

func (b bucket) Point() dr.Point { return dr.Point{ID: "p"} }
func (b bucket) Close() error    { return nil }

func (b bucket) ReadAt(_ context.Context, _ dr.DiskID, p []byte, _ int64) (int, error) {
	return copy(p, b.w.noise), nil
}

func (b bucket) Extents(ctx context.Context, _ dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for off := int64(0); ctx.Err() == nil; off += 1 << 20 {
			b.w.extents.Add(1)
			if !yield(dr.Extent{Off: off, Len: 64 << 10}, nil) {
				return
			}
		}
	}
}

type sink struct{ dr.Draft }

func (sink) WriteAt(_ context.Context, _ dr.DiskID, p []byte, _ int64) (int, error) {
	return len(p), nil
}
func (sink) Close() error { return nil }

// Who doesn't read on isn't sent more than the window.
func TestASlowReaderBoundsTheStream(t *testing.T) {
	w := &well{}
	c := serve(t, w, ServeOptions{}).dial(DialOptions{})
	img, err := c.Capture(t.Context(), "m", "p", 0)
	require.NoError(t, err)
	defer img.Close()
	m, ok := dr.As[dr.Mapper](img)
	require.True(t, ok)
	const most = agentwire.StreamWindow/4 + 3*agentwire.MaxExtents // an extent takes 4 bytes and more
	next, stop := iter.Pull2(m.Extents(t.Context(), "a"))
	defer stop()
	for range 3 {
		for range 100 {
			_, err, ok := next()
			require.NoError(t, err)
			require.True(t, ok)
		}
		for range 300 { // the server has time
			_, err := c.Machine(t.Context(), "m")
			require.NoError(t, err)
		}
		require.Less(t, w.extents.Load(), int64(most))
	}
}

// raw is a connection to the agent that says what the test wants.
func raw(t *testing.T, a *agent, conf *tls.Config, g agentwire.Greeting) (*agentwire.Link, agentwire.Terms, error) {
	t.Helper()
	conf = conf.Clone()
	conf.ServerName = "127.0.0.1"
	conf, err := agentwire.ClientTLS(conf)
	require.NoError(t, err)
	c := &Client{addr: a.addr, tls: func() (*tls.Config, error) { return conf, nil }, o: DialOptions{}.withDefaults()}
	l, terms, err := c.link(t.Context(), g)
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return l, terms, err
}

// Clients that ask for all and read nothing cost their buffers, and no more.
func TestMemoryOfClientsThatDoNotRead(t *testing.T) {
	noise := make([]byte, agentwire.MaxBulk)
	for i := range noise {
		noise[i] = byte(i*7) | 1
	}
	a := serve(t, &well{noise: noise}, ServeOptions{Calls: 64, Clients: 65})
	before := heap()
	var cs []*agentwire.Link
	for range 64 {
		l, _, err := raw(t, a, pki().client, agentwire.NewGreeting())
		require.NoError(t, err)
		arg, err := agentwire.Marshal(argument{Machine: "m", Name: "p"})
		require.NoError(t, err)
		require.NoError(t, l.Send(t.Context(), agentwire.Header{Kind: agentwire.Request, Op: agentwire.OpCapture, ID: 2}, agentwire.AppendRequestHead(nil, 0, 0), arg))
		h, err := l.Next()
		require.NoError(t, err)
		require.NoError(t, l.Skip(int(h.Len)))
		for id := range uint64(60) {
			require.NoError(t, l.Send(t.Context(), agentwire.Header{Kind: agentwire.Request, Op: agentwire.OpRead, ID: 3 + id},
				agentwire.AppendRequestHead(nil, 0, 1), agentwire.Span{N: agentwire.MaxBulk, Disk: "a"}.Append(nil)))
		}
		cs = append(cs, l)
	}
	// Another client isn't kept from what needs no buffer.
	c := a.dial(DialOptions{})
	for range 200 {
		_, err := c.Machine(t.Context(), "m")
		require.NoError(t, err)
	}
	used := heap() - before
	t.Logf("%d MiB for 64 clients, which asked for 3840 MiB", used>>20)
	require.Less(t, used, int64(160<<20))
	for _, l := range cs {
		_ = l.Close()
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

func TestASilentClientIsCutOff(t *testing.T) {
	s := newSite(t, ServeOptions{KeepAlive: 100 * time.Millisecond})
	l, terms, err := raw(t, s.agent, pki().client, agentwire.NewGreeting())
	require.NoError(t, err)
	require.Equal(t, 100*time.Millisecond, terms.KeepAlive)
	_, err = l.Next()
	require.Error(t, err, "the agent hangs up")
	// One that pings stays.
	held := make(chan struct{})
	hold := sync.OnceFunc(func() { close(held) })
	s.calls.set(func(ctx context.Context, c backendtest.Call) error {
		hold() // a machine that stands still makes it come again
		select {
		case <-time.After(1500 * time.Millisecond): // five times what silence may last
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	_, err = s.c.Machine(t.Context(), "m")
	require.NoError(t, err)
	<-held
}

func TestLimits(t *testing.T) {
	s := newSite(t, ServeOptions{Open: 2, Clients: 2})
	s.capture("p1")
	s.capture("p2")
	_, err := s.c.Capture(t.Context(), "m", "p3", dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.Equal(t, 2, s.calls.count(backendtest.OpCapture), "nothing is made that can't be kept")
	s.dial(DialOptions{})
	_, err = Dial(t.Context(), s.addr, DialOptions{TLS: pki().client})
	require.ErrorIs(t, err, dr.ErrBusy)
}

func TestScope(t *testing.T) {
	b := memory.New(memory.Options{})
	for _, id := range []dr.MachineID{"db", "mail"} {
		require.NoError(t, b.Add(dr.Machine{ID: id, Power: dr.Off, Disks: []dr.Disk{{ID: "a", Size: 1 << 20}}}))
	}
	a := serve(t, b, ServeOptions{Authorize: func(c *x509.Certificate) (Scope, error) {
		if c.Subject.CommonName == "another" {
			return Scope{}, errors.New("not this one: secret reason")
		}
		return Scope{Machines: []dr.MachineID{"db"}}, nil
	}})
	c := a.dial(DialOptions{})
	l, _ := dr.As[backend.Lister](c)
	for m, err := range l.Machines(t.Context()) {
		require.NoError(t, err)
		require.EqualValues(t, "db", m.ID)
	}
	mail, err := b.Machine(t.Context(), "mail")
	require.NoError(t, err)
	refused := map[string]error{}
	_, refused["machine"] = c.Machine(t.Context(), "mail")
	_, refused["capture"] = c.Capture(t.Context(), "mail", "p", 0)
	_, refused["draft"] = c.Draft(t.Context(), "mail", dr.Point{ID: "p"})
	_, refused["prepare"] = c.Prepare(t.Context(), backend.Placement{Key: "k", Machine: mail})
	_, refused["original"] = c.Prepare(t.Context(), backend.Placement{Key: "k", Original: "mail", Machine: mail})
	refused["release"], refused["start"] = c.Release(t.Context(), "mail", "p"), c.Start(t.Context(), "mail")
	refused["stop"], refused["remove"] = c.Stop(t.Context(), "mail"), c.Remove(t.Context(), "mail")
	s, _ := dr.As[backend.Sweeper](c)
	_, refused["sweep"] = s.Sweep(t.Context(), "mail", func(dr.PointID) bool { return false })
	for what, err := range refused {
		require.ErrorIs(t, err, fs.ErrPermission, what)
		require.True(t, dr.IsPermanent(err), what)
	}
	_, ok := dr.As[backend.NetworkLister](c)
	require.False(t, ok)
	_, ok = dr.As[backend.Roomer](c)
	require.False(t, ok)

	_, err = Dial(t.Context(), a.addr, DialOptions{TLS: pki().other})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NotContains(t, err.Error(), "secret")
}

// A session is its client's own, whoever knows its name.
func TestASessionCannotBeTakenOver(t *testing.T) {
	s := newSite(t, ServeOptions{})
	token := s.c.w.terms.Session
	_, _, err := raw(t, s.agent, pki().other, agentwire.Greeting{Min: 1, Max: 1, Session: token})
	require.ErrorIs(t, err, dr.ErrNotFound)
	_, _, err = raw(t, s.agent, pki().other, agentwire.Greeting{Min: 1, Max: 1, Replaces: token})
	require.NoError(t, err)
	_, err = s.c.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.EqualValues(t, 3, s.cable.made.Load(), "nothing was cut")
	_, _, err = raw(t, s.agent, pki().client, agentwire.Greeting{Min: 7, Max: 8})
	require.ErrorIs(t, err, dr.ErrUnsupported, "no common version")
}

func TestServeRefusesToServeInTheOpen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, Serve(t.Context(), ln, memory.New(memory.Options{}), ServeOptions{TLS: &tls.Config{Certificates: pki().server.Certificates}}), dr.ErrInvalid)
	_, err = ln.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = Dial(t.Context(), "127.0.0.1:1", DialOptions{})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

func TestArgumentsAreBounded(t *testing.T) {
	s := newSite(t, ServeOptions{})
	_, err := s.c.Draft(t.Context(), "m", dr.Point{ID: "p", Cursors: map[dr.DiskID]dr.Cursor{"a": dr.Cursor(strings.Repeat("x", agentwire.MaxArgument))}})
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = s.c.Draft(t.Context(), "m", dr.Point{ID: "p", Cursors: map[dr.DiskID]dr.Cursor{"a": dr.Cursor(strings.Repeat("x", agentwire.MaxFrame))}})
	require.ErrorIs(t, err, agentwire.ErrProtocol, "it isn't even sent")
	_, err = s.c.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.EqualValues(t, 3, s.cable.made.Load(), "the connection lives on")
}

// A reader that has stalled doesn't keep small calls waiting: they have a
// connection of their own.
func TestSmallCallsPassBulk(t *testing.T) {
	w := &well{noise: bytes.Repeat([]byte{1}, agentwire.MaxBulk)}
	a := serve(t, w, ServeOptions{})
	control, terms, err := raw(t, a, pki().client, agentwire.NewGreeting())
	require.NoError(t, err)
	g := agentwire.NewGreeting()
	g.Session = terms.Session
	data, _, err := raw(t, a, pki().client, g)
	require.NoError(t, err)
	ask := func(id uint64, op agentwire.Op) agentwire.Header {
		require.NoError(t, control.Send(t.Context(), agentwire.Header{Kind: agentwire.Request, Op: op, ID: id}, agentwire.AppendRequestHead(nil, 0, 0), []byte(`{"machine":"m"}`)))
		h, err := control.Next()
		require.NoError(t, err)
		require.NoError(t, control.Skip(int(h.Len)))
		return h
	}
	require.Equal(t, agentwire.Result, ask(2, agentwire.OpCapture).Kind)
	for id := range uint64(30) { // far more than the socket takes; nobody reads them
		require.NoError(t, data.Send(t.Context(), agentwire.Header{Kind: agentwire.Request, Op: agentwire.OpRead, ID: 10 + id},
			agentwire.AppendRequestHead(nil, 0, 1), agentwire.Span{N: agentwire.MaxBulk, Disk: "a"}.Append(nil)))
	}
	for id := range uint64(100) {
		require.EqualValues(t, 100+id, ask(100+id, agentwire.OpMachine).ID)
	}
}

// Between the end of a session and that of its context nothing begins, either: it
// would not be counted, and the agent fell over when it was counted out.
func TestNothingBeginsInASessionThatEnds(t *testing.T) {
	s := newServer(memory.New(memory.Options{}), ServeOptions{})
	x := newSession(s, "token", &guest{cert: &x509.Certificate{}}, nil)
	x.ended = true
	require.Error(t, x.begin(0))
	require.Error(t, x.mayOpen())
	require.Zero(t, x.flying)
}

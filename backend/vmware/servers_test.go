package vmware

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// simServer serves the simulator's disks.
type simServer struct {
	sim   *vmwaretest.Simulator
	mu    sync.Mutex
	last  DiskRequest
	conns []net.Conn
	fails error
	stops int
}

func (s *simServer) String() string { return "simulated" }

func (s *simServer) Accepted(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
}

func (s *simServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

type tapped struct {
	net.Listener
	s *simServer
}

func (l tapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.s.Accepted(c)
	}
	return c, err
}

func (s *simServer) ServeDisk(ctx context.Context, r DiskRequest) (string, func() error, error) {
	s.last = r
	if s.fails != nil {
		return "", nil, s.fails
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	e := vmwaretest.NBDExport{VM: types.ManagedObjectReference{Type: "VirtualMachine", Value: r.VM}, File: r.File}
	if r.Snapshot != "" {
		e.Snapshot = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: r.Snapshot}
	}
	life, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.sim.ServeNBD(life, tapped{l, s}, e) }()
	stop := func() error {
		s.stops++
		end()
		return <-done
	}
	return "nbd://" + l.Addr().String(), stop, nil
}

func TestServersRead(t *testing.T) {
	r, snap := frozenRig(t, vmwaretest.Options{}, 24*mib)
	quiet(t, r)
	s := &simServer{sim: r.sim}
	tr := Servers(s)
	require.Equal(t, "simulated", tr.String())
	d := r.open(tr, r.ref(&snap), false)
	require.True(t, s.last.ReadOnly)
	require.Regexp(t, `^([0-9A-F]{2}:){19}[0-9A-F]{2}$`, s.last.Thumbprint)
	r.readAll(d, 1<<20, 8)
	r.readRandom(d, 2, 50)
	// The rest counts on connections being replaced.
	s.cut()
	r.readAll(d, 1<<20, 8)
	m, ok := dr.As[nbd.Mapper](&limited{device: d, leave: func() {}})
	require.True(t, ok)
	var zero int64
	for e, err := range m.Extents(context.Background(), 0, 24*mib) {
		require.NoError(t, err)
		if e.Zero {
			zero += e.Len
		}
	}
	require.Positive(t, zero)
	_, ok = d.(writable)
	require.False(t, ok)
	drained(t, d)
	require.Equal(t, 1, s.stops)
}

func TestServersWrite(t *testing.T) {
	r := newTransportRig(t, vmwaretest.Options{}, 8*mib)
	r.scatter(3)
	r.off()
	s := &simServer{sim: r.sim}
	d := r.open(Servers(s), r.ref(nil), true).(writable)
	p := bytes.Repeat([]byte("new"), 500_000)
	n, err := d.WriteAt(context.Background(), p, 12345)
	require.NoError(t, err)
	require.Equal(t, len(p), n)
	copy(r.want[12345:], p)
	if err := d.Zero(context.Background(), 3<<20, 1<<20); !errors.Is(err, errors.ErrUnsupported) {
		require.NoError(t, err)
		clear(r.want[3<<20 : 4<<20])
	}
	require.NoError(t, d.Flush(context.Background()))
	r.readAll(d, 1<<20, 2)
	// A connection that is lost fails what follows: nobody knows what stayed.
	s.cut()
	_, err = d.WriteAt(context.Background(), p, 0)
	require.ErrorIs(t, err, nbd.ErrLost)
	require.NoError(t, d.Close())
	got := make([]byte, len(r.want))
	_, err = r.vm.Read(r.vm.Disks()[0], got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(r.want[12345:], got[12345:]))
}

func TestServersFail(t *testing.T) {
	r, snap := frozenRig(t, vmwaretest.Options{Password: "hunter2!"}, mib)
	quiet(t, r)
	ctx := context.Background()
	s := &simServer{sim: r.sim, fails: fmt.Errorf("login with hunter2!: %w", io.ErrNoProgress)}
	_, err := Servers(s).open(ctx, r.v, r.ref(&snap), false)
	require.ErrorContains(t, err, "simulated could not serve the disk: login with (secret)")
	require.ErrorIs(t, err, io.ErrNoProgress)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), "hunter2!")
	s.fails = nil
	bad := r.ref(&snap)
	bad.size += 512
	_, err = Servers(s).open(ctx, r.v, bad, false)
	require.ErrorContains(t, err, "another disk")
	require.Equal(t, 1, s.stops)
	require.NotEmpty(t, Servers(s).refuse(r.ref(&snap), true))
	require.NotEmpty(t, Servers(s).refuse(r.ref(nil), false))
	_, err = Servers(hangs{}).open(ctx, r.v, r.ref(&snap), false)
	require.Error(t, err)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = Servers(&mute{}).open(short, r.v, r.ref(&snap), false)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// hangs gives an address that is none.
type hangs struct{}

func (hangs) ServeDisk(context.Context, DiskRequest) (string, func() error, error) {
	return "http://x", func() error { return nil }, nil
}

// mute accepts and says nothing.
type mute struct{}

func (*mute) ServeDisk(context.Context, DiskRequest) (string, func() error, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	return "nbd://" + l.Addr().String(), l.Close, err
}

func TestSecretsStaySecret(t *testing.T) {
	const secret = "hunter2!"
	r := DiskRequest{Server: "vc", User: "u", Password: NewSecret(secret)}
	type hidden struct {
		r  DiskRequest
		pr *DiskRequest
		s  Secret
	}
	h := hidden{r, &r, r.Password}
	var log bytes.Buffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	l.Info("x", "request", r, "pointer", &r, "hidden", h, "secret", r.Password)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "request", r, "pointer", &r, "secret", r.Password)
	j, err := json.Marshal(map[string]any{"r": r, "s": r.Password})
	require.NoError(t, err)
	texts := []string{log.String(), string(j)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{r, &r, h, &h, r.Password, &r.Password, []any{r}} {
			texts = append(texts, fmt.Sprintf(verb, v))
		}
	}
	hexed := fmt.Sprintf("%x", secret)
	for _, text := range texts {
		require.NotContains(t, text, secret)
		require.NotContains(t, strings.ToLower(text), hexed)
	}
	require.Equal(t, secret, r.Password.Reveal())
	require.Empty(t, Secret{}.Reveal())
	require.Contains(t, string(j), "(secret)")
}

func BenchmarkServers(b *testing.B) {
	benchmarkTransport(b, false, func(r *transportRig, s *types.ManagedObjectReference) device {
		d, err := Servers(&simServer{sim: r.sim}).open(context.Background(), r.v, r.ref(s), false)
		require.NoError(b, err)
		return d
	})
}

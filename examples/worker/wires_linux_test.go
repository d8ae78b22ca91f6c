package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// wires are network namespaces around a hub, each at the end of a cable of its
// own: what TCP does about one that is cut is the kernel's own doing. Nothing is
// added to the host's own network.
type wires struct {
	t   testing.TB
	id  string
	hub string
}

// hubIP is where everybody reaches what runs on the host.
const hubIP = "10.77.0.1"

var wiresMade atomic.Int64

func newWires(t testing.TB) *wires {
	if os.Geteuid() != 0 {
		lack(t, "network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		lack(t, "ip is not installed (Debian: iproute2)")
	}
	w := &wires{t: t, id: fmt.Sprintf("lb%d-%d", os.Getpid(), wiresMade.Add(1))}
	w.hub = w.namespace("hub")
	w.ip("-n", w.hub, "link", "add", "hub", "type", "bridge")
	w.ip("-n", w.hub, "addr", "add", hubIP+"/24", "dev", "hub")
	w.ip("-n", w.hub, "link", "set", "hub", "up")
	return w
}

func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

// namespace makes one, which goes with the test, after all that was started in
// it.
func (w *wires) namespace(name string) string {
	ns := w.id + name
	if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
		lack(w.t, fmt.Sprintf("a network namespace can't be made: %s", out))
	}
	w.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
			w.t.Errorf("namespace %s stays: %s", ns, out)
		}
	})
	w.ip("-n", ns, "link", "set", "lo", "up")
	return ns
}

func (w *wires) ip(args ...string) {
	w.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(w.t, err, "ip %s: %s", strings.Join(args, " "), out)
}

// host makes a namespace with a cable to the hub.
func (w *wires) host(name, ip string) string {
	ns := w.namespace(name)
	w.ip("-n", ns, "link", "add", "cable", "type", "veth", "peer", "name", name, "netns", w.hub)
	w.ip("-n", w.hub, "link", "set", name, "master", "hub")
	w.ip("-n", w.hub, "link", "set", name, "up")
	w.ip("-n", ns, "addr", "add", ip+"/24", "dev", "cable")
	w.ip("-n", ns, "link", "set", "cable", "up")
	return ns
}

// cut cuts a host's cable at the hub, or mends it. Nobody is told: packets are
// not delivered.
func (w *wires) cut(name string, cut bool) {
	w.t.Helper()
	w.ip("-n", w.hub, "link", "set", name, map[bool]string{true: "down", false: "up"}[cut])
}

// within calls f where what it opens is in the namespace. Its sockets stay there.
func within[T any](ns string, f func() (T, error)) (v T, err error) {
	runtime.LockOSThread()
	was, err := os.Open(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
	if err != nil {
		return v, err
	}
	defer was.Close()
	to, err := os.Open(filepath.Join("/run/netns", ns))
	if err != nil {
		return v, err
	}
	defer to.Close()
	if err := unix.Setns(int(to.Fd()), unix.CLONE_NEWNET); err != nil {
		return v, err
	}
	v, err = f()
	if back := unix.Setns(int(was.Fd()), unix.CLONE_NEWNET); back != nil {
		return v, back // the thread stays locked, and ends with this goroutine
	}
	runtime.UnlockOSThread()
	return v, err
}

// client asks who listens in a namespace, whether its cable is cut or not.
func (w *wires) client(ns string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialIn(ns)}}
}

func dialIn(ns string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return within(ns, func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, address) })
	}
}

// relay has an address of the host's reached at the hub, and returns where.
func (w *wires) relay(to string) string {
	l, err := within(w.hub, func() (net.Listener, error) { return net.Listen("tcp", hubIP+":0") })
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go pipe(near, to)
		}
	}()
	return l.Addr().String()
}

func pipe(near net.Conn, to string) {
	defer near.Close()
	far, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	var ends sync.Once
	over := make(chan struct{})
	pass := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from) // its end is all that is to be known
		ends.Do(func() { close(over) })
	}
	go pass(far, near)
	go pass(near, far)
	<-over
}

package remote

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
)

// pki is made once: keys take time.
var pki = sync.OnceValue(func() (p struct {
	server, client, stranger *tls.Config
	other                    *tls.Config // another client of the same authority
}) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	ca, err := trialpki.New("trial", time.Hour)
	must(err)
	conf := func(a *trialpki.Authority, name string, server bool) *tls.Config {
		sign := a.Client
		if server {
			sign = func(name string) (trialpki.Pair, error) { return a.Server(name, "127.0.0.1", "localhost") }
		}
		pair, err := sign(name)
		must(err)
		cert, err := pair.TLS()
		must(err)
		c := &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: ca.Pool()}
		if server {
			c = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
		}
		return c
	}
	p.server, p.client, p.other = conf(ca, "agent", true), conf(ca, "replicator", false), conf(ca, "another", false)
	foreign, err := trialpki.New("foreign", time.Hour)
	must(err)
	p.stranger = conf(foreign, "stranger", false)
	return p
})

// agent is a server under test.
type agent struct {
	t    testing.TB
	b    backend.Backend
	o    ServeOptions
	addr string
	stop func()
}

// serve begins one; it stops when the test ends.
func serve(t testing.TB, b backend.Backend, o ServeOptions) *agent {
	a := &agent{t: t, b: b, o: o, addr: "127.0.0.1:0"}
	if a.o.TLS == nil {
		a.o.TLS = pki().server
	}
	if a.o.Grace == 0 {
		a.o.Grace = -1
	}
	a.start()
	t.Cleanup(func() { a.stop() })
	return a
}

// start serves, again under the same address.
func (a *agent) start() {
	ln, err := net.Listen("tcp", a.addr)
	require.NoError(a.t, err)
	a.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, a.b, a.o) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(a.t, <-done)
	})
}

func (a *agent) dial(o DialOptions) *Client {
	a.t.Helper()
	if o.TLS == nil {
		o.TLS = pki().client
	}
	c, err := Dial(context.Background(), a.addr, o)
	require.NoError(a.t, err)
	a.t.Cleanup(func() { require.NoError(a.t, c.Close()) })
	return c
}

package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ErrLost says that the connection to the agent broke while the call was under way, or
// what the call needs was open there and is no more. Whether the call had its
// effect isn't known. It is never permanent: whoever repeats the step does right.
var ErrLost = errors.New("connection to the agent lost")

// ServeOptions are how a backend is served. TLS is needed; the zero value of all
// else is good.
type ServeOptions struct {
	// TLS has the server's certificate and the authorities of its clients, with
	// ClientAuth set to tls.RequireAndVerifyClientCert. TLS 1.3 is set by Serve.
	// A Handler has its server's.
	TLS *tls.Config
	// GetTLS, if set, is asked for every connection in place of TLS, as
	// certificates and authorities may change (enrol.Identity.ServerTLS). It
	// must be safe for concurrent use.
	GetTLS func() (*tls.Config, error)
	// Authorize, if set, is asked once for every connection, after its
	// certificate was verified. An error turns the client away; it is told no
	// more than that. It must be safe for concurrent use.
	Authorize func(cert *x509.Certificate) (Scope, error)
	// Recheck, if set, is asked about every session each RecheckEvery, and
	// ends it with an error: the client's certificate is good no more
	// (enrol.Identity.Recheck). It must be safe for concurrent use.
	Recheck func(tls.ConnectionState) error
	// RecheckEvery is how long a client may go on after that; 0: 10 s.
	RecheckEvery time.Duration
	// Health lets anybody ask GET /healthz, also without a certificate, which
	// balancers and monitors have not. It is told that the agent serves, and no
	// more. Everything else still wants a certificate. A wrong one is refused
	// before anything is said.
	Health bool

	// KeepAlive is how often a client has to show that it lives; after three
	// times that without a byte it is dead, however slow the line. 0: 5 s.
	KeepAlive time.Duration
	// Grace is how long what clients have open may go on once Serve's context
	// has ended. 0: 10 s; below 0: not at all.
	Grace time.Duration
	// Clients bounds the sessions at once; 0: 64.
	Clients int
	// Open bounds the images, drafts and freezes that one client may have
	// open; 0: 256.
	Open int
	// Calls bounds the calls that one client may have under way; 0: 256.
	Calls int
	// Bulk bounds those of a client's calls that read, write or sum: each has a
	// buffer of 1 MiB. 0: 8.
	Bulk int
	// Buffers bounds those of all clients together, and so the server's memory,
	// in MiB; 0: 64. A client that doesn't read keeps its own until it is cut
	// off, after three times KeepAlive, or 24 times if it says otherwise that
	// it lives.
	Buffers int

	Log *slog.Logger // clients that come, go and are turned away; may be nil

	greet time.Duration // 0: greetTime
}

// Scope is what a client may do. The zero value is everything.
type Scope struct {
	// Machines, if not nil, are those that the client may see and touch. Such
	// a client has no part in what isn't of one machine: it makes no replicas
	// and gets no NetworkLister and no Roomer.
	Machines []dr.MachineID
}

func (s Scope) allows(id dr.MachineID) bool {
	return s.Machines == nil || slices.Contains(s.Machines, id)
}

func (o ServeOptions) withDefaults() ServeOptions {
	set(&o.KeepAlive, 5*time.Second)
	set(&o.RecheckEvery, 10*time.Second)
	set(&o.greet, greetTime)
	set(&o.Grace, 10*time.Second)
	set(&o.Clients, 64)
	set(&o.Open, 256)
	set(&o.Calls, 256)
	set(&o.Bulk, 8)
	set(&o.Buffers, 64)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// DialOptions are how an agent is reached. TLS is needed; the zero value of all
// else is good.
type DialOptions struct {
	// TLS has the client's certificate and the authorities of the server.
	// ServerName is taken from the address if it is empty. TLS 1.3 is set by
	// Dial.
	TLS *tls.Config
	// GetTLS, if set, is asked for every connection in place of TLS
	// (enrol.Identity.ClientTLS). It must be safe for concurrent use.
	GetTLS func() (*tls.Config, error)
	// Recheck, if set, is asked about the agent each RecheckEvery, and ends the
	// session with an error: the agent's certificate is good no more
	// (enrol.Identity.Recheck). It must be safe for concurrent use.
	Recheck func(tls.ConnectionState) error
	// RecheckEvery is how long an agent is used after that; 0: 10 s.
	RecheckEvery time.Duration
	// Links is how many connections carry bulk data, beside the one for all
	// else; 0: 2.
	Links int
	// Patience is how long a call tries to reach the agent again, if its
	// context lasts so long; 0: 1 min; below 0: it doesn't. What it spent at
	// the agent before the connection broke doesn't count.
	Patience time.Duration
	// Dial, if set, makes connections in place of a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Log *slog.Logger // connections lost and made; may be nil

	grace time.Duration // 0: cancelGrace
}

func (o DialOptions) withDefaults() DialOptions {
	set(&o.Links, 2)
	set(&o.RecheckEvery, 10*time.Second)
	set(&o.Patience, time.Minute)
	set(&o.grace, cancelGrace)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: greetTime}).DialContext
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// sensible refuses numbers that make no sense, and that would be panics later.
func sensible(ns ...int64) error {
	for _, n := range ns {
		if n < 0 {
			return fmt.Errorf("%w: options with the number %d", dr.ErrInvalid, n)
		}
	}
	return nil
}

func (o ServeOptions) check() error {
	return sensible(int64(o.KeepAlive), int64(o.RecheckEvery), int64(o.Clients), int64(o.Open), int64(o.Calls), int64(o.Bulk), int64(o.Buffers))
}

func (o DialOptions) check() error { return sensible(int64(o.RecheckEvery), int64(o.Links)) }

func set[T int | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// greetTime is how long a connection may take until both sides have spoken.
const greetTime = 10 * time.Second

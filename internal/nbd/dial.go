package nbd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// Options says which export a [Client] uses, and how. [ParseURI] makes one
// from the usual notation; Network and Address alone are enough.
type Options struct {
	// Network and Address are what net.Dialer takes: "tcp" and "host:10809",
	// or "unix" and a socket's path.
	Network, Address string
	// Dial, if not nil, replaces net.Dialer. It is called again to reconnect,
	// and from several goroutines.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Export is the name to ask for; the empty name is the server's default.
	Export string

	// TLS, if not nil, is demanded: a server that has none is refused, nothing
	// falls back to clear text. The zero tls.Config verifies the server by the
	// system's roots; client certificates are its Certificates. Without a
	// ServerName the host of Address is verified, which a Unix socket lacks.
	TLS *tls.Config

	// Contexts are metadata contexts to ask for besides base:allocation, such
	// as what [DirtyBitmap] returns. One that the server doesn't have is
	// missing from Info.Contexts, which is not an error.
	Contexts []string

	// Connections is how many connections to use; 0 means 1. More than one is
	// used only with a server that says CAN_MULTI_CONN.
	Connections int
	// InFlight bounds the requests under way on one connection; 0 means 64,
	// and 65536 is the most. Further callers wait.
	InFlight int
	// HandshakeTimeout is what one attempt to connect and to negotiate may
	// take; 0 means 30 s.
	HandshakeTimeout time.Duration

	// Stall is how long a connection may have requests in flight and move no
	// byte, in either direction, until it is given up as lost; 0 means for ever.
	// A disk may be slow: a minute is short.
	Stall time.Duration
	// Reconnect is how long after the loss of a connection attempts to replace
	// it go on, with pauses that double from 50 ms to 5 s; 0 means not at all.
	// [Client] says what is promised of requests meanwhile.
	Reconnect time.Duration
	// Log receives losses of connections and attempts to reconnect; nil is
	// silent.
	Log *slog.Logger
}

func (o Options) check() error {
	if o.Address == "" || o.Network == "" {
		return errors.New("nbd: no server is named: Network and Address must be set")
	}
	if o.Connections < 0 || o.InFlight < 0 || o.InFlight > 1<<16 || o.HandshakeTimeout < 0 || o.Stall < 0 || o.Reconnect < 0 {
		return errors.New("nbd: a limit in the options is negative or too large")
	}
	if err := checkString(o.Export, "export name"); err != nil {
		return err
	}
	for _, c := range o.Contexts {
		if err := checkString(c, "metadata context"); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log.With("server", o.Address, "export", o.Export)
}

// server names the other side in errors.
func (o Options) server() string { return o.Network + ":" + o.Address }

// negotiated connects and has f negotiate, all within HandshakeTimeout. The
// connection is closed unless f succeeds.
func (o Options) negotiated(ctx context.Context, f func(context.Context, *negotiation) error) (*negotiation, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.HandshakeTimeout, 30*time.Second))
	defer cancel()
	dial := o.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, o.Network, o.Address)
	if err != nil {
		return nil, fmt.Errorf("nbd: connecting to %s: %w", o.server(), err)
	}
	// Closing ends what TLS does above it as well, and needs no deadlines, which
	// not every connection knows.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	n := &negotiation{raw: raw, conn: raw}
	if err = n.begin(ctx, o); err == nil {
		err = f(ctx, n)
	}
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("the server closed the connection (unknown export, or no more connections allowed?): %w", io.ErrUnexpectedEOF)
		}
		return nil, fmt.Errorf("nbd: negotiating with %s, export %q: %w", o.server(), o.Export, err)
	}
	return n, nil
}

// connect negotiates for o.Export until requests can be sent.
func (o Options) connect(ctx context.Context) (*negotiation, error) {
	return o.negotiated(ctx, func(_ context.Context, n *negotiation) error { return n.choose(o) })
}

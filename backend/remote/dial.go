package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// Client is a backend that an agent elsewhere serves. It is safe for concurrent
// use. Make one with Dial.
//
// When the connection is lost a new one is made by the next call that needs it,
// with growing pauses, for as long as DialOptions.Patience and the call's context
// allow. Calls of the backend that may be repeated are. Images are opened again,
// if that finds the very moment that they are of. Drafts, freezes and images that
// settle end with the connection, with ErrLost.
type Client struct {
	addr string
	o    DialOptions
	tls  func() (*tls.Config, error)
	turn chan struct{} // guards what follows; a channel, as a context may end the wait
	w    *wire
	old  []*wire // told to go, but with something open
	miss miss    // the last attempt to connect that failed
	base context.Context
	quit context.CancelFunc // ends base: Close waits for nobody's patience
	can  chan abilities     // holds one value: what the agent's backend can do
}

type abilities struct{ chain any }

var _ backend.Backend = (*Client)(nil)

// Dial connects to the agent at addr, "host:port". It tries once: ErrLost if
// nobody answers, fs.ErrPermission if the agent doesn't take the certificate,
// dr.ErrUnsupported if it speaks no version that is known here, dr.ErrBusy if it
// has as many clients as it takes, dr.ErrInvalid for options that make no sense. ctx counts until Dial returns.
func Dial(ctx context.Context, addr string, o DialOptions) (*Client, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%w: address of an agent: %w", dr.ErrInvalid, err)
	}
	get, err := clientTLS(o, host)
	if err = errors.Join(err, o.check()); err != nil {
		return nil, err
	}
	c := &Client{addr: addr, o: o.withDefaults(), tls: get, turn: make(chan struct{}, 1), can: make(chan abilities, 1)}
	c.can <- abilities{}
	c.base, c.quit = context.WithCancel(context.Background())
	w, err := c.connect(ctx, "")
	if err != nil {
		c.quit()
		return nil, c.named(err)
	}
	c.use(w)
	return c, nil
}

func (c *Client) named(err error) error { return fmt.Errorf("agent %s: %w", c.addr, err) }

// Close ends the connection, and with it everything that was opened through it.
// Calls that come later are fs.ErrClosed.
func (c *Client) Close() error {
	c.quit()
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	for _, w := range append(c.old, c.w) {
		w.fail(fs.ErrClosed)
	}
	return nil
}

// use makes w the present session. It needs c.turn, or that nobody knows c.
func (c *Client) use(w *wire) {
	c.w = w
	<-c.can
	c.can <- abilities{c.chain(w.terms.Abilities)}
}

// Unwrap shows those abilities to dr.As that the served backend has.
func (c *Client) Unwrap() any {
	a := <-c.can
	c.can <- a
	return a.chain
}

// wire returns a session that is good for new calls.
func (c *Client) wire(ctx context.Context) (*wire, error) {
	var p pause
	p.begin(c.o.Patience)
	begun := time.Now()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	caller := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.base, cancel)()
	for {
		if c.base.Err() != nil {
			return nil, fs.ErrClosed
		}
		if c.w.alive() && !c.w.away.Load() {
			return c.w, nil
		}
		// Who has waited for others' attempts for as long as his own would have
		// taken isn't to begin his: each of many callers would wait for all before it.
		if p.over() && c.miss.at.After(begun) {
			return nil, c.named(c.miss.err)
		}
		old := c.w.terms.Session
		alive := c.w.alive()
		if alive {
			old = "" // what is open there may be finished
		}
		w, err := c.connect(ctx, old)
		if err == nil {
			c.old = slices.DeleteFunc(c.old, func(w *wire) bool { return !w.alive() })
			if alive {
				c.old = append(c.old, c.w)
			}
			c.use(w)
			c.o.Log.Info("connected to the agent again", "addr", c.addr)
			return w, nil
		}
		if c.base.Err() != nil {
			return nil, fs.ErrClosed
		}
		c.miss = miss{time.Now(), err}
		c.o.Log.Warn("the agent can't be reached", "addr", c.addr, "err", err)
		if !dr.IsPermanent(err) && p.wait(ctx) {
			continue
		}
		if c.base.Err() != nil {
			return nil, fs.ErrClosed
		}
		if caller.Err() != nil {
			err = fmt.Errorf("%w: %w", caller.Err(), err)
		}
		return nil, c.named(err)
	}
}

// miss is an attempt to connect that failed.
type miss struct {
	at  time.Time
	err error
}

// pause is the growing wait between attempts.
type pause struct {
	until time.Time
	next  time.Duration
}

func (p *pause) begin(patience time.Duration) {
	p.until, p.next = time.Now().Add(patience), 50*time.Millisecond
}

// over tells whether it is too late for another attempt.
func (p *pause) over() bool { return time.Now().After(p.until) }

// spent takes no account of an attempt that got as far as the agent: a request on a
// slow line, or a sequence that a long copy goes through, may take longer than
// anybody's patience and deserves another one all the same.
func (p *pause) spent(since time.Time) { p.until = p.until.Add(time.Since(since)) }

// wait returns false when there is no time for another attempt.
func (p *pause) wait(ctx context.Context) bool {
	d := p.next/2 + rand.N(p.next)
	p.next = min(2*p.next, 5*time.Second)
	if time.Now().Add(d).After(p.until) {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// connect makes a session with all its connections.
func (c *Client) connect(ctx context.Context, replaces string) (*wire, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*greetTime)
	defer cancel()
	g := agentwire.NewGreeting()
	g.Replaces = replaces
	first, terms, err := c.link(ctx, g)
	if err != nil {
		return nil, err
	}
	w := newWire(terms)
	w.grace = c.o.grace
	if !w.fences {
		c.o.Log.Warn("the agent is of an earlier version: it doesn't refuse a worker whose claim was taken over", "addr", c.addr)
	}
	w.add(first)
	g.Session, g.Replaces = terms.Session, ""
	for len(w.links) <= min(c.o.Links, terms.Links-1) {
		l, _, err := c.link(ctx, g)
		if err != nil {
			w.fail(err)
			return nil, err
		}
		w.add(l)
	}
	w.start()
	if c.o.Recheck != nil {
		go w.recheck(first.TLS(), c.o)
	}
	return w, nil
}

// link makes one connection and greets.
func (c *Client) link(ctx context.Context, g agentwire.Greeting) (*agentwire.Link, agentwire.Terms, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	conn, err := c.o.Dial(ctx, "tcp", c.addr)
	if err != nil {
		return nil, agentwire.Terms{}, fmt.Errorf("%w: %w", ErrLost, err)
	}
	hung := context.AfterFunc(ctx, func() { _ = conn.Close() })
	p := agentwire.NewPatient(conn, greetTime)
	var terms agentwire.Terms
	sealed := false
	l, err := func() (*agentwire.Link, error) {
		conf, err := c.tls()
		if err != nil {
			return nil, err
		}
		t := tls.Client(p, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		sealed = true
		if err := agentwire.Verified(t.ConnectionState(), false); err != nil {
			return nil, err
		}
		l, err := agentwire.Knock(t, c.addr)
		if err != nil {
			return nil, err
		}
		terms, err = greet(ctx, l, g)
		return l, err
	}()
	if err == nil && !hung() {
		err = ctx.Err()
	}
	if err != nil {
		hung()
		_ = conn.Close()
		return nil, terms, refusal(err, sealed)
	}
	p.SetIdle(3 * terms.KeepAlive)
	return l, terms, nil
}

// clientTLS is how each connection gets its configuration. What is wrong with it
// now is told now.
func clientTLS(o DialOptions, host string) (func() (*tls.Config, error), error) {
	get := func() (*tls.Config, error) {
		conf := o.TLS
		if o.GetTLS != nil {
			var err error
			if conf, err = o.GetTLS(); err != nil {
				return nil, err
			}
		}
		conf, err := agentwire.ClientTLS(conf)
		if err == nil && conf.ServerName == "" {
			conf.ServerName = host
		}
		return conf, err
	}
	conf, err := get()
	if err == nil && o.GetTLS == nil {
		return func() (*tls.Config, error) { return conf, nil }, nil
	}
	return get, err
}

func greet(ctx context.Context, l *agentwire.Link, g agentwire.Greeting) (agentwire.Terms, error) {
	var terms agentwire.Terms
	b, err := agentwire.Marshal(g)
	if err == nil {
		err = l.Send(ctx, agentwire.Header{Kind: agentwire.Hello}, b)
	}
	if err != nil {
		return terms, err
	}
	h, err := l.Next()
	if err != nil {
		return terms, err
	}
	if b, err = l.Payload(int(h.Len)); err != nil {
		return terms, err
	}
	switch h.Kind {
	case agentwire.Welcome:
		if err := agentwire.Decode(b, &terms); err != nil {
			return terms, err
		}
		return terms, terms.Check()
	case agentwire.Failure:
		return terms, agentwire.DecodeError(b)
	}
	return terms, fmt.Errorf("%w: a frame of kind %d for a welcome", agentwire.ErrProtocol, h.Kind)
}

// refusal tells an agent that can't be reached, which passes, from one that
// isn't the right one or doesn't want this client, which stays. In TLS 1.3 an agent
// looks at the client's certificate when all is sealed: an alert before that may be
// anybody's, or a damaged one.
func refusal(err error, sealed bool) error {
	var unknown *tls.CertificateVerificationError
	var said *net.OpError
	switch {
	case errors.As(err, &unknown):
		return dr.Permanent(&dr.Error{Op: "verify the agent's certificate", Err: err,
			Remedy: "give the client the authority that signed it, and the name that it is for"})
	case errors.As(err, &said) && said.Op == "remote error" && sealed && aboutCertificate(said.Err):
		return dr.Permanent(&dr.Error{Op: "introduce the client to the agent", Err: fmt.Errorf("%w: %w", fs.ErrPermission, err),
			Remedy: "look in the agent's log what it doesn't like: the client's certificate must be signed by an authority that the agent knows, and neither be expired nor revoked, and the agent must have reached that authority lately"})
	case errors.Is(err, fs.ErrPermission), dr.IsPermanent(err), errors.Is(err, dr.ErrBusy):
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// aboutCertificate tells an alert about who the client is from those that a bit
// turned over on the way brings about. The alerts have no type to ask for.
func aboutCertificate(alert error) bool {
	text := alert.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "access denied")
}

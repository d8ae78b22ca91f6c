package winhost

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// Options say which WMI to connect to, and as whom. The zero value is Hyper-V's
// namespace of this host, as who this process is.
type Options struct {
	// Host is a name or an IPv4 address, "" this host.
	Host string
	// User, "name", `DOMAIN\name` or "name@domain", and Password. WMI refuses
	// both for this host: a process is there as who it is.
	User     string
	Password string `json:"-"`
	// Namespace, "" for [host.Namespace].
	Namespace string
	// Log is told of connections that are made anew. Nil is silent.
	Log *slog.Logger `json:"-"`
}

// String leaves the password out, and so does every format of fmt.
func (o Options) String() string {
	return fmt.Sprintf("WMI of %q, namespace %q, as %q", o.Host, o.Namespace, o.User)
}

// GoString is String.
func (o Options) GoString() string { return o.String() }

// conn is a connection: a thread that owns all COM objects, and runs one call
// after the other.
type conn struct {
	work chan func(*session)
	quit chan struct{} // closed by Close
	done chan struct{} // closed when the thread has ended
	once sync.Once
}

// Dial connects to a host's WMI. All COM objects of a connection live on one
// thread of the operating system, and end with it; calls of many goroutines run
// one after the other. Calls that should run beside each other need a
// connection each.
//
// A connection that was lost is dialled again by the next call. A call under
// which it is lost is repeated if it only reads; an Invoke fails, because what
// it asked for may have happened.
//
// COM has no way to call an attempt off: when ctx ends, Dial returns, and the
// attempt ends by itself. Errors are *[host.Error] where Windows gave a code:
// [host.ErrNamespace] where the Hyper-V role is missing, [host.ErrDenied],
// [host.ErrUnreachable].
func Dial(ctx context.Context, o Options) (host.Conn, error) {
	return dial(ctx, &session{o: o})
}

func dial(ctx context.Context, s *session) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &conn{work: make(chan func(*session)), quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error, 1)
	go c.serve(s, ready)
	select {
	case err := <-ready:
		if err != nil {
			return nil, err
		}
		return c, nil
	case <-ctx.Done():
		c.hangUp()
		return nil, ctx.Err()
	}
}

// serve is the thread.
func (c *conn) serve(s *session, ready chan<- error) {
	// Never unlocked: the thread, of which COM has made an apartment, ends with
	// this goroutine and serves nobody else.
	runtime.LockOSThread()
	defer close(c.done)
	err := s.open()
	ready <- err
	if err != nil {
		return
	}
	defer s.close()
	for {
		select {
		case <-c.quit:
			return
		case f := <-c.work:
			f(s)
		}
	}
}

func (c *conn) hangUp() { c.once.Do(func() { close(c.quit) }) }

// Close ends the connection, as [host.Conn] says.
func (c *conn) Close() error {
	c.hangUp()
	<-c.done
	return nil
}

// do runs a call on the connection's thread, and waits for it or for ctx.
func do[T any](ctx context.Context, c *conn, op string, reads bool, f func(*session) (T, error)) (T, error) {
	var none T
	type outcome struct {
		v   T
		err error
	}
	out := make(chan outcome, 1) // so that the thread never waits for who has left
	run := func(s *session) {
		if err := ctx.Err(); err != nil {
			out <- outcome{none, err}
			return
		}
		v, err := attempt(s, op, reads, f)
		out <- outcome{v, err}
	}
	select {
	case <-c.quit:
		return none, fmt.Errorf("%s: %w", op, host.ErrClosed)
	default:
	}
	select {
	case c.work <- run:
	case <-c.quit:
		return none, fmt.Errorf("%s: %w", op, host.ErrClosed)
	case <-ctx.Done():
		return none, fmt.Errorf("%s: %w", op, ctx.Err())
	}
	select {
	case o := <-out:
		return o.v, o.err
	case <-ctx.Done():
		return none, fmt.Errorf("%s: %w", op, ctx.Err())
	}
}

package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// cutOff is a client whose agent is behind a line that swallows all.
func cutOff(patience time.Duration) *Client {
	c := &Client{
		addr: "disks1:8443", turn: make(chan struct{}, 1), can: make(chan abilities, 1), w: newWire(agentwire.Terms{Calls: 1, Bulk: 1}),
		tls: func() (*tls.Config, error) { return &tls.Config{}, nil },
		o: DialOptions{Patience: patience, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}.withDefaults(),
	}
	c.can <- abilities{}
	c.base, c.quit = context.WithCancel(context.Background())
	c.w.fail(errors.New("a cable was pulled"))
	return c
}

// Many calls at once give up after their patience and one attempt, not one attempt behind
// each other.
func TestACrowdWaitsNoLongerThanOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cutOff(time.Minute)
		var wg sync.WaitGroup
		begun := time.Now()
		for range 20 {
			wg.Go(func() {
				_, err := c.wire(t.Context())
				require.ErrorIs(t, err, ErrLost)
				require.LessOrEqual(t, time.Since(begun), time.Minute+2*greetTime)
			})
		}
		wg.Wait()
		// Who comes later has an attempt of his own.
		again := time.Now()
		_, err := c.wire(t.Context())
		require.ErrorIs(t, err, ErrLost)
		require.Greater(t, time.Since(again), time.Minute/2)
	})
}

// Close doesn't wait for calls that try to reach the agent: it ends them.
func TestCloseWaitsForNobodysPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cutOff(time.Hour)
		done := make(chan error, 1)
		go func() { _, err := c.wire(t.Context()); done <- err }()
		time.Sleep(3 * time.Second)
		begun := time.Now()
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-done, fs.ErrClosed)
		require.Less(t, time.Since(begun), time.Second)
	})
}

// A request that is stuck half way when its context ends is that context's end, and the
// session's: how much of it arrived nobody knows.
func TestAStuckRequestEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(agentwire.Terms{Calls: 8, Bulk: 8, Links: 1})
		here, there := net.Pipe()
		defer there.Close()
		w.add(agentwire.NewLink(here))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.begin(ctx, agentwire.OpWrite, 1, nil, make([]byte, 64<<10))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, ErrLost)
		require.False(t, w.alive())
	})
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o := ServeOptions{TLS: pki().server, RecheckEvery: -1}
	require.ErrorIs(t, Serve(t.Context(), ln, nil, o), dr.ErrInvalid)
	require.Panics(t, func() { NewHandler(nil, ServeOptions{KeepAlive: -1}) })
	_, err = Dial(t.Context(), ln.Addr().String(), DialOptions{TLS: pki().client, RecheckEvery: -1})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

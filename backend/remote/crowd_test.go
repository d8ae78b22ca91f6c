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

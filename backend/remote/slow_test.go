package remote

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
)

// behind makes the line to an agent, and a client that is reached over it.
func behind(t testing.TB, a *agent, o DialOptions) (*faultyline.Line, *Client) {
	t.Helper()
	line, err := faultyline.New(a.addr, 1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, line.Close()) })
	o.TLS = pki().client
	c, err := Dial(t.Context(), line.Addr(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return line, c
}

// A line that is slow is not dead: a request of 1 MiB may take many times as long
// as the silence after which a peer is given up, and so may all that stands before
// it.
func TestSlowIsNotDead(t *testing.T) {
	// At 768 KiB/s six requests take eight seconds; each link has one of 1 MiB for
	// 2.7 s, and what is silent for 1.2 s is dead.
	const keepAlive, rate = 400 * time.Millisecond, 3 << 18
	for name, f := range map[string]func(t *testing.T, c *Client) error{
		"write": func(t *testing.T, c *Client) error {
			d, err := c.Draft(t.Context(), "m", dr.Point{ID: "p"})
			require.NoError(t, err)
			return together(6, func(k int64) error {
				_, err := d.WriteAt(t.Context(), "a", noise(), k<<20)
				return err
			})
		},
		"read": func(t *testing.T, c *Client) error {
			img, err := c.Capture(t.Context(), "m", "p", 0)
			require.NoError(t, err)
			return together(6, func(k int64) error {
				p := make([]byte, agentwire.MaxBulk)
				_, err := img.ReadAt(t.Context(), "a", p, k<<20)
				if err == nil {
					require.True(t, bytes.Equal(noise(), p))
				}
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line, c := behind(t, serve(t, &well{noise: noise()}, ServeOptions{KeepAlive: keepAlive}), DialOptions{Patience: -1})
			line.Set(faultyline.Weather{Rate: rate, Queue: 64 << 10})
			begun := time.Now()
			require.NoError(t, f(t, c))
			require.Greater(t, time.Since(begun), 6*time.Second, "the line was slow")
			require.Equal(t, 3, line.Made(), "and the session the same")
		})
	}
}

// 1 Mbit/s, with the defaults of both sides: eight requests take over a minute, and
// nothing is lost. With LIFEBOAT_LONG=1 only.
func TestOneMegabit(t *testing.T) {
	if os.Getenv("LIFEBOAT_LONG") == "" {
		return
	}
	t.Parallel()
	line, c := behind(t, serve(t, &well{noise: noise()}, ServeOptions{}), DialOptions{Patience: -1})
	img, err := c.Capture(t.Context(), "m", "p", 0)
	require.NoError(t, err)
	d, err := c.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	line.Set(faultyline.Weather{Rate: 125_000})
	begun := time.Now()
	require.NoError(t, together(8, func(k int64) error {
		_, err := img.ReadAt(t.Context(), "a", make([]byte, agentwire.MaxBulk), k<<20)
		return err
	}))
	t.Logf("read 8 MiB in %v", time.Since(begun).Round(time.Second))
	begun = time.Now()
	require.NoError(t, together(8, func(k int64) error {
		_, err := d.WriteAt(t.Context(), "a", noise(), k<<20)
		return err
	}))
	t.Logf("wrote 8 MiB in %v", time.Since(begun).Round(time.Second))
	require.Equal(t, 3, line.Made(), "the session is the same")
}

// together does f n times at once, and returns an error of one of them.
func together(n int, f func(k int64) error) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for k := range n {
		wg.Go(func() {
			if err := f(int64(k)); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// Patience is for reaching the agent again. What a call spent there before is none
// of it.
func TestPatienceBeginsWhenTheLineBreaks(t *testing.T) {
	t.Parallel()
	const patience = 300 * time.Millisecond
	w := &well{noise: noise()}
	line, c := behind(t, serve(t, w, ServeOptions{}), DialOptions{Patience: patience})
	img, err := c.Capture(t.Context(), "m", "p", 0)
	require.NoError(t, err)
	line.Set(faultyline.Weather{Rate: 1 << 20, Queue: 64 << 10})
	line.CutAfter(faultyline.Down, 600<<10)
	p := make([]byte, agentwire.MaxBulk)
	_, err = img.ReadAt(t.Context(), "a", p, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(noise(), p))
	require.Equal(t, 6, line.Made(), "it was cut once")
}

// Who says that it lives and takes nothing is given up, too: it keeps buffers.
func TestWhoLivesAndTakesNothingIsCutOff(t *testing.T) {
	t.Parallel()
	a := serve(t, &well{noise: noise()}, ServeOptions{KeepAlive: 300 * time.Millisecond})
	l, _, err := raw(t, a, pki().client, agentwire.NewGreeting())
	require.NoError(t, err)
	arg, err := agentwire.Marshal(argument{Machine: "m", Name: "p"})
	require.NoError(t, err)
	require.NoError(t, l.Send(t.Context(), agentwire.Header{Kind: agentwire.Request, Op: agentwire.OpCapture, ID: 2}, agentwire.AppendRequestHead(nil, 0, 0), arg))
	for id := range uint64(60) {
		require.NoError(t, l.Send(t.Context(), agentwire.Header{Kind: agentwire.Request, Op: agentwire.OpRead, ID: 3 + id},
			agentwire.AppendRequestHead(nil, 0, 1), agentwire.Span{N: agentwire.MaxBulk, Disk: "a"}.Append(nil)))
	}
	begun := time.Now()
	require.Eventually(t, func() bool {
		return l.Send(t.Context(), agentwire.Header{Kind: agentwire.Ping}) != nil
	}, time.Minute, 10*time.Millisecond)
	require.Greater(t, time.Since(begun), 5*time.Second, "not sooner than who is slow")
}

// slowly is a line with that many bytes a second, and else good.
func slowly(rate int64) faultyline.Weather { return faultyline.Weather{Rate: rate} }

// inFlight is what may have to travel again when a connection is lost: the requests
// under way.
const inFlight = 8 << 20

// A bit that is turned over in a handshake says nothing of the certificates: the
// next attempt may do.
func TestADamagedHandshakeIsNoRefusal(t *testing.T) {
	a := serve(t, &well{}, ServeOptions{})
	line, err := faultyline.New(a.addr, rand.Uint64())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, line.Close()) })
	line.Set(faultyline.Weather{Flips: 1})
	for range 100 {
		// Where it was a length, both sides wait.
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		c, err := Dial(ctx, line.Addr(), DialOptions{TLS: pki().client})
		cancel()
		if err == nil { // where a bit doesn't matter
			require.NoError(t, c.Close())
			continue
		}
		require.ErrorIs(t, err, ErrLost)
		require.False(t, dr.IsPermanent(err), "%v", err)
	}
}

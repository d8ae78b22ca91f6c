package nbd

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// twoLanes returns options for two connections; f speaks for the server, and is
// told which connection it is: the first two are 1 and 2, later ones replace
// them.
func twoLanes(t *testing.T, f func(conn int, s *fakeServer)) Options {
	var conns atomic.Int32
	o := piped(t, func(s *fakeServer) { f(int(conns.Add(1)), s) })
	o.Connections = 2
	return o
}

// Without Reconnect the loss of one of several connections is the end: a write
// that was in flight is not sent again on another, where it might overtake what
// the server still does with the first.
func TestClientReplaysNothingUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes atomic.Int32
		o := twoLanes(t, func(_ int, s *fakeServer) {
			s.negotiate(1000, allFlags|canMultiConn)
			for {
				r, _, ok := s.next()
				if !ok || r.cmd == cmdDisc {
					s.conn.Close()
					return
				}
				if r.cmd == cmdWrite && writes.Add(1) == 1 {
					s.conn.Close() // may go on with the write
					return
				}
				s.ok(r, make([]byte, r.length)...)
			}
		})
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.WriteAt(t.Context(), []byte{1}, 0)
		require.ErrorIs(t, err, ErrLost)
		require.ErrorContains(t, err, "receiving")
		require.EqualValues(t, 1, writes.Load())
		synctest.Wait()
		for range 5 {
			_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
			require.ErrorIs(t, err, ErrLost)
		}
	})
}

// One connection that comes back to another export ends them all.
func TestClientRefusesAnotherExportOnAnyConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := twoLanes(t, func(conn int, s *fakeServer) {
			size := uint64(1000)
			if conn == 3 {
				size++
			}
			s.negotiate(size, allFlags|canMultiConn)
			if conn == 1 {
				time.Sleep(time.Second)
				s.conn.Close()
				return
			}
			s.serveUntilDisc(conn)
		})
		o.Reconnect = time.Minute
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		defer c.Close()
		time.Sleep(2 * time.Second)
		for range 5 {
			_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
			require.ErrorIs(t, err, ErrChanged)
		}
	})
}

// Who waits for a connection takes the first that is back.
func TestClientTakesTheFirstConnectionBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		o := twoLanes(t, func(conn int, s *fakeServer) {
			s.negotiate(1000, allFlags|canMultiConn)
			if conn <= 2 {
				time.Sleep(time.Second)
				s.conn.Close()
				return
			}
			s.serveUntilDisc(conn)
		})
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			switch n := dials.Add(1); {
			case n > 3:
				return nil, errors.New("one is enough")
			case n == 3:
				time.Sleep(5 * time.Second)
			}
			return dial(ctx, network, address)
		}
		o.Reconnect = time.Hour
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		defer c.Close()
		time.Sleep(time.Second + time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if _, err := c.ReadAt(ctx, make([]byte, 1), 0); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
}

// counted refuses to dial more often than any sane client would.
func counted(t *testing.T, o Options) (Options, *atomic.Int32) {
	var dials atomic.Int32
	dial := o.Dial
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) > 500 {
			t.Error("reconnecting without a pause")
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return dial(ctx, network, address)
	}
	return o, &dials
}

// A request that kills the server whenever it is sent fails in the end, and the
// server is not hammered meanwhile.
func TestClientGivesADeadlyRequestUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, dials := counted(t, piped(t, func(s *fakeServer) {
			s.negotiate(1000, allFlags)
			s.next()
			s.conn.Close()
		}))
		o.Reconnect = 10 * time.Second
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		defer c.Close()
		start := time.Now()
		_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
		require.ErrorIs(t, err, ErrLost)
		require.ErrorContains(t, err, "each time that it was sent")
		require.InDelta(t, 12, time.Since(start).Seconds(), 6)
		require.Less(t, dials.Load(), int32(20))
	})
}

// A server that takes connections and drops them at once is not hammered, and
// one that has become reliable again has no long pause to pay for.
func TestClientPausesBetweenShortLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var good atomic.Bool
		o, dials := counted(t, piped(t, func(s *fakeServer) {
			s.negotiate(1000, allFlags)
			if good.Load() {
				s.serveUntilDisc(1)
			}
			s.conn.Close()
		}))
		o.Reconnect = time.Hour
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		defer c.Close()
		time.Sleep(10 * time.Minute)
		require.Less(t, dials.Load(), int32(140))
		good.Store(true)
		_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		good.Store(false)
		c.lanes.links[0].raw.Close()
		synctest.Wait()
		before := dials.Load()
		good.Store(true)
		start := time.Now()
		_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(start), 2*firstPause)
		require.LessOrEqual(t, dials.Load(), before+1)
	})
}

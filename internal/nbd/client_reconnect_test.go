package nbd

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// reconnecting refuses some attempts to connect after the first; each that
// succeeds begins another life of the server, which f speaks for.
func reconnecting(t *testing.T, refused int32, f func(life int, s *fakeServer)) Options {
	var lives, attempts atomic.Int32
	o := piped(t, func(s *fakeServer) { f(int(lives.Add(1)), s) })
	dial := o.Dial
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if a := attempts.Add(1); a > 1 && a <= refused+1 {
			return nil, errors.New("nobody is there")
		}
		return dial(ctx, network, address)
	}
	o.Reconnect = time.Minute
	return o
}

// serveUntilDisc answers everything, reads with life's number.
func (s *fakeServer) serveUntilDisc(life int) {
	defer s.conn.Close()
	for {
		r, _, ok := s.next()
		if !ok || r.cmd == cmdDisc {
			return
		}
		if r.cmd == cmdRead {
			b := make([]byte, r.length)
			for i := range b {
				b[i] = byte(life)
			}
			s.ok(r, b...)
			continue
		}
		s.ok(r)
	}
}

// Requests in flight are repeated, with pauses that double.
func TestClientReconnects(t *testing.T) {
	for _, cmd := range []uint16{cmdRead, cmdWrite, cmdTrim, cmdWriteZeros, cmdFlush} {
		synctest.Test(t, func(t *testing.T) {
			o := reconnecting(t, 3, func(life int, s *fakeServer) {
				s.negotiate(1000, allFlags)
				if life == 1 {
					s.next()
					s.conn.Close()
					return
				}
				s.serveUntilDisc(life)
			})
			c, err := Dial(t.Context(), o)
			require.NoError(t, err)
			start := time.Now()
			p := make([]byte, 10)
			switch cmd {
			case cmdRead:
				_, err = c.ReadAt(t.Context(), p, 0)
				require.Equal(t, []byte{2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, p)
			case cmdWrite:
				_, err = c.WriteAt(t.Context(), p, 0)
			case cmdTrim:
				err = c.Trim(t.Context(), 0, 5)
			case cmdWriteZeros:
				err = c.Zero(t.Context(), 0, 5)
			case cmdFlush:
				err = c.Flush(t.Context())
			}
			require.NoError(t, err)
			require.Equal(t, 7*firstPause, time.Since(start), "1 + 2 + 4")
			require.NoError(t, c.Flush(t.Context()), "what was in flight had not been acknowledged")
			require.NoError(t, c.Close())
		})
	}
}

// What was acknowledged and not flushed is reported, whatever comes later.
func TestClientReportsUnflushedWrites(t *testing.T) {
	type step func(context.Context, *Client) error
	write := func(ctx context.Context, c *Client) error { _, err := c.WriteAt(ctx, []byte{1}, 0); return err }
	through := func(ctx context.Context, c *Client) error { _, err := c.WriteThrough(ctx, []byte{1}, 0); return err }
	flush := func(ctx context.Context, c *Client) error { return c.Flush(ctx) }
	zero := func(ctx context.Context, c *Client) error { return c.Zero(ctx, 0, 1) }
	trim := func(ctx context.Context, c *Client) error { return c.Trim(ctx, 0, 1) }
	read := func(ctx context.Context, c *Client) error { _, err := c.ReadAt(ctx, []byte{1}, 0); return err }
	for _, c := range []struct {
		name   string
		before []step
		last   step // in flight when the connection is lost
		broken bool
	}{
		{"nothing", nil, flush, false},
		{"a write", []step{write}, read, true},
		{"a write, the flush was lost", []step{write}, flush, true},
		{"a write, the next was lost", []step{write}, write, true},
		{"zeros", []step{zero}, read, true},
		{"a trim", []step{trim}, read, true},
		{"flushed", []step{write, zero, flush}, write, false},
		{"written through", []step{through, through}, flush, false},
		{"flushed, then written", []step{write, flush, write}, read, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := reconnecting(t, 0, func(life int, s *fakeServer) {
					s.negotiate(1000, allFlags)
					for i := 0; life == 1; i++ {
						r, _, _ := s.next()
						if i == len(c.before) {
							s.conn.Close()
							return
						}
						s.ok(r)
					}
					s.serveUntilDisc(life)
				})
				cl, err := Dial(t.Context(), o)
				require.NoError(t, err)
				defer cl.Close()
				for _, f := range c.before {
					require.NoError(t, f(t.Context(), cl))
				}
				if err := c.last(t.Context(), cl); err != nil {
					require.True(t, c.broken)
					require.ErrorIs(t, err, ErrUnflushed)
				}
				require.NoError(t, read(t.Context(), cl), "reads go on")
				for range 2 {
					for _, f := range []step{write, through, zero, trim, flush} {
						if err := f(t.Context(), cl); c.broken {
							require.ErrorIs(t, err, ErrUnflushed)
						} else {
							require.NoError(t, err)
						}
					}
				}
			})
		})
	}
}

func TestClientRefusesAnotherExport(t *testing.T) {
	for _, c := range []struct {
		size  uint64
		flags uint16
		words string
	}{{1001, allFlags, "its size is 1001, was 1000"}, {1000, allFlags | sendReadOnly, "flags"}} {
		synctest.Test(t, func(t *testing.T) {
			o := reconnecting(t, 1, func(life int, s *fakeServer) {
				if life == 1 {
					s.negotiate(1000, allFlags)
					s.next()
				} else {
					s.negotiate(c.size, c.flags)
				}
				s.conn.Close()
			})
			cl, err := Dial(t.Context(), o)
			require.NoError(t, err)
			_, err = cl.ReadAt(t.Context(), make([]byte, 1), 0)
			require.ErrorIs(t, err, ErrChanged)
			require.ErrorContains(t, err, c.words)
			require.ErrorIs(t, cl.Flush(t.Context()), ErrChanged)
			cl.Close()
		})
	}
}

// Waiting for a connection ends with the caller's context, Close, or the time
// that was allowed.
func TestClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := reconnecting(t, 1<<30, func(_ int, s *fakeServer) {
			s.negotiate(1000, allFlags)
			s.next()
			s.conn.Close()
		})
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.ReadAt(ctx, make([]byte, 1), 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
		require.ErrorIs(t, err, ErrLost)
		require.ErrorContains(t, err, "nobody is there")
		require.Equal(t, time.Minute, time.Since(start))
		c.Close()

		c, err = Dial(t.Context(), Options{Network: o.Network, Address: "x", Dial: o.Dial, Reconnect: time.Minute})
		require.Error(t, err)
		require.Nil(t, c)
	})
	synctest.Test(t, func(t *testing.T) {
		o := reconnecting(t, 1<<30, func(_ int, s *fakeServer) {
			s.negotiate(1000, allFlags)
			s.next()
			s.conn.Close()
		})
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { c.Close() })
		_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
		require.ErrorIs(t, err, ErrClosed)
	})
}

// A server that says nothing is left after HandshakeTimeout.
func TestClientHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := piped(t, func(s *fakeServer) { s.conn.Read(make([]byte, 1)) })
		start := time.Now()
		_, err := Dial(t.Context(), o)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 30*time.Second, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = List(ctx, o)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

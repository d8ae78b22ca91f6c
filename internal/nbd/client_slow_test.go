package nbd

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A long reply that comes slowly, but comes, doesn't cost the connection when
// its request is cancelled: the others' go on.
func TestClientCancelsLongReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 16 << 20
		o := piped(t, func(s *fakeServer) {
			s.negotiate(size, allFlags)
			r, _, _ := s.next()
			go func() { s.next(); s.next() }() // takes what comes meanwhile; answers nothing yet
			s.write(simpleReply{cookie: r.cookie}.append(nil))
			for range 16 {
				s.write(bytes.Repeat([]byte{9}, 1<<20))
				time.Sleep(time.Second)
			}
			s.ok(request{cookie: 1<<32 | 1}, 7)
		})
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		first := make(chan error)
		p := make([]byte, size)
		go func() {
			_, err := c.ReadAt(ctx, p, 0)
			first <- err
		}()
		synctest.Wait()
		other := make(chan error)
		q := []byte{0}
		go func() {
			_, err := c.ReadAt(t.Context(), q, 0)
			other <- err
		}()
		start := time.Now()
		require.ErrorIs(t, <-first, context.DeadlineExceeded)
		require.Less(t, time.Since(start), 3*time.Second)
		clear(p)
		require.NoError(t, <-other)
		require.Equal(t, byte(7), q[0])
		require.Equal(t, make([]byte, size), p, "nothing lands in a buffer that was given back")
		c.Close()
	})
}

// The same for a long write that the server takes slowly: what is left of it is
// sent from a copy, for the server counts on it.
func TestClientCancelsLongWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 16 << 20
		var got []byte
		o := piped(t, func(s *fakeServer) {
			s.negotiate(size, allFlags)
			var hdr [requestSize]byte
			io.ReadFull(s.conn, hdr[:])
			r, _ := parseRequest(&hdr)
			p := make([]byte, 1<<20)
			for range 16 {
				io.ReadFull(s.conn, p)
				got = append(got, p...)
				time.Sleep(time.Second)
			}
			s.ok(r)
			s.serveUntilDisc(7)
		})
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		p := noise(size)
		want := bytes.Clone(p)
		start := time.Now()
		_, err = c.WriteAt(ctx, p, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), 3*time.Second)
		clear(p)
		q := []byte{0}
		_, err = c.ReadAt(t.Context(), q, 0)
		require.NoError(t, err)
		require.Equal(t, byte(7), q[0])
		require.True(t, bytes.Equal(want, got), "the server got what was to be written")
		c.Close()
	})
}

// A caller that waits for another's write of a part of a block can be cancelled.
func TestClientCancelsWhoWaitsForABlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := piped(t, func(s *fakeServer) {
			s.negotiate(1<<20, allFlags)
			for _, _, ok := s.next(); ok; _, _, ok = s.next() {
			}
		})
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		c.info.MinBlock = 4096
		stuck := make(chan error)
		go func() {
			_, err := c.WriteAt(t.Context(), []byte{1}, 5)
			stuck <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		go func() { time.Sleep(time.Hour); c.Close() }()
		_, err = c.WriteAt(ctx, []byte{1}, 50)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.ErrorIs(t, <-stuck, ErrClosed)
	})
}

// deadlineless is a connection, such as a channel of SSH, that knows no
// deadlines.
type deadlineless struct{ net.Conn }

func (deadlineless) SetDeadline(time.Time) error      { return io.ErrNoProgress }
func (deadlineless) SetWriteDeadline(time.Time) error { return io.ErrNoProgress }
func (deadlineless) SetReadDeadline(time.Time) error  { return io.ErrNoProgress }

// Close and the limit of a handshake don't hang on a server that is silent, on
// whatever kind of connection.
func TestClientNeedsNoDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		greet := true
		o := piped(t, func(s *fakeServer) {
			if greet {
				s.negotiate(1<<20, allFlags)
			}
		})
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			return deadlineless{c}, err
		}
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := c.WriteAt(t.Context(), make([]byte, 1000), 0)
			done <- err
		}()
		synctest.Wait()
		start := time.Now()
		require.NoError(t, c.Close())
		require.LessOrEqual(t, time.Since(start), 2*time.Second)
		require.ErrorIs(t, <-done, ErrClosed)

		greet = false
		start = time.Now()
		_, err = Dial(t.Context(), o)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 30*time.Second, time.Since(start))
	})
}

// A server that is there and does nothing is left after Options.Stall, and asked
// again; one that is only slow is not.
func TestClientLeavesASilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lives := 0
		o := piped(t, func(s *fakeServer) {
			lives++
			life := lives
			s.negotiate(1<<20, allFlags)
			if life == 1 { // slow
				r, _, _ := s.next()
				s.write(simpleReply{cookie: r.cookie}.append(nil))
				for range r.length {
					time.Sleep(50 * time.Second)
					s.write([]byte{1})
				}
				s.next() // silent
				return
			}
			s.serveUntilDisc(life)
		})
		o.Stall, o.Reconnect = time.Minute, time.Minute
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		time.Sleep(time.Hour) // nothing is in flight
		p := make([]byte, 10)
		_, err = c.ReadAt(t.Context(), p, 0)
		require.NoError(t, err)
		require.Equal(t, 1, lives)
		start := time.Now()
		_, err = c.ReadAt(t.Context(), p, 0)
		require.NoError(t, err)
		require.Equal(t, byte(2), p[0])
		require.InDelta(t, 75, time.Since(start).Seconds(), 16)
		require.NoError(t, c.Close())
	})
}

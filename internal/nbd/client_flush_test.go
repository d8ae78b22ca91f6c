package nbd

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A flush says nothing of requests that have no reply yet. So it waits for the
// writes that were cancelled: once it returns none of them can undo a later one.
func TestClientFlushesAfterCancelledWrites(t *testing.T) {
	for _, fate := range []string{"answered", "refused", "lost"} {
		synctest.Test(t, func(t *testing.T) {
			var settled atomic.Bool
			o := reconnecting(t, 0, func(life int, s *fakeServer) {
				s.negotiate(1000, allFlags)
				if life == 1 {
					r, _, _ := s.next()
					time.AfterFunc(10*time.Second, func() {
						settled.Store(true)
						switch fate {
						case "answered":
							s.ok(r)
						case "refused":
							s.write(simpleReply{err: EIO, cookie: r.cookie}.append(nil))
						case "lost":
							s.conn.Close()
						}
					})
				}
				s.serveUntilDisc(life)
			})
			c, err := Dial(t.Context(), o)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = c.WriteAt(ctx, []byte{1}, 0)
			require.ErrorIs(t, err, context.DeadlineExceeded)

			short, cancel := context.WithTimeout(t.Context(), time.Second/2)
			defer cancel()
			require.ErrorIs(t, c.Flush(short), context.DeadlineExceeded)
			require.False(t, settled.Load())
			require.NoError(t, c.Flush(t.Context()))
			require.True(t, settled.Load())
			_, err = c.WriteThrough(t.Context(), []byte{1}, 0)
			require.NoError(t, err)
			require.NoError(t, c.Close())
		})
	}
}

// Close, and a loss without Reconnect, end the wait.
func TestClientFlushDoesNotWaitInVain(t *testing.T) {
	for _, close := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			o := piped(t, func(s *fakeServer) {
				s.negotiate(1000, allFlags)
				s.next()
				time.Sleep(10 * time.Second)
				if !close {
					s.conn.Close()
				}
				s.next()
				s.conn.Close()
			})
			c, err := Dial(t.Context(), o)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, c.Trim(ctx, 0, 5), context.DeadlineExceeded)
			if close {
				time.AfterFunc(time.Second, func() { c.Close() })
				require.ErrorIs(t, c.Flush(t.Context()), ErrClosed)
			} else {
				require.ErrorIs(t, c.Flush(t.Context()), ErrLost)
			}
			require.NoError(t, c.Close())
			time.Sleep(time.Minute) // the server's end
		})
	}
}

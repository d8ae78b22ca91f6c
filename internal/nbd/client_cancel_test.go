package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeServer is the other end of a connection, which a test speaks for.
type fakeServer struct {
	t    *testing.T
	conn net.Conn
}

// piped returns options whose connections are pipes; each one is handed to f.
func piped(t *testing.T, f func(s *fakeServer)) Options {
	return Options{Network: "tcp", Address: "pipe:1", Dial: func(context.Context, string, string) (net.Conn, error) {
		mine, theirs := net.Pipe()
		go f(&fakeServer{t, theirs})
		return mine, nil
	}}
}

// negotiate agrees on an export as an old server without structured replies does.
func (s *fakeServer) negotiate(size uint64, flags uint16) {
	s.write(greeting{flagFixedNewstyle | flagNoZeroes}.append(nil))
	io.ReadFull(s.conn, make([]byte, 4))
	for {
		var hdr [optionHeaderSize]byte
		if _, err := io.ReadFull(s.conn, hdr[:]); err != nil {
			return
		}
		h, err := parseOptionHeader(&hdr)
		if err != nil {
			s.t.Errorf("option: %v", err)
			return
		}
		io.ReadFull(s.conn, make([]byte, h.length))
		if h.option == optExportName {
			s.write(exportInfo{size, flags | sendHasFlags}.append(nil))
			return
		}
		s.write(optionReply{option: h.option, kind: repErrUnsup}.append(nil))
	}
}

func (s *fakeServer) write(p []byte) { s.conn.Write(p) }

// next returns the next request and its payload.
func (s *fakeServer) next() (request, []byte, bool) {
	var hdr [requestSize]byte
	if _, err := io.ReadFull(s.conn, hdr[:]); err != nil {
		return request{}, nil, false
	}
	r, err := parseRequest(&hdr)
	if err != nil {
		s.t.Errorf("request: %v", err)
		return r, nil, false
	}
	if r.cmd != cmdWrite {
		return r, nil, true
	}
	p := make([]byte, r.length)
	_, err = io.ReadFull(s.conn, p)
	return r, p, err == nil
}

func (s *fakeServer) ok(r request, data ...byte) {
	s.write(append(simpleReply{cookie: r.cookie}.append(nil), data...))
}

const allFlags = sendFlush | sendFUA | sendTrim | sendWriteZeros

// A cancelled request's late reply is drained, and nothing lands in a buffer
// that the caller has back.
func TestClientCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reply := make(chan struct{})
		o := piped(t, func(s *fakeServer) {
			s.negotiate(1000, allFlags)
			r, _, _ := s.next()
			<-reply
			s.ok(r, bytes.Repeat([]byte{1}, int(r.length))...)
			for {
				r, _, ok := s.next()
				if !ok || r.cmd == cmdDisc {
					s.conn.Close()
					return
				}
				s.ok(r, bytes.Repeat([]byte{2}, int(r.length))...)
			}
		})
		o.InFlight = 1
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		require.False(t, c.Info().Structured)

		ctx, cancel := context.WithCancel(t.Context())
		p := make([]byte, 100)
		done := make(chan error)
		go func() {
			_, err := c.ReadAt(ctx, p, 0)
			done <- err
		}()
		synctest.Wait()
		cancel()
		err = <-done
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "read of 100 bytes at 0")

		// Its place in flight is still taken; waiting for it can be cancelled.
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.ReadAt(short, p, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		close(reply)
		q := make([]byte, 50)
		_, err = c.ReadAt(t.Context(), q, 10)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{2}, 50), q)
		require.Equal(t, make([]byte, 100), p)
		require.NoError(t, c.Close())
	})
}

// A reply that stops half way into a caller's buffer is waited for, then the
// connection is given up.
func TestClientCancelHalfWay(t *testing.T) {
	for _, goesOn := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			rest := make(chan struct{})
			o := piped(t, func(s *fakeServer) {
				s.negotiate(1000, allFlags)
				r, _, _ := s.next()
				s.ok(r, make([]byte, 60)...)
				<-rest
				s.write(make([]byte, 40))
				s.next()
				s.conn.Close()
			})
			c, err := Dial(t.Context(), o)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			time.AfterFunc(2*time.Second, func() {
				if goesOn {
					close(rest)
				}
			})
			start := time.Now()
			_, err = c.ReadAt(ctx, make([]byte, 100), 0)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			if goesOn {
				require.Equal(t, 2*time.Second, time.Since(start))
			} else {
				require.Equal(t, time.Second+stallGrace, time.Since(start))
				_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
				require.ErrorIs(t, err, ErrLost)
				close(rest)
			}
			c.Close()
		})
	}
}

// A write that the server doesn't take can be cancelled before it is sent at
// once, and while it is sent after stallGrace.
func TestClientCancelWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := piped(t, func(s *fakeServer) { s.negotiate(1<<20, allFlags) })
		c, err := Dial(t.Context(), o)
		require.NoError(t, err)
		start := time.Now()
		took := make(chan time.Duration, 2)
		write := func(limit time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := c.WriteAt(ctx, make([]byte, 1000), 0)
			if err == nil || ctx.Err() == nil {
				t.Errorf("write: %v", err)
			}
			took <- time.Since(start)
		}
		go write(2 * time.Second)
		synctest.Wait()
		go write(time.Second)
		require.Equal(t, time.Second, <-took, "queued")
		require.Equal(t, 2*time.Second+stallGrace, <-took, "half way")
		c.Close()
	})
}

// What a server may not do ends the connection, or the request, with words.
func TestClientOfHostileServers(t *testing.T) {
	read := func(r request, kind, flags uint16, payload ...byte) []byte {
		return append(chunkHeader{flags, kind, r.cookie, uint32(len(payload))}.append(nil), payload...)
	}
	at := func(off uint64, p ...byte) []byte { return append(binary.BigEndian.AppendUint64(nil, off), p...) }
	for name, c := range map[string]struct {
		reply func(r request) []byte
		dead  bool
		want  string
	}{
		"garbage":            {func(request) []byte { return make([]byte, 40) }, true, "starts with"},
		"stranger's cookie":  {func(request) []byte { return simpleReply{err: EIO, cookie: 7}.append(nil) }, true, "not in flight"},
		"far cookie":         {func(request) []byte { return simpleReply{err: EIO, cookie: 1<<64 - 1}.append(nil) }, true, "not in flight"},
		"simple":             {func(r request) []byte { return simpleReply{cookie: r.cookie}.append(nil) }, true, "simple reply"},
		"before the request": {func(r request) []byte { return read(r, chunkOffsetData, 1, at(99, 1)...) }, true, "in reply to a read"},
		"too long":           {func(r request) []byte { return read(r, chunkOffsetData, 1, at(100, make([]byte, 11)...)...) }, true, "in reply to a read"},
		"overflow":           {func(r request) []byte { return read(r, chunkOffsetHole, 1, at(1<<64-1, 255, 255, 255, 255)...) }, true, "in reply to a read"},
		"nothing":            {func(r request) []byte { return read(r, chunkNone, 1) }, false, "leaves out"},
		"a gap":              {func(r request) []byte { return read(r, chunkOffsetData, 1, at(100, 1, 2, 3)...) }, false, "leaves out"},
		"twice": {func(r request) []byte {
			return append(read(r, chunkOffsetData, 0, at(100, 1, 2, 3)...), read(r, chunkOffsetData, 1, at(102, 1)...)...)
		}, true, "come twice"},
		"status":        {func(r request) []byte { return read(r, chunkBlockStatus, 1, make([]byte, 12)...) }, true, "chunk of kind 5"},
		"unknown chunk": {func(r request) []byte { return read(r, 77, 1) }, true, "chunk of kind 77"},
		"unknown error": {func(r request) []byte { return read(r, chunkErrorBit|77, 1, 0, 0, 0, 5, 0, 0) }, false, "input/output"},
		"error of 0":    {func(r request) []byte { return read(r, chunkError, 1, 0, 0, 0, 0, 0, 0) }, true, "error 0"},
		"lying text":    {func(r request) []byte { return read(r, chunkError, 1, 0, 0, 0, 5, 9, 9, 'x') }, true, "text of"},
		"endless error": {func(r request) []byte { return chunkHeader{1, chunkError, r.cookie, 1 << 31}.append(nil) }, true, "an error of"},
		"endless data": {func(r request) []byte {
			return append(chunkHeader{1, chunkOffsetData, r.cookie, 1<<32 - 1}.append(nil), at(100)...)
		}, true, "in reply to a read"},
		"error and more": {func(r request) []byte {
			return append(read(r, chunkError, 0, 0, 0, 0, 28, 0, 0), read(r, chunkNone, 1)...)
		}, false, "no space"},
	} {
		t.Run(name, func(t *testing.T) {
			mine, theirs := net.Pipe()
			defer theirs.Close()
			var book ledger
			l := newLink(&negotiation{raw: mine, conn: mine, structured: true}, 2, &book)
			s := &fakeServer{t, theirs}
			go func() {
				r, _, _ := s.next()
				s.write(c.reply(r))
			}()
			err := l.roundTrip(t.Context(), &exchange{req: request{cmd: cmdRead, offset: 100, length: 10}, data: make([]byte, 10)})
			require.Error(t, err)
			require.Equal(t, c.dead, isLost(err), err)
			if c.dead {
				err = l.err
			}
			require.ErrorContains(t, err, c.want)
			go io.Copy(io.Discard, theirs)
			l.close()
		})
	}
}

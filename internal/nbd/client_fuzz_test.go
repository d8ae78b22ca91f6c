package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// replies is a connection on which a server's bytes are there from the start,
// except that those in late come after the client has sent its first request.
type replies struct {
	script
	late  io.Reader
	once  sync.Once
	asked chan struct{}
	ended chan struct{}
	close sync.Once
}

func newReplies(early, late []byte) *replies {
	return &replies{
		script: script{Reader: bytes.NewReader(early)}, late: bytes.NewReader(late),
		asked: make(chan struct{}), ended: make(chan struct{}),
	}
}

func (r *replies) Read(p []byte) (int, error) {
	if n, err := r.script.Read(p); err == nil {
		return n, nil
	}
	select {
	case <-r.asked:
		return r.late.Read(p)
	case <-r.ended:
		return 0, net.ErrClosed
	}
}

func (r *replies) Write(p []byte) (int, error) {
	if len(p) >= 4 && binary.BigEndian.Uint32(p) == magicRequest {
		r.ask()
	}
	return len(p), nil
}

// ask lets the late bytes through.
func (r *replies) ask() { r.once.Do(func() { close(r.asked) }) }

func (r *replies) Close() error {
	r.close.Do(func() { close(r.ended) })
	return nil
}

func (r *replies) options(inFlight int) Options {
	return Options{Network: "tcp", Address: "x:1", InFlight: inFlight, Contexts: []string{DirtyBitmap("b")},
		Dial: func(context.Context, string, string) (net.Conn, error) { return r, nil }}
}

// agreed is what a good server says to a client that asks for everything.
func agreed(structured bool) []byte {
	reply := func(option, kind uint32, data ...byte) []byte {
		return append(optionReply{option, kind, uint32(len(data))}.append(nil), data...)
	}
	info := func(item uint16, b []byte) []byte {
		return reply(optGo, repInfo, append(binary.BigEndian.AppendUint16(nil, item), b...)...)
	}
	b := greeting{flagFixedNewstyle | flagNoZeroes}.append(nil)
	if structured {
		b = slices.Concat(b, reply(optStructuredReply, repAck),
			reply(optSetMetaContext, repMetaContext, append([]byte{0, 0, 0, 1}, ContextAllocation...)...),
			reply(optSetMetaContext, repMetaContext, append([]byte{0, 0, 0, 2}, DirtyBitmap("b")...)...),
			reply(optSetMetaContext, repAck))
	} else {
		b = append(b, reply(optStructuredReply, repErrUnsup)...)
	}
	return slices.Concat(b, info(infoExport, exportInfo{5000, sendHasFlags | allFlags | sendCache}.append(nil)),
		info(infoBlockSize, blockSizeInfo{1, 4096, 1 << 20}.append(nil)), info(infoDescription, []byte("d")), reply(optGo, repAck))
}

// FuzzClientHandshake: an error or a client, from whatever a server says.
func FuzzClientHandshake(f *testing.F) {
	f.Add(agreed(true))
	f.Add(agreed(false))
	f.Add(append(greeting{}.append(nil), make([]byte, 134)...))
	f.Add(append(greeting{}.append(nil), append(exportInfo{1 << 40, sendHasFlags}.append(nil), make([]byte, 124)...)...))
	f.Add(append(greeting{flagFixedNewstyle}.append(nil), optionReply{optList, repServer, 9}.append(nil)...))
	f.Add(append(greeting{flagFixedNewstyle}.append(nil), optionReply{optStructuredReply, repErrTLSReqd, 1 << 30}.append(nil)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReplies(b, nil)
		r.ask()
		c, err := Dial(t.Context(), r.options(2))
		if err == nil {
			i := c.Info()
			require.GreaterOrEqual(t, i.Size, int64(0))
			require.True(t, i.MinBlock >= 1 && i.MaxPayload >= i.MinBlock && i.MaxPayload <= MaxPayload && i.MaxPayload%i.MinBlock == 0, "%+v", i)
			require.NoError(t, c.Close())
		}
		r = newReplies(b, nil)
		r.ask()
		_, _ = List(t.Context(), r.options(2))
	})
}

// FuzzClientReplies has several requests in flight while a server says
// anything. They end, and reads stay in their buffers.
func FuzzClientReplies(f *testing.F) {
	cookie := uint64(1) << 32 // the first use of the first slot
	chunks := func(kind uint16, flags uint16, cookie uint64, p ...byte) []byte {
		return append(chunkHeader{flags, kind, cookie, uint32(len(p))}.append(nil), p...)
	}
	f.Add(true, uint8(0), chunks(chunkOffsetData, 1, cookie, append(make([]byte, 8), make([]byte, 1000)...)...))
	f.Add(true, uint8(0), slices.Concat(chunks(chunkOffsetHole, 0, cookie, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0), chunks(chunkError, 1, cookie, 0, 0, 0, 5, 0, 1, 'x')))
	f.Add(true, uint8(1), chunks(chunkBlockStatus, 1, cookie, 0, 0, 0, 1, 0, 0, 0x10, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0))
	f.Add(true, uint8(1), chunks(chunkBlockStatus, 1, cookie, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))
	f.Add(true, uint8(2), slices.Concat(chunks(chunkNone, 1, cookie), simpleReply{0, cookie + 1}.append(nil)))
	f.Add(false, uint8(0), append(simpleReply{0, cookie}.append(nil), make([]byte, 1000)...))
	f.Add(false, uint8(2), simpleReply{EIO, cookie}.append(nil))
	f.Add(true, uint8(0), chunkHeader{1, chunkOffsetData, cookie, 1<<32 - 1}.append(nil))
	f.Fuzz(func(t *testing.T, structured bool, op uint8, b []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c, err := Dial(ctx, newReplies(agreed(structured), b).options(3))
		require.NoError(t, err)
		defer c.Close()
		var all sync.WaitGroup
		for i := range uint8(3) {
			all.Go(func() {
				const guard = 64
				buf := bytes.Repeat([]byte{0xa5}, 1000+2*guard)
				var err error
				switch (op + i) % 3 {
				case 0:
					_, err = c.ReadAt(ctx, buf[guard:][:1000], 0)
				case 1:
					next := int64(10)
					for s, e := range c.BlockStatus(ctx, 10, 4000, ContextAllocation) {
						if e == nil && (s.Off != next || s.Len <= 0 || s.Off+s.Len > 4010) {
							t.Errorf("status %+v, expected at %d", s, next)
						}
						next, err = s.Off+s.Len, e
					}
				case 2:
					_, err = c.WriteAt(ctx, buf[guard:][:1000], 0)
				}
				if ctx.Err() != nil {
					t.Errorf("operation %d hangs: %v", (op+i)%3, err)
				}
				for _, g := range [][]byte{buf[:guard], buf[1000+guard:]} {
					if !bytes.Equal(g, bytes.Repeat([]byte{0xa5}, guard)) {
						t.Error("a reply left its buffer")
					}
				}
			})
		}
		all.Wait()
	})
}

func FuzzParseURI(f *testing.F) {
	f.Add("nbd://host:1/x")
	f.Add("nbds+unix:///x?socket=/s&tls-hostname=h")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseURI(s)
		if err == nil {
			require.NoError(t, o.check())
		}
	})
}

// TestCoverage compares the merged intervals with one flag for each byte.
func TestCoverage(t *testing.T) {
	for _, steps := range [][]span{
		{{0, 10}}, {{5, 5}, {0, 5}}, {{0, 3}, {7, 3}, {3, 4}}, {{4, 2}, {0, 2}, {8, 2}, {2, 2}, {6, 2}},
		{{0, 5}, {4, 6}}, {{4, 2}, {3, 2}}, {{4, 2}, {5, 1}}, {{4, 2}, {0, 10}}, {{0, 2}, {4, 2}, {1, 4}}, {{1, 9}},
	} {
		var c coverage
		var bytes [10]bool
		for _, s := range steps {
			clash := slices.Contains(bytes[s.off:s.off+s.n], true)
			require.Equal(t, !clash, c.add(uint32(s.off), uint32(s.n)), "%v at %v", steps, s)
			if clash {
				break
			}
			for i := s.off; i < s.off+s.n; i++ {
				bytes[i] = true
			}
		}
		require.Equal(t, !slices.Contains(bytes[:], false), c.whole(10), "%v", steps)
	}
	var c coverage
	for i := range uint32(maxCrumbs) {
		require.True(t, c.add(2*i, 1))
	}
	require.False(t, c.add(2*maxCrumbs, 1), "crumbs are bounded")
}

package nbd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// rawClient says what a test tells it to, right or wrong.
type rawClient struct {
	t          testing.TB
	conn       net.Conn
	r          *bufio.Reader
	structured bool
	cookie     uint64
}

type optionAnswer struct {
	kind uint32
	data []byte
}

// answer is the whole reply to a command.
type answer struct {
	cookie uint64
	errno  Errno
	text   string
	data   []byte // of a READ, put together
	kinds  []uint16
	status []descriptor
}

func dialRaw(t testing.TB, socket string) *rawClient {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return greetRaw(t, conn, flagFixedNewstyle|flagNoZeroes)
}

func greetRaw(t testing.TB, conn net.Conn, flags uint32) *rawClient {
	t.Helper()
	c := &rawClient{t: t, conn: conn, r: bufio.NewReader(conn)}
	var b [greetingSize]byte
	c.read(b[:])
	g, err := parseGreeting(&b)
	require.NoError(t, err)
	require.EqualValues(t, flagFixedNewstyle|flagNoZeroes, g.flags)
	c.write(binary.BigEndian.AppendUint32(nil, flags))
	return c
}

func (c *rawClient) read(p []byte) {
	c.t.Helper()
	_, err := io.ReadFull(c.r, p)
	require.NoError(c.t, err)
}

func (c *rawClient) write(p []byte) {
	c.t.Helper()
	_, err := c.conn.Write(p)
	require.NoError(c.t, err)
}

// ended requires that the server closed the connection.
func (c *rawClient) ended() {
	c.t.Helper()
	_, err := c.r.ReadByte()
	require.Error(c.t, err)
}

// option sends one and returns every reply to it, the final one last.
func (c *rawClient) option(option uint32, data []byte) []optionAnswer {
	c.t.Helper()
	c.write(append(optionHeader{option, uint32(len(data))}.append(nil), data...))
	var all []optionAnswer
	for {
		var b [optionReplySize]byte
		c.read(b[:])
		r, err := parseOptionReply(&b)
		require.NoError(c.t, err)
		require.Equal(c.t, option, r.option)
		a := optionAnswer{r.kind, make([]byte, r.length)}
		c.read(a.data)
		all = append(all, a)
		if r.kind == repAck || r.kind&repErrBit != 0 {
			return all
		}
	}
}

// final is option for those who want only the outcome.
func (c *rawClient) final(option uint32, data []byte) uint32 {
	c.t.Helper()
	all := c.option(option, data)
	return all[len(all)-1].kind
}

// negotiate turns structured replies and base:allocation on, if wanted.
func (c *rawClient) negotiate(export string, structured bool) {
	c.t.Helper()
	if structured {
		require.Equal(c.t, repAck, c.final(optStructuredReply, nil))
		q := metaQuery{export, []string{contextAllocation}}
		require.Len(c.t, c.option(optSetMetaContext, q.append(nil)), 2)
		c.structured = true
	}
	require.Equal(c.t, repAck, c.final(optGo, infoQuery{name: export}.append(nil)))
}

func (c *rawClient) send(req request, payload []byte) uint64 {
	c.t.Helper()
	c.cookie++
	req.cookie = c.cookie
	c.write(append(req.append(nil), payload...))
	return req.cookie
}

func (c *rawClient) do(req request, payload []byte) answer {
	c.t.Helper()
	cookie := c.send(req, payload)
	a := c.receive(req)
	require.Equal(c.t, cookie, a.cookie)
	return a
}

// receive reads the next whole reply, which must not be mixed with others; req
// says what it should be about.
func (c *rawClient) receive(req request) answer {
	c.t.Helper()
	a := answer{}
	covered := uint64(0)
	for {
		var m [4]byte
		c.read(m[:])
		if binary.BigEndian.Uint32(m[:]) == magicSimpleReply {
			require.False(c.t, c.structured && req.cmd == cmdRead, "a READ must have a structured reply")
			var b [simpleReplySize - 4]byte
			c.read(b[:])
			r := parseSimpleReply(&b)
			a.cookie, a.errno = r.cookie, r.err
			if req.cmd == cmdRead && r.err == 0 {
				a.data = make([]byte, req.length)
				c.read(a.data)
			}
			return a
		}
		require.Equal(c.t, magicChunk, binary.BigEndian.Uint32(m[:]))
		require.True(c.t, c.structured)
		var b [chunkHeaderSize - 4]byte
		c.read(b[:])
		h := parseChunkHeader(&b)
		if len(a.kinds) > 0 {
			require.Equal(c.t, a.cookie, h.cookie)
		}
		require.LessOrEqual(c.t, h.length, uint32(MaxPayload+8))
		p := make([]byte, h.length)
		c.read(p)
		a.cookie = h.cookie
		a.kinds = append(a.kinds, h.kind)
		switch h.kind {
		case chunkNone:
			require.Empty(c.t, p)
		case chunkOffsetData, chunkOffsetHole:
			off := binary.BigEndian.Uint64(p)
			if a.data == nil {
				a.data = bytes.Repeat([]byte{0xa5}, int(req.length))
			}
			require.GreaterOrEqual(c.t, off, req.offset)
			if h.kind == chunkOffsetData {
				require.LessOrEqual(c.t, off-req.offset+uint64(len(p)-8), uint64(req.length))
				covered += uint64(copy(a.data[off-req.offset:], p[8:]))
			} else {
				n := binary.BigEndian.Uint32(p[8:])
				clear(a.data[off-req.offset:][:n])
				covered += uint64(n)
			}
		case chunkBlockStatus:
			require.Equal(c.t, contextAllocationID, binary.BigEndian.Uint32(p))
			for p = p[4:]; len(p) > 0; p = p[8:] {
				a.status = append(a.status, descriptor{binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:])})
			}
		case chunkError:
			a.errno = Errno(binary.BigEndian.Uint32(p))
			require.Len(c.t, p[6:], int(binary.BigEndian.Uint16(p[4:])))
			a.text = string(p[6:])
		default:
			c.t.Fatalf("chunk of kind %d", h.kind)
		}
		if h.flags&chunkFlagDone != 0 {
			if req.cmd == cmdRead && a.errno == 0 {
				require.EqualValues(c.t, req.length, covered, "the chunks cover the request exactly")
			}
			return a
		}
	}
}

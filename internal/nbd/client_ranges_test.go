package nbd

import (
	"encoding/binary"
	"io"
	"math"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ranges of more than 32 bits are cut.
func TestClientCutsLongRanges(t *testing.T) {
	const size, off, n = 1 << 42, 12345, 5<<30 + 7
	var mu sync.Mutex
	sum := map[uint16]int64{}
	c, err := Dial(t.Context(), piped(t, func(s *fakeServer) {
		s.negotiate(size, allFlags|sendCache)
		for r, _, ok := s.next(); ok; r, _, ok = s.next() {
			if r.cmd == cmdDisc {
				s.conn.Close()
				return
			}
			mu.Lock()
			sum[r.cmd] += int64(r.length)
			mu.Unlock()
			s.ok(r)
		}
	}))
	require.NoError(t, err)
	require.NoError(t, c.Trim(t.Context(), off, n))
	require.NoError(t, c.Zero(t.Context(), off, n))
	require.NoError(t, c.Prefetch(t.Context(), off, n))
	require.Equal(t, map[uint16]int64{cmdTrim: n, cmdWriteZeros: n, cmdCache: n}, sum)
	require.NoError(t, c.Close())
}

func TestClientRefusesExportsOver2To63(t *testing.T) {
	for _, size := range []uint64{1 << 63, math.MaxUint64} {
		_, err := Dial(t.Context(), piped(t, func(s *fakeServer) { s.negotiate(size, allFlags) }))
		require.ErrorContains(t, err, "an export of ")
	}
	c, err := Dial(t.Context(), piped(t, func(s *fakeServer) {
		s.negotiate(math.MaxInt64, allFlags)
		s.serveUntilDisc(3)
	}))
	require.NoError(t, err)
	p := make([]byte, 10)
	n, err := c.ReadAt(t.Context(), p, math.MaxInt64-4)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 4, n)
	require.Equal(t, []byte{3, 3, 3, 3, 0, 0, 0, 0, 0, 0}, p)
	_, err = c.WriteAt(t.Context(), p, math.MaxInt64-4)
	require.ErrorIs(t, err, ENOSPC)
	require.NoError(t, c.Zero(t.Context(), math.MaxInt64-4, 4))
	require.NoError(t, c.Close())
}

// What a server says of bytes outside the range is cut off, and what it leaves
// out is asked again.
func TestClientClipsStatus(t *testing.T) {
	mine, theirs := net.Pipe()
	defer theirs.Close()
	s := &fakeServer{t, theirs}
	answers := [][]uint32{{100, 1, 50, 2}, {150, 3, math.MaxUint32, 4, math.MaxUint32, 5}}
	go func() {
		for _, a := range answers {
			r, _, _ := s.next()
			p := binary.BigEndian.AppendUint32(nil, 9)
			for _, v := range a {
				p = binary.BigEndian.AppendUint32(p, v)
			}
			s.write(append(chunkHeader{chunkFlagDone, chunkBlockStatus, r.cookie, uint32(len(p))}.append(nil), p...))
		}
		io.Copy(io.Discard, theirs)
	}()
	c := &Client{info: Info{Size: 1000, MinBlock: 1, Contexts: []string{"x"}}, ctx: t.Context()}
	l := newLink(&negotiation{raw: mine, conn: mine, structured: true, contexts: map[string]uint32{"x": 9}}, 2, &c.book)
	defer l.close()
	c.lanes.links = []*link{l}
	var got []Status
	for s, err := range c.BlockStatus(t.Context(), 10, 985, "x") {
		require.NoError(t, err)
		got = append(got, s)
	}
	require.Equal(t, []Status{{10, 100, 1}, {110, 50, 2}, {160, 150, 3}, {310, 685, 4}}, got)
}

package offline

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// xzStream reads the blocks of an xz stream. The library's own reader of the
// container allocates as much memory as a block's header asks for, up to
// 4 GiB; here that is bounded. Sums are not looked at: what is damaged fails
// to be an archive.
type xzStream struct {
	r     *counter
	check int // bytes of a block's sum
	data  io.Reader
	begun int64
	ended bool
}

// counter counts what the decompressor takes, byte by byte or more.
type counter struct {
	*bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func newXZ(r io.Reader) (io.Reader, error) {
	s := &xzStream{r: &counter{Reader: bufio.NewReaderSize(r, 64<<10)}}
	var h [12]byte
	if _, err := io.ReadFull(s.r, h[:]); err != nil {
		return nil, cut(err)
	}
	// Sums of 0, 4, 8, 16, 32 or 64 bytes, by their number.
	s.check = []int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[h[7]&15]
	return s, nil
}

// block reads a block's header; io.EOF is the index behind the last one.
func (s *xzStream) block() error {
	s.begun = s.r.n
	size, err := s.r.ReadByte()
	if err != nil {
		return cut(err)
	}
	if size == 0 {
		s.ended = true
		return io.EOF
	}
	h := make([]byte, int(size)*4+3)
	if _, err := io.ReadFull(s.r, h); err != nil {
		return cut(err)
	}
	flags, rest := h[0], h[1:]
	number := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			rest = nil
			return 0
		}
		rest = rest[n:]
		return v
	}
	for _, bit := range []byte{0x40, 0x80} { // sizes that may be told
		if flags&bit != 0 {
			number()
		}
	}
	if id, n := number(), number(); flags&3 != 0 || id != 0x21 || n != 1 || len(rest) < 1 {
		return fmt.Errorf("%w: xz with filters besides LZMA2", dr.ErrUnsupported)
	}
	bits := rest[0] & 63
	window := int64(2|bits&1) << (bits/2 + 11)
	if bits > 40 || window > maxWindow {
		return fmt.Errorf("%w: xz with a window of %d bytes", dr.ErrUnsupported, window)
	}
	s.data, err = lzma.Reader2Config{DictCap: int(max(window, 4096))}.NewReader2(s.r)
	return err
}

func (s *xzStream) Read(p []byte) (int, error) {
	for {
		if s.ended {
			return 0, io.EOF
		}
		if s.data == nil {
			if err := s.block(); err != nil {
				return 0, err
			}
		}
		n, err := s.data.Read(p)
		if n > 0 {
			return n, nil
		}
		if err == nil {
			continue
		}
		if err != io.EOF {
			return 0, err
		}
		// Padding to four bytes, and the sum.
		skip := (4-(s.r.n-s.begun)%4)%4 + int64(s.check)
		if _, err := io.CopyN(io.Discard, s.r, skip); err != nil {
			return 0, cut(err)
		}
		s.data = nil
	}
}

package offline

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// What an initramfs may hold at most.
const (
	maxUnpacked = 2 << 30 // bytes, all archives together
	maxMembers  = 200_000
	maxWindow   = 128 << 20 // bytes that a decompressor may keep
	perZero     = 64        // what a byte between archives counts: there are few
)

// initramfs calls f for each name in an initramfs: one or more archives of
// cpio, the last of which may be compressed. The kernel's rules: zeros
// between archives are skipped, a compressed stream holds archives again.
func initramfs(r io.Reader, f func(name string)) error {
	left, members := int64(maxUnpacked), 0
	return archives(bufio.NewReaderSize(r, 64<<10), &left, &members, 0, f)
}

func archives(r *bufio.Reader, left *int64, members *int, depth int, f func(string)) error {
	for {
		head, err := r.Peek(6)
		if len(head) == 0 {
			if err == io.EOF {
				return nil
			}
			return err
		}
		switch {
		case head[0] == 0:
			if _, err := r.Discard(1); err != nil {
				return err
			}
			if *left -= perZero; *left < 0 {
				return errTooLarge
			}
		case string(head) == "070701", string(head) == "070702":
			if err := archive(r, left, members, f); err != nil {
				return err
			}
		case depth > 0:
			return fmt.Errorf("%w: no archive within the compressed one", dr.ErrCorrupt)
		default:
			d, err := decompress(r, head)
			if err != nil {
				return err
			}
			return archives(bufio.NewReaderSize(d, 64<<10), left, members, depth+1, f)
		}
	}
}

var errTooLarge = fmt.Errorf("%w: more is in it than an initramfs holds", dr.ErrUnsupported)

// archive reads one of cpio's, in its "newc" form.
func archive(r *bufio.Reader, left *int64, members *int, f func(string)) error {
	var h [110]byte
	for {
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return cut(err)
		}
		if m := string(h[:6]); m != "070701" && m != "070702" {
			return fmt.Errorf("%w: no member of an archive", dr.ErrCorrupt)
		}
		size, err1 := strconv.ParseUint(string(h[54:62]), 16, 32)
		length, err2 := strconv.ParseUint(string(h[94:102]), 16, 32)
		if err := errors.Join(err1, err2); err != nil || length == 0 || length > 4097 {
			return fmt.Errorf("%w: member with a name of %d bytes", dr.ErrCorrupt, length)
		}
		name := make([]byte, (110+length+3)&^3-110)
		if _, err := io.ReadFull(r, name); err != nil {
			return cut(err)
		}
		body := int64(size+3) &^ 3
		if *members++; *members > maxMembers || body > *left {
			return errTooLarge
		}
		*left -= body + int64(len(name)) + 110
		n, _, _ := bytes.Cut(name, []byte{0})
		if string(n) == "TRAILER!!!" {
			return nil
		}
		f(string(n))
		if _, err := io.CopyN(io.Discard, r, body); err != nil {
			return cut(err)
		}
	}
}

func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it is cut short", dr.ErrCorrupt)
	}
	return err
}

// decompress finds the decompressor for a stream by how it begins.
func decompress(r io.Reader, head []byte) (io.Reader, error) {
	is := func(magic string) bool { return strings.HasPrefix(string(head), magic) }
	switch {
	case is("\x1f\x8b"):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		z.Multistream(false) // zeros may follow
		return z, nil
	case is("\x28\xb5\x2f\xfd"):
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxUnpacked))
	case is("\xfd7zXZ\x00"):
		return newXZ(r)
	case is("\x5d\x00\x00"):
		return lzma.ReaderConfig{DictCap: maxWindow}.NewReader(r)
	case is("BZh"):
		return bzip2.NewReader(r), nil
	case is("\x02\x21\x4c\x18"), is("\x04\x22\x4d\x18"):
		return lz4.NewReader(r), nil
	case is("\x89LZO"):
		return nil, fmt.Errorf("%w: it is compressed by LZO", dr.ErrUnsupported)
	}
	return nil, fmt.Errorf("%w: neither an archive nor a compression that is known", dr.ErrUnsupported)
}

package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// An overlay's file, all numbers big-endian:
//
//	0                     data: block b, if its state is 1, at b*4096
//	H = size up to 4096   header, 4096 bytes:
//	      0  8   magic "LBOVERLY"
//	      8  4   version, 1
//	     12  4   block size, 4096
//	     16  8   size of the disk in bytes
//	     24  2   length of the identity, at most 2048
//	     26      the identity
//	   4092  4   CRC-32C of the 4092 bytes before
//	H + 4096              states: pages of 4096 bytes, two bits a block
//
// What was never written is a hole or lies beyond the file's end, and is zero.

const (
	overlayMagic      = "LBOVERLY"
	overlayVersion    = 1
	overlayHeaderSize = 4 << 10
	maxIdentity       = 2 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// overlayHeader says which base an overlay belongs to.
type overlayHeader struct {
	size     int64
	identity string
}

func headerOffset(size int64) int64 { return roundUp(size, overlayBlock) }

func (h overlayHeader) encode() []byte {
	b := make([]byte, overlayHeaderSize)
	copy(b, overlayMagic)
	binary.BigEndian.PutUint32(b[8:], overlayVersion)
	binary.BigEndian.PutUint32(b[12:], overlayBlock)
	binary.BigEndian.PutUint64(b[16:], uint64(h.size))
	binary.BigEndian.PutUint16(b[24:], uint16(len(h.identity)))
	copy(b[26:], h.identity)
	binary.BigEndian.PutUint32(b[overlayHeaderSize-4:], crc32.Checksum(b[:overlayHeaderSize-4], castagnoli))
	return b
}

func parseOverlayHeader(b []byte) (overlayHeader, error) {
	if len(b) != overlayHeaderSize || string(b[:8]) != overlayMagic {
		return overlayHeader{}, fmt.Errorf("%w: no header where the base's size puts it", ErrNotOverlay)
	}
	if got, want := crc32.Checksum(b[:overlayHeaderSize-4], castagnoli), binary.BigEndian.Uint32(b[overlayHeaderSize-4:]); got != want {
		return overlayHeader{}, fmt.Errorf("%w: the header's checksum is %08x, not %08x", ErrNotOverlay, got, want)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != overlayVersion {
		return overlayHeader{}, fmt.Errorf("%w: version %d; this program knows %d", ErrNotOverlay, v, overlayVersion)
	}
	if n := binary.BigEndian.Uint32(b[12:]); n != overlayBlock {
		return overlayHeader{}, fmt.Errorf("%w: blocks of %d bytes; this program knows %d", ErrNotOverlay, n, overlayBlock)
	}
	n := int(binary.BigEndian.Uint16(b[24:]))
	if n > maxIdentity {
		return overlayHeader{}, fmt.Errorf("%w: an identity of %d bytes", ErrNotOverlay, n)
	}
	return overlayHeader{
		size:     int64(binary.BigEndian.Uint64(b[16:])),
		identity: string(b[26:][:n]),
	}, nil
}

// openOverlayHeader checks the header of f against want, or writes it if f is
// new: empty, or, after a crash while it was made, as long as its header and
// nothing but zeros there.
func openOverlayHeader(f File, want overlayHeader) error {
	if len(want.identity) > maxIdentity {
		return fmt.Errorf("nbd: overlay: an identity of %d bytes; the limit is %d", len(want.identity), maxIdentity)
	}
	at := headerOffset(want.size)
	b := make([]byte, overlayHeaderSize+1) // and whether anything follows
	n, err := f.ReadAt(b, at)
	if err != nil && err != io.EOF {
		return fmt.Errorf("nbd: overlay: reading the header at %d: %w", at, err)
	}
	if n <= overlayHeaderSize && bytes.Equal(b[:n], zeros[:n]) {
		var first [1]byte
		k, err := f.ReadAt(first[:], 0)
		if k == 0 && err != nil && err != io.EOF {
			return fmt.Errorf("nbd: overlay: reading: %w", err)
		}
		if k == 0 || n > 0 {
			return writeOverlayHeader(f, want, at)
		}
	}
	if n < overlayHeaderSize {
		b = b[:n]
	} else {
		b = b[:overlayHeaderSize]
	}
	got, err := parseOverlayHeader(b)
	if err != nil {
		return errors.Join(err, fmt.Errorf("nbd: overlay: the base has %d bytes; give an empty file, or the overlay of this base", want.size))
	}
	if got != want {
		return fmt.Errorf("%w: it was made above %q of %d bytes, the base is %q of %d", ErrOtherBase,
			got.identity, got.size, want.identity, want.size)
	}
	return nil
}

func writeOverlayHeader(f File, h overlayHeader, at int64) error {
	if _, err := f.WriteAt(h.encode(), at); err != nil {
		return fmt.Errorf("nbd: overlay: writing the header at %d: %w", at, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("nbd: overlay: syncing the header: %w", err)
	}
	return nil
}

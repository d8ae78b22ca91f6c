package vhd

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Kind tells how an image keeps its disk. The values are those of the format.
type Kind uint32

// Kinds.
const (
	Fixed        Kind = 2 // the disk's bytes as they are
	Dynamic      Kind = 3 // blocks as they are needed
	Differencing Kind = 4 // what differs from a parent, in sectors
)

// String is the kind's name in the specification.
func (k Kind) String() string {
	switch k {
	case Fixed:
		return "fixed"
	case Dynamic:
		return "dynamic"
	case Differencing:
		return "differencing"
	}
	return fmt.Sprintf("type %d", uint32(k))
}

// sector is the unit of the format, and what a power cut leaves whole.
const sector = 512

// Offsets in the footer, whose numbers are big-endian.
const (
	offFeatures = 8
	offVersion  = 12
	offData     = 16 // of the dynamic header; all ones where there is none
	offTime     = 24
	offCreator  = 28
	offCreatorV = 32
	offHost     = 36
	offOriginal = 40
	offCurrent  = 48
	offGeometry = 56
	offType     = 60
	offChecksum = 64
	offID       = 68
	offSaved    = 84 // 1: a suspended machine relies on the disk as it is

	cookie  = "conectix"
	version = 0x00010000
	noData  = ^uint64(0)
)

// epoch is where a VHD's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// stamp is t as the format has it: whole seconds, 0 before the epoch.
func stamp(t time.Time) uint32 { return uint32(max(0, t.Sub(epoch)/time.Second)) }

func stamped(s uint32) time.Time { return epoch.Add(time.Duration(s) * time.Second) }

var be = binary.BigEndian

// footer is what every kind of image has at its end, and all but fixed ones at
// their beginning too.
type footer struct {
	Footer
	kind   Kind
	header uint64 // where the dynamic header is
	saved  bool
}

func (f footer) bytes() []byte {
	b := make([]byte, FooterSize)
	copy(b, cookie)
	be.PutUint32(b[offFeatures:], 2) // reserved, always set
	be.PutUint32(b[offVersion:], version)
	be.PutUint64(b[offData:], f.header)
	be.PutUint32(b[offTime:], stamp(f.Time))
	// Readers take the size from the geometry, which is rounded, unless they
	// know the creator for one that means the exact size: this is Hyper-V's.
	copy(b[offCreator:], "win ")
	be.PutUint32(b[offCreatorV:], 0x00070000)
	copy(b[offHost:], "Wi2k")
	be.PutUint64(b[offOriginal:], uint64(f.Size))
	be.PutUint64(b[offCurrent:], uint64(f.Size))
	cylinders, heads, sectors := geometry(f.Size / sector)
	be.PutUint16(b[offGeometry:], cylinders)
	b[offGeometry+2], b[offGeometry+3] = heads, sectors
	be.PutUint32(b[offType:], uint32(f.kind))
	copy(b[offID:], f.ID[:])
	be.PutUint32(b[offChecksum:], checksum(b, offChecksum))
	return b
}

// parseFooter reads a footer of any of the three kinds.
func parseFooter(b []byte) (footer, error) {
	switch {
	case len(b) != FooterSize:
		return footer{}, fmt.Errorf("%w: a footer of %d bytes, want %d", ErrFormat, len(b), FooterSize)
	case string(b[:8]) != cookie:
		return footer{}, fmt.Errorf("%w: no cookie %q", ErrFormat, cookie)
	case be.Uint32(b[offVersion:])>>16 != version>>16:
		return footer{}, fmt.Errorf("%w: version %#x", ErrFormat, be.Uint32(b[offVersion:]))
	case be.Uint32(b[offChecksum:]) != checksum(b, offChecksum):
		return footer{}, fmt.Errorf("%w: the checksum does not match", ErrFormat)
	}
	kind := Kind(be.Uint32(b[offType:]))
	if kind != Fixed && kind != Dynamic && kind != Differencing {
		return footer{}, fmt.Errorf("%w: type %d", ErrFormat, kind)
	}
	size := be.Uint64(b[offCurrent:])
	if size == 0 || size%sector != 0 || size > 1<<62 {
		return footer{}, fmt.Errorf("%w: a disk of %d bytes", ErrFormat, size)
	}
	f := footer{
		Footer: Footer{Size: int64(size), Time: stamped(be.Uint32(b[offTime:]))},
		kind:   kind, header: be.Uint64(b[offData:]), saved: b[offSaved] != 0,
	}
	copy(f.ID[:], b[offID:])
	return f, nil
}

// checksum is the ones' complement of the sum of all bytes but its own four.
func checksum(b []byte, own int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < own || i >= own+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// geometry is the specification's appendix "CHS Calculation".
func geometry(total int64) (cylinders uint16, heads, sectors uint8) {
	const most = 65535 * 16 * 255
	total = min(total, most)
	var h, s, ch int64
	if total >= 65535*16*63 {
		s, h = 255, 16
		ch = total / s
	} else {
		s = 17
		ch = total / s
		h = max((ch+1023)/1024, 4)
		if ch >= h*1024 || h > 16 {
			s, h = 31, 16
			ch = total / s
		}
		if ch >= h*1024 {
			s, h = 63, 16
			ch = total / s
		}
	}
	return uint16(ch / h), uint8(h), uint8(s)
}

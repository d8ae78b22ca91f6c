package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

const (
	// FooterSize is what a fixed VHD has behind the disk's bytes.
	FooterSize = 512
	// Unit is what Azure wants a disk's size to be a multiple of, in bytes.
	Unit = 1 << 20
	// MinSize is the smallest disk that Azure takes, in bytes: an upload of
	// 20,972,032 bytes with the footer.
	MinSize = 20 << 20
)

// ErrFormat says that the bytes are no footer of a fixed VHD.
var ErrFormat = errors.New("not a fixed VHD")

// Padded returns the size that a disk of n bytes has on Azure: a whole number
// of MiB, and no fewer than 20.
func Padded(n int64) int64 { return max(MinSize, (n+Unit-1)/Unit*Unit) }

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

	cookie    = "conectix"
	version   = 0x00010000
	typeFixed = 2
	noData    = ^uint64(0)
)

// epoch is where a VHD's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Footer describes a fixed VHD.
type Footer struct {
	Size int64 // of the disk, in bytes, without the footer
	ID   uuid.UUID
	Time time.Time // whole seconds
}

// Bytes returns the footer as it stands behind the disk.
func (f Footer) Bytes() []byte {
	b := make([]byte, FooterSize)
	be := binary.BigEndian
	copy(b, cookie)
	be.PutUint32(b[offFeatures:], 2) // reserved, always set
	be.PutUint32(b[offVersion:], version)
	be.PutUint64(b[offData:], noData)
	be.PutUint32(b[offTime:], uint32(max(0, f.Time.Sub(epoch)/time.Second)))
	// Readers take the size from the geometry, which is rounded, unless they
	// know the creator for one that means the exact size: this is Hyper-V's.
	copy(b[offCreator:], "win ")
	be.PutUint32(b[offCreatorV:], 0x00070000)
	copy(b[offHost:], "Wi2k")
	be.PutUint64(b[offOriginal:], uint64(f.Size))
	be.PutUint64(b[offCurrent:], uint64(f.Size))
	cylinders, heads, sectors := geometry(f.Size / 512)
	be.PutUint16(b[offGeometry:], cylinders)
	b[offGeometry+2], b[offGeometry+3] = heads, sectors
	be.PutUint32(b[offType:], typeFixed)
	copy(b[offID:], f.ID[:])
	be.PutUint32(b[offChecksum:], checksum(b))
	return b
}

// Parse reads a footer. Anything but a fixed VHD's is ErrFormat.
func Parse(b []byte) (Footer, error) {
	be := binary.BigEndian
	switch {
	case len(b) != FooterSize:
		return Footer{}, fmt.Errorf("%w: a footer of %d bytes, want %d", ErrFormat, len(b), FooterSize)
	case string(b[:8]) != cookie:
		return Footer{}, fmt.Errorf("%w: no cookie %q", ErrFormat, cookie)
	case be.Uint32(b[offVersion:])>>16 != version>>16:
		return Footer{}, fmt.Errorf("%w: version %#x", ErrFormat, be.Uint32(b[offVersion:]))
	case be.Uint32(b[offChecksum:]) != checksum(b):
		return Footer{}, fmt.Errorf("%w: the checksum does not match", ErrFormat)
	case be.Uint32(b[offType:]) != typeFixed:
		return Footer{}, fmt.Errorf("%w: type %d, want %d", ErrFormat, be.Uint32(b[offType:]), typeFixed)
	}
	size := be.Uint64(b[offCurrent:])
	if size == 0 || size%512 != 0 || size > 1<<62 {
		return Footer{}, fmt.Errorf("%w: a disk of %d bytes", ErrFormat, size)
	}
	f := Footer{Size: int64(size), Time: epoch.Add(time.Duration(be.Uint32(b[offTime:])) * time.Second)}
	copy(f.ID[:], b[offID:])
	return f, nil
}

// checksum is the ones' complement of the sum of all bytes but its own.
func checksum(b []byte) uint32 {
	var sum uint32
	for i, c := range b {
		if i < offChecksum || i >= offChecksum+4 {
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

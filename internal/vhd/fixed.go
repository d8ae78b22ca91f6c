package vhd

import (
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

// Padded returns the size that a disk of n bytes has on Azure: a whole number
// of MiB, and no fewer than 20.
func Padded(n int64) int64 { return max(MinSize, (n+Unit-1)/Unit*Unit) }

// Footer describes a fixed VHD.
type Footer struct {
	Size int64 // of the disk, in bytes, without the footer
	ID   uuid.UUID
	Time time.Time // whole seconds
}

// Bytes returns the footer as it stands behind the disk.
func (f Footer) Bytes() []byte {
	return footer{Footer: f, kind: Fixed, header: noData}.bytes()
}

// Parse reads a footer. Anything but a fixed VHD's is ErrFormat.
func Parse(b []byte) (Footer, error) {
	f, err := parseFooter(b)
	if err == nil && f.kind != Fixed {
		err = fmt.Errorf("%w: type %d, want %d", ErrFormat, f.kind, Fixed)
	}
	if err != nil {
		return Footer{}, err
	}
	return f.Footer, nil
}

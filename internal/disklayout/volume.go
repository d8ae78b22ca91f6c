package disklayout

import (
	"errors"
	"fmt"
	"io"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Disk is a disk to look at. Size is in bytes.
type Disk struct {
	ID   string
	Size int64
	io.ReaderAt
}

// Volume is a place where a file system may be.
type Volume struct {
	Disk string // the disk's ID; "" if it lies on several
	Name string // "partition 2", "whole disk", "vg/root"
	Size int64  // bytes
	// Number and Off, in bytes from the disk's beginning, are of a partition.
	Number int
	Off    int64
	// Type of a partition: a GUID of GPT, or "0x83" of MBR.
	Type string
	// PartUUID and PartLabel name a partition as fstab does.
	PartUUID, PartLabel string
	// Device is the stable path of a logical volume: "/dev/mapper/vg-root".
	Device string
	// Err is why it can't be read, as dr.ErrUnsupported; then there is no reader.
	Err error
	io.ReaderAt
}

// Volumes lists what is on the disks, partitions in the order of their
// numbers, then logical volumes. What could not be read of a disk or a volume
// group is one of the errors, and doesn't keep the others from being found.
func Volumes(disks []Disk) (list []Volume, errs []error) {
	var pvs []physical
	for _, d := range disks {
		parts, err := partitions(d)
		if err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.ID, err))
		}
		for _, p := range parts {
			pv, err := openPhysical(p)
			switch {
			case errors.Is(err, errNoLabel):
				list = append(list, p)
			case err != nil:
				errs = append(errs, fmt.Errorf("disk %s, %s: LVM: %w", d.ID, p.Name, err))
			default:
				pvs = append(pvs, pv)
			}
		}
	}
	lvs, more := logical(pvs)
	return append(list, lvs...), append(errs, more...)
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", dr.ErrCorrupt, fmt.Sprintf(format, args...))
}

func isCorrupt(err error) bool { return errors.Is(err, dr.ErrCorrupt) }

func read(r io.ReaderAt, off int64, n int) ([]byte, error) {
	p := make([]byte, n)
	if got, err := r.ReadAt(p, off); got < n {
		if err == nil || err == io.EOF {
			err = corrupt("%d bytes at %d reach beyond the end", n, off)
		}
		return nil, err
	}
	return p, nil
}

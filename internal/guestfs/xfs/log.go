package xfs

import (
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// clean reports whether the log, of size bytes at off, ends with the record
// that an unmount writes. A record begins with a magic number and its
// cycle; the newest is the last of the highest cycle. As the log is written
// round and round, cycles fall once at most: that place is found by halving.
func (f *FS) clean(off, size int64) (bool, error) {
	const sector = 512
	n := size / sector
	cycle := func(i int64) (uint32, error) {
		b, err := guestfs.ReadFull(f.r, off+i*sector, sector)
		if err != nil {
			return 0, err
		}
		if be.Uint32(b) == 0xfeedbabe {
			return be.Uint32(b[4:]), nil
		}
		return be.Uint32(b), nil // every other sector begins with the cycle
	}
	first, err := cycle(0)
	if err != nil || first == 0 {
		return false, err
	}
	lo, hi := int64(0), n // the head is behind the last sector of the first one's cycle
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		c, err := cycle(mid)
		if err != nil {
			return false, err
		}
		if c == first {
			lo = mid
		} else {
			hi = mid
		}
	}
	// A record is at most 256 KiB, and its header a sector or more; an
	// unmount's record is one header and one sector.
	for i := lo; i >= 0 && i > lo-64; i-- {
		b, err := guestfs.ReadFull(f.r, off+i*sector, sector)
		if err != nil {
			return false, err
		}
		if be.Uint32(b) != 0xfeedbabe {
			continue
		}
		if be.Uint32(b[40:]) != 1 { // operations in the record
			return false, nil
		}
		headers := int64(1)
		if be.Uint32(b[8:])&2 != 0 {
			headers = max(1, (int64(be.Uint32(b[320:]))+32767)/32768)
		}
		if i+headers >= n || headers > 8 {
			return false, nil
		}
		op, err := guestfs.ReadFull(f.r, off+(i+headers)*sector, sector)
		return err == nil && op[9]&0x20 != 0, err // XLOG_UNMOUNT_TRANS
	}
	return false, nil
}

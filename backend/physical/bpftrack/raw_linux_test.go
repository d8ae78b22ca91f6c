package bpftrack

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func pointer(p *[2]uint64) uintptr { return uintptr(unsafe.Pointer(p)) }

// addPartition tells the kernel of a partition (BLKPG_ADD_PARTITION,
// linux/blkpg.h), without a table on the disk.
func addPartition(disk *os.File, number int, start, n int64) error {
	p := struct {
		start, length int64
		pno           int32
		devname       [64]byte
		volname       [64]byte
		_             [4]byte
	}{start: start, length: n, pno: int32(number)}
	arg := struct {
		op, flags, datalen int32
		_                  int32
		data               unsafe.Pointer
	}{op: 1, datalen: int32(unsafe.Sizeof(p)), data: unsafe.Pointer(&p)}
	const blkpg = 0x1269
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), blkpg, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

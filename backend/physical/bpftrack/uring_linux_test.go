package bpftrack

import (
	"errors"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uring writes through io_uring, one request at a time (io_uring(7)).
type uring struct {
	fd       int
	sq, sqes []byte
	p        uringParams
}

type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	resv                                                 [3]uint32
	sqHead, sqTail, sqMask, sqSize, sqFlags, sqDropped   uint32
	sqArray, sqResv                                      uint32
	sqUser                                               uint64
	cqHead, cqTail, cqMask, cqSize, cqOverflow, cqes     uint32
	cqFlags, cqResv                                      uint32
	cqUser                                               uint64
}

func newUring() (*uring, error) {
	u := &uring{}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&u.p)), 0)
	if errno != 0 {
		return nil, errno
	}
	u.fd = int(fd)
	if u.p.features&1 == 0 { // IORING_FEAT_SINGLE_MMAP, Linux 5.4
		unix.Close(u.fd)
		return nil, errors.New("io_uring of before Linux 5.4")
	}
	size := max(int(u.p.sqArray+u.p.sqEntries*4), int(u.p.cqes+u.p.cqEntries*16))
	var err error
	if u.sq, err = unix.Mmap(u.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err == nil {
		u.sqes, err = unix.Mmap(u.fd, 0x10000000, 64, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	return u, err
}

func (u *uring) at(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.sq[off])) }

// writeAt waits for the write. b must not be on a stack.
func (u *uring) writeAt(f *os.File, b []byte, off int64) error {
	tail := atomic.LoadUint32(u.at(u.p.sqTail))
	sqe := (*struct {
		op, flags uint8
		prio      uint16
		fd        int32
		off, addr uint64
		n         uint32
	})(unsafe.Pointer(&u.sqes[0]))
	clear(u.sqes)
	sqe.op, sqe.fd, sqe.off = 23, int32(f.Fd()), uint64(off) // IORING_OP_WRITE
	sqe.addr, sqe.n = uint64(uintptr(unsafe.Pointer(&b[0]))), uint32(len(b))
	*u.at(u.p.sqArray + 4*(tail&*u.at(u.p.sqMask))) = 0
	atomic.StoreUint32(u.at(u.p.sqTail), tail+1)
	// A signal may end the wait early, after the submission.
	head := atomic.LoadUint32(u.at(u.p.cqHead))
	for submit := uintptr(1); head == atomic.LoadUint32(u.at(u.p.cqTail)); {
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), submit, 1, 1, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return errno
		}
		if errno == 0 {
			submit -= min(n, submit)
		}
	}
	result := int32(*u.at(u.p.cqes + 16*(head&*u.at(u.p.cqMask)) + 8))
	atomic.StoreUint32(u.at(u.p.cqHead), head+1)
	if result < 0 {
		return unix.Errno(-result)
	}
	return nil
}

func (u *uring) close() {
	if u.sqes != nil {
		_ = unix.Munmap(u.sqes)
	}
	if u.sq != nil {
		_ = unix.Munmap(u.sq)
	}
	unix.Close(u.fd)
}

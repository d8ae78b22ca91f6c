package fsys

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func (f osFile) seekData(off, size int64) (start, end int64, err error) {
	start, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = f.Seek(start, unix.SEEK_HOLE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENXIO) {
		// ENXIO from SEEK_HOLE: the file was cut in between. The whole rest is
		// always a right answer.
		return off, size, nil
	}
	return start, end, err
}

// deallocate makes [off, off+n), which lies inside the file, a hole. False: it
// can't be done and nothing was changed that zeros written there don't mend.
func (f osFile) deallocate(off, n int64) (bool, error) {
	err := f.control(func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if err == nil {
		return true, nil
	}
	if !refused(err) {
		return false, &fs.PathError{Op: "punch", Path: f.Name(), Err: err}
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.Mode()&fs.ModeDevice == 0 {
		return false, nil
	}
	// Kernels before 4.9, and devices that have no discard that zeroes.
	extent := [2]uint64{uint64(off), uint64(n)}
	err = f.control(func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&extent)))
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err == nil || refused(err) {
		return err == nil, nil
	}
	return false, &fs.PathError{Op: "punch", Path: f.Name(), Err: err}
}

// refused tells an operation that this kind of file can't do from one that
// went wrong. EINVAL is how devices refuse what is not whole sectors.
func refused(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOTTY)
}

// control calls do with a descriptor that stays open meanwhile, and again when
// a signal interrupts it.
func (f osFile) control(do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	err = conn.Control(func(fd uintptr) {
		for {
			if done = do(int(fd)); done != unix.EINTR {
				return
			}
		}
	})
	return errors.Join(err, done)
}

// dioAlign is what the file system says direct I/O on f needs, in bytes; 0 if
// it takes none, false if it doesn't say (kernels before 6.1, some file
// systems): https://man7.org/linux/man-pages/man2/statx.2.html
func dioAlign(f *os.File) (align int, known bool) {
	var st unix.Statx_t
	err := osFile{f}.control(func(fd int) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	})
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return 0, false
	}
	if st.Dio_offset_align == 0 {
		return 0, true
	}
	return int(max(st.Dio_mem_align, st.Dio_offset_align)), true
}

package qemu

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
)

// lockFile keeps others, QEMU and hosts of package physical among them, from
// a disk that this process serves: a record lock on an image file, as QEMU takes
// them, an exclusive opening of a device. Both end with the process.
func lockFile(path string) (io.Closer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeDevice != 0 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL, 0)
		if errors.Is(err, unix.EBUSY) {
			err = &physical.InUseError{Path: path, Why: "somebody has the device open exclusively, as mounts do"}
		}
		return f, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK} // all of it
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = &physical.InUseError{Path: path, Why: "another program has locked it, as QEMU does with the disks of a running machine"}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

package physical

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hardwareName is by what a device can be told from another in its place: what
// sysfs says of it; "" where it says nothing. A partition has its disk's name
// and its number.
func hardwareName(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	part := ""
	if b, err := os.ReadFile(filepath.Join(dir, "partition")); err == nil {
		part = partitionName + strings.TrimSpace(string(b))
		dir = filepath.Dir(dir)
	}
	for _, name := range []string{"wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if s := strings.Join(strings.Fields(string(b)), " "); err == nil && s != "" {
			return s + part, nil
		}
	}
	return "", nil
}

// logicalSector is a device's logical sector size in bytes.
func logicalSector(path string) (int64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	n, err := unix.IoctlGetInt(fd, unix.BLKSSZGET)
	if err != nil {
		return 0, &os.PathError{Op: "ask for the sector size of", Path: path, Err: err}
	}
	return int64(n), nil
}

// deallocate has a device make a range read as zeros by itself; done is false
// where it can't (blkdev_fallocate in the kernel's block/fops.c never writes
// zeros in its stead).
func deallocate(path string, off, n int64) (done bool, err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return false, nil
	}
	return false, &os.PathError{Op: "clear", Path: path, Err: err}
}

// rereadTable has the kernel read a disk's partition table. Devices that have
// none, as partitions and loop devices without such a wish, are no error.
func rereadTable(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	err = unix.IoctlSetInt(fd, unix.BLKRRPART, 0)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return nil
	}
	return &os.PathError{Op: "reread the partition table of", Path: path, Err: err}
}

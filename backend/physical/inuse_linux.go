package physical

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func busy(err error) bool { return errors.Is(err, unix.EBUSY) }

// deviceInUse refuses what the kernel uses: a device, or one of its
// partitions or the disk that it is a partition of, that is mounted, swapped
// to, or below another device; a file that is swapped to, or locked; and both
// where a loop device stands on them, which has a cache of its own. Mounts of other
// namespaces aren't seen here; exclusive opening finds those of devices.
func deviceInUse(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	var family map[uint64]bool
	var holder string
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		var err error
		if family, holder, err = relatives(st.Rdev); err != nil {
			return inUse(path, "", err)
		}
	}
	if loop, err := loopOver(&st, family); err != nil || loop != "" {
		return inUse(path, "attached to "+loop, err)
	}
	if holder != "" {
		return inUse(path, "it is below "+holder, nil)
	}
	if swap, err := swapOn(&st, family); err != nil || swap {
		return inUse(path, "swap", err)
	}
	if family == nil {
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil
		}
		if locked, err := lockedFile(path); err != nil || locked {
			return inUse(path, "another program has locked it, as QEMU does with the disks of a running machine", err)
		}
		return nil
	}
	if where, err := mountOf(family); err != nil || where != "" {
		return inUse(path, "mounted on "+where, err)
	}
	return nil
}

func inUse(path, why string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: can't tell whether it is in use: %w", path, err)
	}
	return &InUseError{Path: path, Why: why}
}

// lockedFile asks whether anybody holds a record lock on a part of the file.
// Whoever doesn't lock isn't seen, nor across file systems that don't tell.
func lockedFile(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK} // all of it
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil // before Linux 3.15, or a file system without locks
	}
	return lock.Type != unix.F_UNLCK && err == nil, err
}

// loopOver names a loop device that stands on the file, or on the device or one
// of its family.
func loopOver(st *unix.Stat_t, family map[uint64]bool) (string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		name := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))
		if backs(name, file, st) {
			return name, nil
		}
		for dev := range family {
			if backs(name, file, &unix.Stat_t{Mode: unix.S_IFBLK, Rdev: dev}) {
				return name, nil
			}
		}
	}
	return "", nil
}

// backs asks the device itself, by inode, because the name that sysfs tells
// may be of another mount namespace; and by that name, because file systems
// such as btrfs have other device numbers for files than for themselves.
func backs(loop, file string, st *unix.Stat_t) bool {
	if fd, err := unix.Open(loop, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		info, err := unix.IoctlLoopGetStatus64(fd)
		unix.Close(fd)
		if err == nil && (info.Inode == st.Ino && info.Device == st.Dev ||
			st.Mode&unix.S_IFMT == unix.S_IFBLK && info.Rdevice == st.Rdev) {
			return true
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return false // detached meanwhile
	}
	var other unix.Stat_t
	if unix.Stat(strings.TrimSuffix(string(b), "\n"), &other) != nil {
		return false
	}
	return sameFile(st, &other)
}

func sameFile(a, b *unix.Stat_t) bool {
	if a.Mode&unix.S_IFMT == unix.S_IFBLK && b.Mode&unix.S_IFMT == unix.S_IFBLK {
		return a.Rdev == b.Rdev
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}

// relatives are the devices that share bytes with dev: itself, its partitions,
// and the disk that it is a partition of. holder is a device that is built on
// one of them.
func relatives(dev uint64) (family map[uint64]bool, holder string, err error) {
	family = map[uint64]bool{dev: true}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev)))
	if errors.Is(err, os.ErrNotExist) {
		return family, "", nil // no sysfs, or a device without one
	}
	if err != nil {
		return nil, "", err
	}
	dirs := []string{dir}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dirs = append(dirs, filepath.Dir(dir))
	} else {
		parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
		if err != nil {
			return nil, "", err
		}
		for _, p := range parts {
			dirs = append(dirs, filepath.Dir(p))
		}
	}
	for _, d := range dirs {
		number, err := os.ReadFile(filepath.Join(d, "dev"))
		if err != nil {
			return nil, "", err
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(string(number), "%d:%d", &major, &minor); err != nil {
			return nil, "", fmt.Errorf("%s/dev: %w", d, err)
		}
		family[unix.Mkdev(major, minor)] = true
		holders, err := os.ReadDir(filepath.Join(d, "holders"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, "", err
		}
		if len(holders) > 0 {
			return family, "/dev/" + holders[0].Name(), nil
		}
	}
	return family, "", nil
}

// unescape undoes the kernel's octal escapes of file names.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountOf finds where one of the devices is mounted
// (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
func mountOf(family map[uint64]bool) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 {
			continue
		}
		where := unescape.Replace(fields[4])
		var major, minor uint32
		if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err == nil && family[unix.Mkdev(major, minor)] {
			return where, nil
		}
		// btrfs mounts have a number of their own; their source is a device.
		for i, field := range fields {
			if field != "-" || i+2 >= len(fields) {
				continue
			}
			var st unix.Stat_t
			source := unescape.Replace(fields[i+2])
			if strings.HasPrefix(source, "/") && unix.Stat(source, &st) == nil &&
				st.Mode&unix.S_IFMT == unix.S_IFBLK && family[st.Rdev] {
				return where, nil
			}
			break
		}
	}
	return "", lines.Err()
}

// swapOn tells whether the file, or one of the devices, is swapped to.
func swapOn(st *unix.Stat_t, family map[uint64]bool) (bool, error) {
	b, err := os.ReadFile("/proc/swaps")
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // a kernel without swap
	}
	if err != nil {
		return false, err
	}
	for i, line := range strings.Split(string(b), "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) == 0 {
			continue
		}
		var swap unix.Stat_t
		if unix.Stat(unescape.Replace(fields[0]), &swap) != nil {
			continue
		}
		if sameFile(st, &swap) || swap.Mode&unix.S_IFMT == unix.S_IFBLK && family[swap.Rdev] {
			return true, nil
		}
	}
	return false, nil
}

package physical

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopMajor is the device number of loop devices.
const loopMajor = 7

// sameDisk reports whether two paths share bytes: one file or device under two
// names, a device and its partition, a loop device and the file below it.
func sameDisk(a, b string) (bool, error) {
	var x, y unix.Stat_t
	for path, st := range map[string]*unix.Stat_t{a: &x, b: &y} {
		if err := unix.Stat(path, st); err != nil {
			return false, &os.PathError{Op: "stat", Path: path, Err: err}
		}
	}
	if sameFile(&x, &y) || onLoop(&x, &y) || onLoop(&y, &x) {
		return true, nil
	}
	if x.Mode&unix.S_IFMT != unix.S_IFBLK || y.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false, nil
	}
	family, _, err := relatives(x.Rdev)
	return family[y.Rdev], err
}

// onLoop tells whether a is a loop device that stands on b.
func onLoop(a, b *unix.Stat_t) bool {
	if a.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(a.Rdev) != loopMajor {
		return false
	}
	name := fmt.Sprintf("loop%d", unix.Minor(a.Rdev))
	return backs("/dev/"+name, "/sys/block/"+name+"/loop/backing_file", b)
}

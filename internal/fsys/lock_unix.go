//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package fsys

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile uses flock and not fcntl's locks, which belong to a process: any
// close of the file in it would drop them.
func lockFile(f *os.File, exclusive bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return ErrLocked
		default:
			return err
		}
	}
}

func unlockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }

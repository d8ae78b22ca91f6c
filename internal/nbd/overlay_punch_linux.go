package nbd

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// From linux/falloc.h; a file's length stays as it is.
const fallocPunchHole = 0x02 | 0x01

// punch gives space back. Where the file system can't, the space stays taken:
// the states, not the bytes, make zeroed blocks read as zeros.
func punch(f File, off, n int64) error {
	if p, ok := f.(puncher); ok {
		return p.PunchHole(off, n)
	}
	o, ok := f.(*os.File)
	if !ok {
		return nil
	}
	raw, err := o.SyscallConn()
	if err != nil {
		return fmt.Errorf("nbd: overlay: %w", err)
	}
	var perr error
	if err := raw.Control(func(fd uintptr) {
		perr = syscall.Fallocate(int(fd), fallocPunchHole, off, n)
	}); err != nil {
		return fmt.Errorf("nbd: overlay: %w", err)
	}
	if errors.Is(perr, syscall.EIO) {
		return fmt.Errorf("nbd: overlay: punching %d bytes at %d: %w", n, off, perr)
	}
	return nil
}

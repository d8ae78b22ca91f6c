//go:build unix

package fsys

import (
	"errors"
	"os"
	"syscall"
)

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		// A file system that doesn't sync folders (some network and FUSE ones)
		// has nothing better to offer.
		return nil
	}
	return err
}

//go:build !windows

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// asOwner refuses root what would lie in another user's folder: that user's service
// couldn't read it, and an authority that can't read one of its files tells nobody any
// more who is revoked.
func asOwner(dir string) error { return ownedBy(dir, os.Geteuid()) }

func ownedBy(dir string, user int) error {
	if user != 0 {
		return nil // the system refuses by itself
	}
	for {
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return err
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 {
			return fmt.Errorf("%s belongs to user %d, who couldn't read what root leaves there: run this as that user, with setpriv --reuid %d --regid %d --clear-groups", dir, s.Uid, s.Uid, s.Gid)
		}
		return nil
	}
}

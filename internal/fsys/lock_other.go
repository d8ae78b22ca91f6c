//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package fsys

import (
	"errors"
	"os"
)

func lockFile(f *os.File, exclusive bool) error { return errors.ErrUnsupported }

func unlockFile(*os.File) error { return nil }

package physical

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// share has dst share the first n bytes of a file, or all if n is 0.
func share(dst *os.File, path string, n int64) error {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	err = unix.IoctlFileCloneRange(int(dst.Fd()), &unix.FileCloneRange{Src_fd: int64(src.Fd()), Src_length: uint64(n)})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %s: its file system doesn't share blocks between files (%w)", dr.ErrUnsupported, path, err)
	}
	if err != nil {
		return &os.PathError{Op: "clone", Path: path, Err: err}
	}
	return nil
}

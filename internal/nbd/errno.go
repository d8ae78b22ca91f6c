package nbd

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"syscall"
)

// Errno is an error number of the NBD protocol. It is what a client receives,
// and a Device may return one (wrapped or bare) to choose it; the numbers are
// the protocol's, the same on every platform.
type Errno uint32

// The error numbers that the protocol allows.
const (
	EPERM     Errno = 1   // a write to a read-only export
	EIO       Errno = 5   // the device failed
	ENOMEM    Errno = 12  // no memory
	EINVAL    Errno = 22  // the request is wrong
	ENOSPC    Errno = 28  // no room, or a write beyond the end
	EOVERFLOW Errno = 75  // the request is too long
	ENOTSUP   Errno = 95  // zeroing would not be fast
	ESHUTDOWN Errno = 108 // the server is going away
)

// Error says what the number means.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted"
	case EIO:
		return "input/output error"
	case ENOMEM:
		return "cannot allocate memory"
	case EINVAL:
		return "invalid argument"
	case ENOSPC:
		return "no space left on device"
	case EOVERFLOW:
		return "value too large"
	case ENOTSUP:
		return "operation not supported"
	case ESHUTDOWN:
		return "server is shutting down"
	}
	return "nbd error " + strconv.FormatUint(uint64(e), 10)
}

// Is reports that EPERM is fs.ErrPermission and ENOTSUP is
// errors.ErrUnsupported, so that callers need not know of NBD.
func (e Errno) Is(target error) bool {
	switch e {
	case EPERM:
		return target == fs.ErrPermission
	case ENOTSUP:
		return target == errors.ErrUnsupported
	}
	return false
}

// errnoOf chooses the number for a device's error. The protocol asks for EDQUOT
// and EFBIG to become ENOSPC; what nothing else fits is EIO.
func errnoOf(err error) Errno {
	var e Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e) && e != 0:
		return e
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ESHUTDOWN
	case errors.Is(err, fs.ErrPermission):
		return EPERM
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return ENOSPC
	}
	return EIO
}

package vhdx

import (
	"errors"
	"fmt"
)

// What may be wrong with an image; errors of this package wrap them.
var (
	// ErrFormat says that a file is no VHDX: it lacks the signature or has no
	// valid header.
	ErrFormat = errors.New("not a VHDX")
	// ErrUnsupported names something that a VHDX may have and that this package
	// would have to understand.
	ErrUnsupported = errors.New("unsupported VHDX")
	// ErrCorrupt says where a VHDX contradicts the format or itself.
	ErrCorrupt = errors.New("corrupt VHDX")
	// ErrParentChanged says that a differencing disk's parent isn't the one that
	// it was made from, or was written since.
	ErrParentChanged = errors.New("the parent of a differencing VHDX is another one or was changed")
	// ErrNoParent says that what was asked for lies in a parent that wasn't
	// given to Open.
	ErrNoParent = errors.New("the parent of a differencing VHDX is not open")
	// ErrReadOnly refuses changes to a disk that was opened for reading.
	ErrReadOnly = errors.New("VHDX is open for reading only")
)

// corrupt tells where in the file.
func corrupt(off int64, format string, args ...any) error {
	return fmt.Errorf("vhdx: byte %d: %s: %w", off, fmt.Sprintf(format, args...), ErrCorrupt)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("vhdx: %s: %w", fmt.Sprintf(format, args...), ErrUnsupported)
}

func formatError(format string, args ...any) error {
	return fmt.Errorf("vhdx: %s: %w", fmt.Sprintf(format, args...), ErrFormat)
}

package vhd

import (
	"errors"
	"fmt"
)

// What may be wrong with an image; errors of this package wrap them.
var (
	// ErrFormat says that a file is no VHD: it has no valid footer at either
	// end. [Parse] says it of what is no fixed VHD's footer.
	ErrFormat = errors.New("not a VHD")
	// ErrUnsupported names something that a VHD may have or be asked for and
	// that this package doesn't do.
	ErrUnsupported = errors.New("unsupported VHD")
	// ErrCorrupt says where a VHD contradicts the format or itself.
	ErrCorrupt = errors.New("corrupt VHD")
	// ErrParentChanged says that a differencing disk's parent isn't the one that
	// it was made from, or was written since.
	ErrParentChanged = errors.New("the parent of a differencing VHD is another one or was changed")
	// ErrNoParent says that a differencing disk's parent wasn't given to Open.
	ErrNoParent = errors.New("the parent of a differencing VHD is not open")
	// ErrReadOnly refuses changes to a disk that was opened for reading, or that
	// became the parent of another.
	ErrReadOnly = errors.New("VHD is open for reading only")
)

// corrupt tells where in the file.
func corrupt(off int64, format string, args ...any) error {
	return fmt.Errorf("vhd: byte %d: %s: %w", off, fmt.Sprintf(format, args...), ErrCorrupt)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("vhd: %s: %w", fmt.Sprintf(format, args...), ErrUnsupported)
}

package guestfs

import (
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Volume is one file system. Implementations are safe for concurrent use.
type Volume interface {
	// Root is the node of the root folder.
	Root() (Node, error)
	// Node is what a folder's entry names.
	Node(id uint64) (Node, error)
	// FoldsCase says that names are compared without regard to case.
	FoldsCase() bool
}

// Node is a file, a folder, a symbolic link or something else.
type Node interface {
	// Info describes the node; it reads nothing.
	Info() Info
	// ReadAt reads a file's bytes as io.ReaderAt does. Holes read as zeros.
	ReadAt(p []byte, off int64) (int, error)
	// Entries yields what is in a folder, without "." and "..". An error
	// ends the sequence.
	Entries() iter.Seq2[Entry, error]
	// Link is where a symbolic link points to.
	Link() (string, error)
}

// Info describes a node. Size is in bytes.
type Info struct {
	Mode    fs.FileMode
	Size    int64
	ModTime time.Time
}

// Entry is a name in a folder. Type holds the type bits of the node's mode,
// or fs.ModeIrregular if only the node tells.
type Entry struct {
	Name string
	ID   uint64
	Type fs.FileMode
}

// MaxEntries is how many names a folder may have: more is taken for corrupt.
const MaxEntries = 1 << 20

// Corrupt is an error that says what about a file system can't be.
func Corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", dr.ErrCorrupt, fmt.Sprintf(format, args...))
}

// Unsupported is an error that says what a reader can't read.
func Unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", dr.ErrUnsupported, fmt.Sprintf(format, args...))
}

// ReadFull reads n bytes at off, all or an error. n is a number that the
// caller has bounded.
func ReadFull(r io.ReaderAt, off int64, n int) ([]byte, error) {
	p := make([]byte, n)
	if got, err := r.ReadAt(p, off); got < n {
		if err == nil || err == io.EOF {
			err = Corrupt("%d bytes at %d reach beyond the end", n, off)
		}
		return nil, err
	}
	return p, nil
}

// UnixMode is a Unix file mode as Go tells it.
func UnixMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for _, b := range []struct {
		bit uint32
		is  fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if m&b.bit != 0 {
			mode |= b.is
		}
	}
	switch m & 0o170000 {
	case 0o040000:
		mode |= fs.ModeDir
	case 0o120000:
		mode |= fs.ModeSymlink
	case 0o020000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		mode |= fs.ModeDevice
	case 0o010000:
		mode |= fs.ModeNamedPipe
	case 0o140000:
		mode |= fs.ModeSocket
	case 0o100000:
	default:
		mode |= fs.ModeIrregular
	}
	return mode
}

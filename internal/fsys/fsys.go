package fsys

import (
	"errors"
	"io"
	"io/fs"
	"math"
)

// Direct is a flag for [FS.OpenFile], beside those of package os, that asks for
// I/O past the page cache. It is a wish: where the file system, the device or
// the platform refuses, the file silently works through the cache.
//
// Only requests in whole aligned blocks can go direct: the offset, the length
// and the buffer's address must all be multiples of [Alignment] (allocate with
// [Aligned] or a [Pool]). Requests that are not keep their meaning; their
// unaligned parts go through the page cache. Both ways see each other's
// writes, and Sync covers both.
//
// Several requests in flight are what makes direct I/O fast: there is no read
// ahead and no write behind.
const Direct = 1 << 30

// ErrLocked is what [FS.Lock] fails with when somebody else, in this process or
// another, holds a lock that excludes the wanted one.
var ErrLocked = errors.New("lock is held by another")

// FS is a file system. Names are paths in the operating system's form. All
// methods are safe for concurrent use. Errors carry operation and path
// (*fs.PathError, *os.LinkError) and answer errors.Is for fs.ErrNotExist,
// fs.ErrExist and the system's error numbers.
type FS interface {
	// OpenFile opens a file as os.OpenFile does, with the flags of package os
	// and [Direct]. os.O_APPEND is of no use, as files are written by offset.
	// A file that it creates needs SyncDir of its folder for its name to
	// survive a power cut.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)

	// Rename moves oldname to newname, replacing a file that is there. At any
	// moment, also after a power cut, newname is the old file or the new one,
	// whole in name but only as whole in content as it was synced before.
	// Durable after SyncDir of both folders. On Windows it fails while newname
	// is open.
	Rename(oldname, newname string) error

	// Link gives the file oldname a second name. It fails with fs.ErrExist if
	// newname exists, and of several racing callers exactly one succeeds:
	// put-if-absent for a file whose content was synced under a temporary name.
	// Durable after SyncDir of newname's folder. File systems without hard
	// links (FAT, some network shares) refuse it.
	Link(oldname, newname string) error

	// Remove removes a file or an empty folder. Files that are open stay
	// readable through their handles, except on Windows, where it fails.
	// Durable after SyncDir of the folder; until then a removed name may come
	// back.
	Remove(name string) error

	// MkdirAll makes a folder and the parents it lacks; it succeeds if the
	// folder exists. Each new folder is durable after SyncDir of its parent.
	MkdirAll(name string, perm fs.FileMode) error

	// ReadDir lists a folder, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)

	// Stat describes a file, following symbolic links.
	Stat(name string) (fs.FileInfo, error)

	// SyncDir makes the names that were created, renamed or removed in the
	// folder durable, but not the content of the files nor the folder's own
	// name in its parent. It does nothing where the platform offers nothing.
	SyncDir(name string) error

	// Lock takes an advisory lock on the file name, which it creates if need
	// be, shared or exclusive, without waiting: if that can't be had at once it
	// fails with [ErrLocked]. Two locks exclude each other also inside one
	// process. Close releases the lock, as does the end of the process or a
	// power cut, and leaves the file: a lock file must never be removed, or two
	// owners may lock two files of one name. Closing again is an error that
	// releases nothing.
	Lock(name string, exclusive bool) (io.Closer, error)
}

// File is an open file or block device. All methods are safe for concurrent
// use; concurrent requests to overlapping ranges have no defined order.
// Offsets and sizes are in bytes.
type File interface {
	// ReadAt and WriteAt are as their interfaces say. What was written is read
	// at once by every handle, and is durable after Sync. A WriteAt that fails
	// may have written any part.
	io.ReaderAt
	io.WriterAt

	// Close releases the handle. It makes nothing durable. The second call
	// fails with fs.ErrClosed.
	io.Closer

	// Sync makes everything written so far, through any handle, and the size
	// durable. After it failed the file's content is unknown: see the package
	// comment.
	Sync() error

	// Truncate sets the size. What it adds reads as zeros and takes no room
	// where the file system knows holes.
	Truncate(size int64) error

	// Size is the file's size now, or the device's.
	Size() (int64, error)

	// Data finds the first range [start, end) at or after off that may hold
	// anything but zeros; what lies between off and start reads as zeros.
	// io.EOF means that there is none up to the end of the file. Where holes
	// can't be told from data it answers the whole rest.
	Data(off int64) (start, end int64, err error)

	// Punch makes [off, off+n) read as zeros, giving the room back where the
	// file system can. It never changes the size: what lies past the end is
	// ignored. Durable after Sync.
	Punch(off, n int64) error
}

// rangeEnd is off+n, cut at size, refusing what no file can hold.
func rangeEnd(off, n, size int64) (int64, error) {
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return 0, fs.ErrInvalid
	}
	return min(off+n, size), nil
}

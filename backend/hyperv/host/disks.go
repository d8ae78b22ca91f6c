package host

import (
	"context"
	"iter"
)

// Disks are the virtual disks of a host, and the files around them: what
// virtdisk.dll and the file system do. It works on the host itself only. Paths
// are the host's: `C:\VMs\web\disk.vhdx`, `C:\ClusterStorage\Volume1\...`. All
// methods are safe for concurrent use. Errors are *[Error] with the Win32 code.
type Disks interface {
	// Create makes an empty disk. [ErrExists] if there is a file already: it
	// is left alone.
	Create(ctx context.Context, path string, spec DiskSpec) error
	// Stat describes a disk without opening it for reading or writing: it
	// works while a machine runs on it.
	Stat(ctx context.Context, path string) (DiskInfo, error)
	// Open opens the disk with the chain below it. With write nobody else may
	// have it open, and nobody gets it until Close; a machine that runs on it,
	// or one that wants to start, is [ErrInUse].
	Open(ctx context.Context, path string, write bool) (Disk, error)
	// Grow enlarges a disk that nobody has open. The new part reads as zeros.
	Grow(ctx context.Context, path string, size int64) error

	// Exists tells whether there is a file or folder.
	Exists(ctx context.Context, path string) (bool, error)
	// Rename gives a file another name in its folder, durably. [ErrExists] if
	// that is taken, [ErrInUse] while somebody has it open.
	Rename(ctx context.Context, from, to string) error
	// Remove deletes a file, or a folder that is empty. One that is gone is no
	// error; a folder that isn't empty is [ErrNotEmpty].
	Remove(ctx context.Context, path string) error
	// MakeFolder makes a folder and those above it that are missing.
	MakeFolder(ctx context.Context, path string) error
	// Free returns how many bytes the volume that path lies on has left.
	Free(ctx context.Context, path string) (int64, error)
}

// DiskSpec is what Create makes: a dynamic VHDX.
type DiskSpec struct {
	Size          int64  // bytes, a multiple of LogicalSector
	LogicalSector uint32 // 512 or 4096; 0: 512
}

// DiskInfo describes a disk's file.
type DiskInfo struct {
	Size          int64  // of the virtual disk, in bytes
	Allocated     int64  // of the file, in bytes
	ID            string // VirtualDiskId, a GUID in lower case without braces; the same along a chain
	LogicalSector uint32
	Parent        string // path of the disk below in the chain, "" if there is none
	VHD           bool   // the old format, which has no change tracking
	Fixed         bool
	// Tracking says that changes are tracked, and Latest is the identifier of
	// the moment that the tracking has come to.
	Tracking bool
	Latest   string
}

// Disk is an open virtual disk. All methods but Close are safe for concurrent
// use; offsets are of the virtual disk and need no alignment.
type Disk interface {
	Size() int64
	// ReadAt is io.ReaderAt's, of the whole chain.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt is io.WriterAt's. Writing past the end is an error and writes
	// nothing.
	WriteAt(p []byte, off int64) (int, error)
	// Flush makes what was written durable.
	Flush() error
	// Changes yields ranges, ascending and within the disk, that cover all
	// that was written to the disk since the moment that since identifies
	// (QueryChangesVirtualDisk). [ErrTrackingLost] if it can't be told.
	Changes(ctx context.Context, since string) iter.Seq2[Range, error]
	// Allocated yields the ranges, ascending, outside of which the disk reads
	// as zeros (QueryAllocatedRanges of the chain). [ErrUnsupported] where
	// that can't be told: then everything may hold data.
	Allocated(ctx context.Context) iter.Seq2[Range, error]
	Close() error
}

// Range is [Off, Off+Len) of a virtual disk, in bytes.
type Range struct{ Off, Len int64 }

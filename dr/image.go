package dr

import (
	"context"
)

// Extent is the byte range [Off, Off+Len) of a disk. Zero says that all of it
// reads as zeros; without Zero the bytes may be anything.
type Extent struct {
	Off, Len int64
	Zero     bool
}

// End returns the offset behind the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// Image is a frozen, readable moment of a machine's disks.
// All methods are safe for concurrent use.
//
// Abilities that images may have: [ChangeTracker], [Settler], [Summer], [Mapper].
type Image interface {
	// Point describes the image. It does not change, unless the image is a
	// [Settler]: then Time, Consistency and Cursors are final after the
	// last pass.
	Point() Point

	// ReadAt fills p from the disk, as io.ReaderAt does: fewer bytes than
	// len(p) always come with an error, io.EOF at the end of the disk.
	// It must not keep p. Offsets and lengths need no alignment.
	ReadAt(ctx context.Context, disk DiskID, p []byte, off int64) (int, error)

	// Close frees what this process holds open. What the platform froze
	// stays until backend.Source.Release: so a copy can go on after a crash.
	// A second Close is a no-op.
	Close() error
}

// Draft is a set of disks being written. It starts as the content of the
// parent point (for a new point) or as the replica's content (for a replica),
// and becomes visible whole on Commit. Until then nothing of it can be
// selected, opened or started.
//
// WriteAt and abilities are safe for concurrent use on ranges that don't
// overlap. Commit and Close must not run together with any other method.
//
// Abilities that drafts may have: [Zeroer], [Summer], [Resumer], [Adopter], [Packer].
type Draft interface {
	// WriteAt writes all of p, or returns an error. It must not keep p.
	// Offsets and lengths need no alignment; writing past the end of the
	// disk is ErrOutOfRange and writes nothing.
	WriteAt(ctx context.Context, disk DiskID, p []byte, off int64) (int, error)

	// Commit makes everything written durable, then visible as one step.
	// p is the copied image's point as it stands after the last pass; the
	// draft keeps the ID, machine, parent and group mark that it was created
	// with, and takes p's time, consistency, cursors and changes. Committing a point
	// that is already committed is a no-op. A failed Commit may be repeated;
	// unless it succeeds nothing is visible, but whether it was durable a
	// crash decides: so a draft may refuse to be written after it.
	Commit(ctx context.Context, p Point) error

	// Close ends the draft. Without a Commit nothing becomes visible: a new
	// point stays absent (what was written may be kept to resume), a replica
	// stays torn. After a Commit, or a second time, Close does nothing.
	Close() error
}

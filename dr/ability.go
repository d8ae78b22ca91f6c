package dr

import (
	"context"
	"encoding/hex"
	"iter"
)

// As finds the ability T in v, or in what v wraps: wrappers show what they
// wrap by a method Unwrap() any.
func As[T any](v any) (T, bool) {
	for v != nil {
		if t, ok := v.(T); ok {
			return t, true
		}
		u, ok := v.(interface{ Unwrap() any })
		if !ok {
			break
		}
		v = u.Unwrap()
	}
	var zero T
	return zero, false
}

// ChangeTracker is an ability of images: it tells what differs from an older
// point without reading both.
type ChangeTracker interface {
	// Changes yields extents that together cover every byte of the disk that
	// may differ from the point since. It may say too much, never too
	// little. Extents come in ascending order and don't overlap; Zero
	// extents read as zeros in the image. They stay within the disk's size:
	// a disk that grew yields its new part as changed.
	//
	// since is a point captured from this machine, or one whose content a
	// Draft committed to this machine's disks. A tracker that cannot answer
	// for sure yields ErrChangesLost as its first and only element: the
	// caller then compares whole disks. An error ends the sequence.
	Changes(ctx context.Context, disk DiskID, since Point) iter.Seq2[Extent, error]
}

// Mapper is an ability of images: it tells where data is.
type Mapper interface {
	// Extents yields the whole disk in ascending order without gaps; Zero
	// extents read as zeros.
	Extents(ctx context.Context, disk DiskID) iter.Seq2[Extent, error]
}

// Settler is an ability of images of live disks, which are read pass by pass
// until little is left, and frozen only for the last pass.
type Settler interface {
	// Settle ends the pass that was just copied. If it returns true there is
	// another pass: Changes, whichever point it is asked for (or the whole
	// disk, where changes are lost), yields what was written meanwhile, and it
	// must be copied over the earlier pass. If it returns false the pass just
	// copied was the frozen one: the machine runs on, Point is final and the
	// copy is complete; what is read from then on is refused or unchanged.
	// Close thaws a machine that is still frozen.
	Settle(ctx context.Context) (more bool, err error)
}

// Lingerer is an ability of Settlers: another pass before the frozen one, so
// that little is left when several machines are frozen together.
type Lingerer interface {
	// Linger ends the pass that was just copied, as Settle does, but begins
	// another one of the live disk whatever is left. It returns how many
	// bytes were written meanwhile, which that pass will copy; negative if
	// that isn't known. With dr.ErrUnsupported another pass would bring
	// nothing, and none was begun.
	Linger(ctx context.Context) (left int64, err error)
}

// SumBlock is the granularity of block sums, in bytes. A disk's last block
// may be shorter.
const SumBlock = 64 << 10

// Sum is the first 128 bits of the BLAKE3 hash of a block's bytes. The zero
// Sum stands for a block that reads as zeros, whatever its length.
type Sum [16]byte

// IsZero reports whether the block reads as zeros.
func (s Sum) IsZero() bool { return s == Sum{} }

// String returns the sum in hexadecimal.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Summer is an ability of images and drafts: block sums, so that equal blocks
// need not travel.
type Summer interface {
	// Sums fills sums with those of the consecutive blocks from off, a
	// multiple of SumBlock, on. It sums the draft's present content. The
	// range must not reach beyond the disk's last block.
	Sums(ctx context.Context, disk DiskID, off int64, sums []Sum) error
}

// Zeroer is an ability of drafts: zeros cost no bytes.
type Zeroer interface {
	// Zero makes [off, off+n) read as zeros, as WriteAt with zeros would.
	Zero(ctx context.Context, disk DiskID, off, n int64) error
}

// Resumer is an ability of drafts: what an interrupted copy of the same point
// has already made durable need not be copied again.
type Resumer interface {
	// Durable yields extents, ascending, that hold the content of the
	// draft's own point. A draft made afresh yields nothing.
	Durable(ctx context.Context, disk DiskID) iter.Seq2[Extent, error]
}

// Adopter is an ability of drafts: to take an image on the platform's side
// without moving a byte through this process.
type Adopter interface {
	// Adopt makes the draft's content that of the image, or returns false
	// without having changed anything: then the caller copies.
	Adopt(ctx context.Context, img Image) (bool, error)
}

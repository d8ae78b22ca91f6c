package dr

import "context"

// ChangeStats tells what kind of bytes a point's copy wrote over its parent.
// From a row of them a detector tells mass encryption from work
// (recoverypoint/suspicion). It costs no I/O: the copy samples the bytes that
// it has in hand, and asks a [Packer] how well the block packed before and
// after. The zero value means that nothing is known.
//
// A block is [SumBlock] bytes, or the piece of one that was written. A block
// that passes of a live disk write twice counts twice.
type ChangeStats struct {
	// Complete says that the copy saw all that changed, and not much else.
	// It is false where the platform took the image by itself, where an
	// interrupted copy was gone on with, and where whole disks were written
	// because nobody knew what had changed and nobody could tell what was
	// there. Such a point is never to be called clean.
	Complete bool `json:"complete,omitempty"`

	Written int64 `json:"written,omitempty"` // bytes that travelled
	Equal   int64 `json:"equal,omitempty"`   // bytes found equal by their sums
	Zeroed  int64 `json:"zeroed,omitempty"`  // bytes made zero, or left zero

	// Blocks is how many written blocks were sampled, and Entropy counts
	// them by the sample's Shannon entropy: bucket i is for i/2 to (i+1)/2
	// bits a byte. Dense counts those that no compressor would make
	// smaller: they look random, be it that they are encrypted, compressed
	// or both. Samples can't tell these apart.
	Blocks  int64     `json:"blocks,omitempty"`
	Dense   int64     `json:"dense,omitempty"`
	Entropy [16]int64 `json:"entropy,omitzero"`

	// What follows is of drafts that are [Packer]. Known counts the blocks
	// of which it is known what they took before and take now. Fresh are
	// those that were zeros and don't pack now. Over are those that packed
	// before; Turned are those of them that don't pack any more: text that
	// became noise in its place.
	Known  int64 `json:"known,omitempty"`
	Fresh  int64 `json:"fresh,omitempty"`
	Over   int64 `json:"over,omitempty"`
	Turned int64 `json:"turned,omitempty"`
	// Grown and Shrunk sum by how many bytes blocks that were not zeros take
	// more, or less, than before. Work goes both ways, encryption one.
	Grown  int64 `json:"grown,omitempty"`
	Shrunk int64 `json:"shrunk,omitempty"`
}

// IsZero reports whether nothing is known.
func (s ChangeStats) IsZero() bool { return s == ChangeStats{} }

// Packs reports whether a block of n bytes that is kept in stored bytes is one
// that compression makes smaller, by 1/16 at least.
func Packs(stored, n int) bool { return stored < n-n/16 }

// Packer is an ability of drafts that keep blocks compressed: it tells how
// well each packed.
type Packer interface {
	// Packed fills sizes with the bytes that the consecutive blocks from
	// off, a multiple of SumBlock, on are kept in: 0 for zeros, -1 where the
	// size says nothing, as with a block that no compressor was tried on. It
	// tells of the draft's present content, from memory as far as Sums does.
	// The range must not reach beyond the disk's last block.
	Packed(ctx context.Context, disk DiskID, off int64, sizes []int32) error
}

package vhdx

const (
	kib = 1 << 10
	mib = 1 << 20

	// MaxSize is the largest virtual disk, as Hyper-V has it.
	MaxSize = 64 << 40
	// MaxChain is how many files a differencing disk and its ancestors may be.
	// Hyper-V stops at 50 checkpoints.
	MaxChain = 256

	minBlock = 1 * mib
	maxBlock = 256 * mib

	// page is the unit of the log, and of what is kept of the BAT and of sector
	// bitmaps.
	page = 4 * kib
	// pageEntries is how many BAT entries a page holds.
	pageEntries = page / 8
	// bitmapBlock is the size of each sector bitmap. Its bits are the sectors of
	// a chunk.
	bitmapBlock  = mib
	chunkSectors = bitmapBlock * 8

	// maxFile bounds the file, with room for the largest disk and its tables
	// twice over. One bit is kept for each MiB: 16 MiB at this size.
	maxFile = 2 * MaxSize
	// maxLog bounds what a log replay holds in memory, and maxZeros, with it, its
	// work. Hyper-V's logs have 1 MiB.
	maxLog   = 32 * mib
	maxZeros = 4096 // descriptors of zeros
)

// geometry is what the BAT's shape follows from.
type geometry struct {
	size    int64 // of the virtual disk
	block   int64
	logical int64 // bytes a logical sector
	diff    bool  // has a parent
}

// blocks is how many payload blocks the disk has.
func (g geometry) blocks() int64 { return (g.size + g.block - 1) / g.block }

// chunk is how many payload blocks share a sector bitmap.
func (g geometry) chunk() int64 { return chunkSectors * g.logical / g.block }

// entries is the length of the BAT.
func (g geometry) entries() int64 {
	n, r := g.blocks(), g.chunk()
	if g.diff {
		return (n + r - 1) / r * (r + 1)
	}
	return n + (n-1)/r
}

// batBytes is the room that the BAT needs, in whole MiB as regions have it.
func (g geometry) batBytes() int64 { return roundUp(g.entries()*8, mib) }

// entry is where in the BAT a payload block stands.
func (g geometry) entry(block int64) int64 { return block + block/g.chunk() }

// bitmapEntry is where in the BAT the sector bitmap of a block's chunk stands.
func (g geometry) bitmapEntry(block int64) int64 {
	r := g.chunk()
	return block/r*(r+1) + r
}

// held is how many bytes of the disk a block holds: fewer in the last one.
func (g geometry) held(block int64) int64 { return min(g.block, g.size-block*g.block) }

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

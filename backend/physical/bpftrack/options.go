package bpftrack

import (
	"log/slog"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

const (
	// DefaultBlockSize is Options.BlockSize when that is 0.
	DefaultBlockSize = 64 << 10
	// DefaultMemory is Options.Memory when that is 0.
	DefaultMemory = 256 << 20
)

// Options say how a tracker works. The zero value tracks until the process
// ends.
type Options struct {
	// Pins is a folder in a BPF file system, made if need be, where maps and
	// programs stay while the process is away; "": they end with it. It is
	// this tracker's alone: what else lies in it is removed.
	Pins string
	// State is a folder for what belongs to the pins, made if need be. It must
	// be on a tmpfs (/run), because a mark is set while a machine's file
	// systems are frozen, and because pins don't outlive the kernel either.
	// It is wanted with Pins and unused without.
	State string
	// BlockSize is what is told apart, in bytes: a power of two, at least 4 KiB;
	// 0: DefaultBlockSize.
	BlockSize int64
	// Memory bounds, in bytes, the bitmaps in the kernel and those of older
	// marks together; 0: DefaultMemory. A disk whose bitmap has no room isn't
	// tracked; older marks that have none answer that everything was written.
	Memory int64
	// TrustPassthrough is the word that nobody writes to the disks by commands
	// that the block layer only passes on (SG_IO, nvme-cli). Without it such a
	// command dirties the whole disk if it sends data. Those that fetch data or
	// carry none (SMART) never do; the kernel doesn't tell from these the few that
	// change a disk all the same, such as NVMe's Write Zeroes, FORMAT UNIT and
	// SANITIZE. After one of those restart the tracking (Untrack and Track).
	TrustPassthrough bool
	// TrustLoops is the word that files are written by the loop device that
	// stands on the whole of them, and by nobody beside it: no guest that runs
	// from the same file, while the loop device only looks into it. Without it
	// files aren't tracked; name the loop devices.
	TrustLoops bool
	// Log gets what is tracked no longer and why; may be nil.
	Log *slog.Logger
}

// Report is how one disk is tracked.
type Report struct {
	Machine dr.MachineID `json:"machine"`
	Disk    dr.DiskID    `json:"disk"`
	Path    string       `json:"path"`
	// Device is the block device that is watched: "8:0", or "8:0+2048,4096"
	// for a partition's start and length in sectors of 512 bytes.
	Device string `json:"device,omitempty"`
	// Kept is whether the tracking outlives the process.
	Kept bool `json:"kept"`
	// Bytes is the memory of its bitmap in the kernel.
	Bytes int64 `json:"bytes,omitempty"`
	// Problem is why it isn't tracked; nil: it is.
	Problem *backend.Problem `json:"problem,omitempty"`
}

package offline

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/ext4"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/ntfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/xfs"
)

// FileSystem is one that was found on the disks of an image.
type FileSystem struct {
	// Disk it lies on; "" for a logical volume over several disks.
	Disk dr.DiskID
	// Volume is where: "partition 2", "whole disk", "debian-vg/root".
	Volume string
	// Size of the volume in bytes.
	Size int64
	// Kind is "ext4" (also of ext2 and ext3), "xfs", "ntfs", or what was
	// recognised and can't be read: "btrfs", "fat", "luks", "bitlocker",
	// "md-raid", "swap", "refs"; "" if nothing was.
	Kind string
	// Names by which a guest mounts it.
	Label, UUID, PartUUID, PartLabel, Device string
	// Note says in what way less is seen than the guest would see: a log
	// that was not played back.
	Note string
	// FS reads it; nil if Err says why it can't be read. It implements
	// fs.ReadDirFS, fs.StatFS, fs.ReadFileFS and fs.ReadLinkFS, follows
	// symbolic links within the file system, and is safe for concurrent use.
	// It reads with the context of the call that found it, and only until the
	// image is closed.
	FS  fs.FS
	Err error

	vol   guestfs.Volume
	blank bool // nothing is there that is known
}

// String says where the file system is, for people.
func (f FileSystem) String() string {
	if f.Disk == "" || strings.Contains(f.Volume, "/") {
		return "volume " + f.Volume
	}
	return fmt.Sprintf("disk %s, %s", f.Disk, f.Volume)
}

// FileSystems finds the file systems on an image's disks. What can't be read
// is listed too, with its Err: only if ctx has ended, or no disk can be read
// at all, there is an error. Reading is not bounded, but by ctx.
func FileSystems(ctx context.Context, img dr.Image) ([]FileSystem, error) {
	return find(ctx, img, &budget{left: 1 << 62})
}

func find(ctx context.Context, img dr.Image, b *budget) ([]FileSystem, error) {
	var disks []disklayout.Disk
	var list []FileSystem
	for _, d := range img.Point().Machine.Disks {
		disks = append(disks, disklayout.Disk{ID: string(d.ID), Size: d.Size, ReaderAt: newDisk(ctx, img, d, b)})
	}
	volumes, errs := disklayout.Volumes(disks)
	for _, v := range volumes {
		f := FileSystem{Disk: dr.DiskID(v.Disk), Volume: v.Name, Size: v.Size, PartUUID: v.PartUUID, PartLabel: v.PartLabel, Device: v.Device, Err: v.Err}
		if f.Err == nil {
			f.open(v)
		}
		list = append(list, f)
	}
	for _, err := range errs {
		list = append(list, FileSystem{Err: err})
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(volumes) == 0 && len(errs) > 0 {
		return nil, &dr.Error{Op: "inspect", Side: dr.StoreSide, Point: img.Point().ID, Machine: img.Point().Machine.ID, Err: errs[0]}
	}
	return list, nil
}

// open recognises what is on a volume.
func (f *FileSystem) open(r io.ReaderAt) {
	defer func() {
		if p := recover(); p != nil {
			f.vol, f.FS, f.Err = nil, nil, fmt.Errorf("%w: its reader failed: %v", dr.ErrCorrupt, p)
		}
	}()
	head := make([]byte, min(f.Size, 0x10048))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		f.Err = err
		return
	}
	f.Kind = kind(head)
	switch f.Kind {
	case "ext4":
		e, err := ext4.Open(r, f.Size)
		if f.Err = err; err == nil {
			f.Label, f.UUID, f.Note, f.vol = e.Label, e.UUID, e.Note, e
		}
	case "xfs":
		x, err := xfs.Open(r, f.Size)
		if err == nil {
			err = x.LogDirty()
		}
		if f.Err = err; err == nil {
			f.Label, f.UUID, f.Note, f.vol = x.Label, x.UUID, x.Note, x
		}
	case "ntfs":
		n, err := ntfs.Open(r, f.Size)
		if f.Err = err; err == nil {
			f.Label, f.UUID, f.Note, f.vol = n.Label, fmt.Sprintf("%016X", n.Serial), n.Note, n
		}
	case "fat":
		f.UUID = fatUUID(head)
		f.Err = fmt.Errorf("%w: FAT is not read", dr.ErrUnsupported)
	case "":
		f.blank = true
		f.Err = fmt.Errorf("%w: no file system that is known", dr.ErrUnsupported)
	default:
		f.Err = fmt.Errorf("%w: %s is not read", dr.ErrUnsupported, f.Kind)
	}
	if f.vol != nil {
		f.FS = guestfs.NewTree(f.vol)
	}
}

// kind recognises a file system by its signature.
func kind(head []byte) string {
	is := func(at int, magic string) bool {
		return len(head) >= at+len(magic) && string(head[at:at+len(magic)]) == magic
	}
	switch {
	case xfs.Is(head):
		return "xfs"
	case is(3, "-FVE-FS-"):
		return "bitlocker"
	case ntfs.Is(head):
		return "ntfs"
	case is(3, "ReFS"):
		return "refs"
	case is(0, "LUKS\xba\xbe"):
		return "luks"
	case is(0x1000, "\xfc\x4e\x2b\xa9"), is(0, "\xfc\x4e\x2b\xa9"):
		return "md-raid"
	case is(0x10040, "_BHRfS_M"):
		return "btrfs"
	case len(head) > 2048 && ext4.Is(head[1024:]):
		return "ext4"
	case is(4086, "SWAPSPACE2"):
		return "swap"
	case is(82, "FAT32"), is(54, "FAT1"):
		return "fat"
	}
	return ""
}

// fatUUID is the serial number as blkid writes it: fstab names an EFI system
// partition by it.
func fatUUID(head []byte) string {
	at := 39
	if string(head[82:87]) == "FAT32" {
		at = 67
	}
	return fmt.Sprintf("%02X%02X-%02X%02X", head[at+3], head[at+2], head[at+1], head[at])
}

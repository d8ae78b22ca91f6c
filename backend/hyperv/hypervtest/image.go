package hypervtest

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/internal/vhdx"
)

// imageSpec is what an image is made of; a parent gives size and sectors.
type imageSpec struct {
	size       int64
	sector     uint32
	block      uint32 // of a dynamic VHDX
	vhd, fixed bool
	parent     image
	parentPath string
	id         string // VirtualDiskId; empty: another one
}

// image is the content of a disk file, with the chain below it.
type image interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Flush() error
	Size() int64
	ID() string // VirtualDiskId in lower case
	LogicalSector() uint32
	Allocation() int64 // of the file, in bytes
	Grow(size int64) error
	// Merge puts the content into the parent's.
	Merge() error
	// Allocated are the ranges outside of which the chain reads as zeros.
	Allocated() ([]host.Range, error)
	Close() error
}

// vhdxImage is a real VHDX file. It stays open for writing as long as the host
// lives, and so do those below it: what may be opened by whom is the matter of
// the locks of [file].
type vhdxImage struct {
	*vhdx.Disk
	file *os.File
}

// unsynced is a file that doesn't wait for the disk: a simulated host loses
// power without losing what was written.
type unsynced struct{ vhdx.File }

func (unsynced) Sync() error { return nil }

func createImage(local string, spec imageSpec) (image, error) {
	if spec.vhd {
		return createVHD(local, spec)
	}
	o := vhdx.Options{Size: spec.size, BlockSize: spec.block, LogicalSector: spec.sector, Fixed: spec.fixed}
	if spec.id != "" {
		id, err := vhdx.ParseGUID(spec.id)
		if err != nil {
			return nil, err
		}
		o.DiskID = id
	}
	if spec.parent != nil {
		p, ok := spec.parent.(*vhdxImage)
		if !ok {
			return nil, errors.New("a VHDX above something else")
		}
		o = vhdx.Options{Parent: p.Disk, ParentAbsolute: spec.parentPath, ParentRelative: relative(spec.parentPath)}
	}
	f, err := os.OpenFile(local, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	d, err := vhdx.Create(unsynced{vhdx.OSFile(f)}, o)
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(local))
	}
	return &vhdxImage{d, f}, nil
}

// relative is the file's name as a locator of a child in the same folder has it.
func relative(path string) string { return `.` + path[strings.LastIndexByte(path, '\\'):] }

// openImage opens a file that a test put there. One with a parent is refused:
// chains are made by checkpoints only.
func openImage(local string) (*vhdxImage, error) {
	f, err := os.OpenFile(local, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	d, err := vhdx.Open(unsynced{vhdx.OSFile(f)}, vhdx.OpenOptions{})
	if err == nil && d.HasParent() {
		err = errors.Join(fmt.Errorf("a differencing disk of %s", d.Locator().Absolute), d.Close())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &vhdxImage{d, f}, nil
}

func (i *vhdxImage) ID() string { return strings.ToLower(i.Disk.ID().String()) }

func (i *vhdxImage) Allocation() int64 {
	st, err := i.file.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

func (i *vhdxImage) Allocated() ([]host.Range, error) {
	var all blockSet
	for d := i.Disk; d != nil; d = d.Parent() {
		for r, err := range d.Allocated(0, d.Size()) {
			if err != nil {
				return nil, err
			}
			if r.State == vhdx.Data {
				all = all.add(r.Off, r.Off+r.Len)
			}
		}
	}
	return all.ranges(1, i.Size()), nil
}

func (i *vhdxImage) Close() error { return errors.Join(i.Disk.Close(), i.file.Close()) }

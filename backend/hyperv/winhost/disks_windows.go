package winhost

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// Disks are the virtual disks and files of this host. The zero value works; it
// holds nothing. Opening a disk for reading or writing attaches it, which needs
// the right to "perform volume maintenance tasks" that administrators have.
//
// Calls look at their context before they start; what Windows has begun it
// finishes.
type Disks struct{}

var _ host.Disks = Disks{}

// Create is [host.Disks]'s.
func (Disks) Create(ctx context.Context, path string, spec host.DiskSpec) error {
	const op = "CreateVirtualDisk"
	if err := ctx.Err(); err != nil {
		return err
	}
	sector := spec.LogicalSector
	if sector == 0 {
		sector = 512
	}
	if sector != 512 && sector != 4096 || spec.Size <= 0 || spec.Size%int64(sector) != 0 {
		return fmt.Errorf("%s: %d bytes in sectors of %d", op, spec.Size, sector)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return failed(op, err)
	}
	// An identifier of zeros is one that virtdisk chooses.
	p := createParameters{version: 2, size: uint64(spec.Size), sectorSize: sector}
	kind, h := vhdx, windows.InvalidHandle
	err = call(op, uintptr(unsafe.Pointer(&kind)), uintptr(unsafe.Pointer(name)), 0, 0, 0, 0,
		uintptr(unsafe.Pointer(&p)), 0, uintptr(unsafe.Pointer(&h)))
	if err != nil {
		return err
	}
	return failed(op, windows.CloseHandle(h))
}

// Stat is [host.Disks]'s.
func (Disks) Stat(ctx context.Context, path string) (host.DiskInfo, error) {
	if err := ctx.Err(); err != nil {
		return host.DiskInfo{}, err
	}
	h, err := openDisk(path, true, false)
	if err != nil {
		return host.DiskInfo{}, err
	}
	defer windows.CloseHandle(h)
	return describe(h)
}

// Grow is [host.Disks]'s. To the same size it does nothing; to a smaller one it
// is an error, although virtdisk might do it.
func (Disks) Grow(ctx context.Context, path string, size int64) error {
	const op = "ResizeVirtualDisk"
	if err := ctx.Err(); err != nil {
		return err
	}
	h, err := openDisk(path, false, true)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(h)
	i := new(diskInfo)
	if err := i.get(h, infoSize); err != nil {
		return err
	}
	switch now := int64(i.u64(8)); {
	case size == now:
		return nil
	case size < now:
		return fmt.Errorf("%s: the disk has %d bytes already, more than %d", op, now, size)
	}
	p := resizeParameters{version: 1, size: uint64(size)}
	return call(op, uintptr(h), 0, uintptr(unsafe.Pointer(&p)), 0)
}

// Open is [host.Disks]'s. The disk is attached to this handle alone: the host
// gets no disk of it, and mounts nothing.
func (Disks) Open(ctx context.Context, path string, write bool) (host.Disk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, err := openDisk(path, false, write)
	if err != nil {
		return nil, err
	}
	d, err := attach(h, write)
	if err != nil {
		windows.CloseHandle(h)
		return nil, err
	}
	return d, nil
}

func attach(h windows.Handle, write bool) (*disk, error) {
	i := new(diskInfo)
	if err := i.get(h, infoSize); err != nil {
		return nil, err
	}
	size, sector := int64(i.u64(8)), int64(i.u32(28))
	if size <= 0 || sector <= 0 || window%sector != 0 || size%sector != 0 {
		return nil, fmt.Errorf("OpenVirtualDisk: a disk of %d bytes in sectors of %d", size, sector)
	}
	flags := uintptr(attachNoLocalHost)
	if !write {
		flags |= attachReadOnly
	}
	p := attachParameters{version: 1}
	if err := call("AttachVirtualDisk", uintptr(h), 0, flags, 0, uintptr(unsafe.Pointer(&p)), 0); err != nil {
		return nil, err
	}
	requests, err := newRequests(h)
	if err != nil {
		return nil, errors.Join(err, call("DetachVirtualDisk", uintptr(h), 0, 0))
	}
	return &disk{h: h, requests: requests, sectors: newSectors(requests, size, sector)}, nil
}

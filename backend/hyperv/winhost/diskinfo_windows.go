package winhost

import (
	"encoding/binary"
	"errors"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// diskInfo is a GET_VIRTUAL_DISK_INFO: a version, and from byte 8 on what was
// asked for. Paths and identifiers of any length fit.
type diskInfo [16 << 10]uint64

func (i *diskInfo) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(i)), len(i)*8) }

// get asks for one kind of information.
func (i *diskInfo) get(h windows.Handle, version uint32) error {
	clear(i[:])
	binary.LittleEndian.PutUint32(i.bytes(), version)
	size, used := uint32(len(i)*8), uint32(0)
	return call("GetVirtualDiskInformation", uintptr(h), uintptr(unsafe.Pointer(&size)), uintptr(unsafe.Pointer(i)), uintptr(unsafe.Pointer(&used)))
}

func (i *diskInfo) u32(at int) uint32 { return binary.LittleEndian.Uint32(i.bytes()[at:]) }
func (i *diskInfo) u64(at int) uint64 { return binary.LittleEndian.Uint64(i.bytes()[at:]) }

// guid is in lower case, without braces.
func (i *diskInfo) guid(at int) string {
	g := *(*windows.GUID)(unsafe.Pointer(&i.bytes()[at]))
	return strings.ToLower(strings.Trim(g.String(), "{}"))
}

// text is a string of UTF-16 that a zero ends.
func (i *diskInfo) text(at int) string {
	b := i.bytes()[at:]
	return windows.UTF16ToString(unsafe.Slice((*uint16)(unsafe.Pointer(&b[0])), len(b)/2))
}

// describe asks an open disk all that [host.DiskInfo] has.
func describe(h windows.Handle) (host.DiskInfo, error) {
	var d host.DiskInfo
	i := new(diskInfo)
	if err := i.get(h, infoSize); err != nil {
		return d, err
	}
	d.Size, d.Allocated, d.LogicalSector = int64(i.u64(8)), int64(i.u64(16)), i.u32(28)
	if d.Size < 0 || d.LogicalSector == 0 {
		return d, errors.New("GetVirtualDiskInformation: a disk without a size or sectors")
	}
	if err := i.get(h, infoStorageType); err != nil {
		return d, err
	}
	d.VHD = i.u32(8) == deviceVHD
	if err := i.get(h, infoSubtype); err != nil {
		return d, err
	}
	subtype := i.u32(8)
	d.Fixed = subtype == typeFixed
	if subtype == typeDifferencing {
		if err := i.get(h, infoParentLocation); err != nil {
			return d, err
		}
		if i.u32(8) == 0 { // a list of guesses then
			return d, win32("GetVirtualDiskInformation", windows.ERROR_FILE_NOT_FOUND)
		}
		d.Parent = i.text(12)
	}
	if d.VHD { // it has its own identifier only, and no tracking
		if err := i.get(h, infoIdentifier); err != nil {
			return d, err
		}
		d.ID = i.guid(8)
		return d, nil
	}
	if err := i.get(h, infoVirtualDiskID); err != nil {
		return d, err
	}
	d.ID = i.guid(8)
	err := i.get(h, infoTracking)
	var e *host.Error
	if errors.As(err, &e) && (e.Code == 0x80070057 || e.Code == 0x80070032) {
		return d, nil // ERROR_INVALID_PARAMETER, ERROR_NOT_SUPPORTED: a Windows before 2016, which can't track
	}
	if err != nil {
		return d, err
	}
	if d.Tracking = i.u32(8) != 0; d.Tracking {
		d.Latest = i.text(16)
	}
	return d, nil
}

package winhost

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/windows"
)

var virtdisk = windows.NewLazySystemDLL("virtdisk.dll")

// Constants and structures of virtdisk.h. All handles here are opened by version
// 2 of the parameters, of which the access mask must be none: what is allowed
// is said in the parameters. All of it is for a 64-bit Windows, the only one that
// has Hyper-V.
const (
	attachReadOnly    = 0x1 // ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY
	attachNoLocalHost = 0x8 // ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST: read by this handle, no disk of the host

	deviceVHD = 2 // VIRTUAL_STORAGE_TYPE_DEVICE_VHD

	typeFixed, typeDifferencing = 2, 4 // of GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE

	// GET_VIRTUAL_DISK_INFO_VERSION.
	infoSize           = 1
	infoIdentifier     = 2
	infoParentLocation = 3
	infoStorageType    = 6
	infoSubtype        = 7
	infoVirtualDiskID  = 14
	infoTracking       = 15
)

type storageType struct { // VIRTUAL_STORAGE_TYPE
	device uint32
	vendor windows.GUID
}

// anyDisk lets virtdisk find out whether a file is a VHD or a VHDX.
var anyDisk = storageType{}

// vhdx is VIRTUAL_STORAGE_TYPE_DEVICE_VHDX of VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT.
var vhdx = storageType{3, windows.GUID{
	Data1: 0xEC984AEC, Data2: 0xA0F9, Data3: 0x47E9,
	Data4: [8]byte{0x90, 0x1F, 0x71, 0x41, 0x5A, 0x66, 0x34, 0x5B},
}}

type openParameters struct { // OPEN_VIRTUAL_DISK_PARAMETERS, Version2
	version               uint32
	getInfoOnly, readOnly int32
	resiliency            windows.GUID
}

type createParameters struct { // CREATE_VIRTUAL_DISK_PARAMETERS, Version2
	version                               uint32
	_                                     uint32
	id                                    windows.GUID
	size                                  uint64
	blockSize, sectorSize, physicalSector uint32
	_                                     uint32
	parentPath, sourcePath                *uint16
	openFlags                             uint32
	parentStorageType, sourceStorageType  storageType
	resiliency                            windows.GUID
}

type attachParameters struct{ version, reserved uint32 } // ATTACH_VIRTUAL_DISK_PARAMETERS, Version1

type resizeParameters struct { // RESIZE_VIRTUAL_DISK_PARAMETERS, Version1
	version, _ uint32
	size       uint64
}

// call calls a function of virtdisk, of which all return a Win32 code. One that
// this Windows doesn't have, or the whole library, is an error, too: Windows
// Server has it only with Hyper-V's or the storage's tools.
func call(name string, args ...uintptr) error {
	p := virtdisk.NewProc(name)
	if err := p.Find(); err != nil {
		return win32(name, missing(err))
	}
	if n, _, _ := p.Call(args...); n != 0 {
		return win32(name, windows.Errno(n))
	}
	return nil
}

// missing is the code why a library or a function can't be had.
func missing(err error) windows.Errno {
	var n windows.Errno
	if errors.As(err, &n) {
		return n
	}
	return windows.ERROR_MOD_NOT_FOUND
}

// openDisk opens a virtual disk with its chain. The handle is the caller's.
func openDisk(path string, infoOnly, write bool) (windows.Handle, error) {
	const op = "OpenVirtualDisk"
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, failed(op, err)
	}
	p := openParameters{version: 2}
	if infoOnly {
		p.getInfoOnly = 1
	}
	if !write {
		p.readOnly = 1
	}
	any, h := anyDisk, windows.InvalidHandle
	err = call(op, uintptr(unsafe.Pointer(&any)), uintptr(unsafe.Pointer(name)), 0, 0,
		uintptr(unsafe.Pointer(&p)), uintptr(unsafe.Pointer(&h)))
	if err != nil {
		return 0, err
	}
	return h, nil
}

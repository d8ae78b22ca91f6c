package winhost

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/windows"
)

// gone tells whether err says that there is no such file or folder.
func gone(err error) bool {
	return errors.Is(err, windows.ERROR_FILE_NOT_FOUND) || errors.Is(err, windows.ERROR_PATH_NOT_FOUND)
}

// attributes of a file or folder; found is false if there is none.
func attributes(op, path string) (a uint32, found bool, err error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, false, failed(op, err)
	}
	a, err = windows.GetFileAttributes(name)
	if gone(err) {
		return 0, false, nil
	}
	return a, err == nil, failed(op, err)
}

// Exists is [host.Disks]'s.
func (Disks) Exists(ctx context.Context, path string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	_, found, err := attributes("look", path)
	return found, err
}

// Rename is [host.Disks]'s. The file is opened so that nobody else has it open,
// renamed by that handle, and flushed, which makes the name durable, too.
func (Disks) Rename(ctx context.Context, from, to string) error {
	const op = "rename"
	if err := ctx.Err(); err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return failed(op, err)
	}
	full, err := filepath.Abs(to)
	if err != nil {
		return failed(op, err)
	}
	target, err := windows.UTF16FromString(full)
	if err != nil {
		return failed(op, err)
	}
	const nobodyElse = 0
	h, err := windows.CreateFile(name, windows.DELETE|windows.GENERIC_WRITE|windows.SYNCHRONIZE, nobodyElse, nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return failed(op, err)
	}
	// FILE_RENAME_INFO (winbase.h) of a 64-bit Windows: replace it or not, a root
	// folder, the length of the name in bytes, the name with its zero.
	const flag, length, text = 0, 16, 20
	info := make([]byte, text+2*len(target))
	info[flag] = 0 // what is there is kept
	binary.LittleEndian.PutUint32(info[length:], uint32(2*(len(target)-1)))
	for i, c := range target {
		binary.LittleEndian.PutUint16(info[text+2*i:], c)
	}
	err = windows.SetFileInformationByHandle(h, windows.FileRenameInfo, &info[0], uint32(len(info)))
	if err == nil {
		err = windows.FlushFileBuffers(h)
	}
	return failed(op, errors.Join(err, windows.CloseHandle(h)))
}

// Remove is [host.Disks]'s.
func (Disks) Remove(ctx context.Context, path string) error {
	const op = "remove"
	if err := ctx.Err(); err != nil {
		return err
	}
	a, found, err := attributes(op, path)
	if err != nil || !found {
		return err
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return failed(op, err)
	}
	remove := windows.DeleteFile
	if a&windows.FILE_ATTRIBUTE_DIRECTORY != 0 {
		remove = windows.RemoveDirectory
	}
	if err := remove(name); err != nil && !gone(err) {
		return failed(op, err)
	}
	return nil
}

// MakeFolder is [host.Disks]'s.
func (Disks) MakeFolder(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	const op = "make folder"
	err := os.MkdirAll(path, 0o700)
	if errors.Is(err, syscall.ENOTDIR) { // Go's own number: a file is in the way
		return win32(op, windows.ERROR_ALREADY_EXISTS)
	}
	return failed(op, err)
}

// Free is [host.Disks]'s. The path need not exist yet: the folder above it tells.
func (Disks) Free(ctx context.Context, path string) (int64, error) {
	const op = "free space"
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	folder, err := filepath.Abs(path)
	if err != nil {
		return 0, failed(op, err)
	}
	for {
		a, found, err := attributes(op, folder)
		if err != nil {
			return 0, err
		}
		if found && a&windows.FILE_ATTRIBUTE_DIRECTORY != 0 {
			break
		}
		up := filepath.Dir(folder)
		if up == folder {
			return 0, win32(op, windows.ERROR_PATH_NOT_FOUND)
		}
		folder = up
	}
	name, err := windows.UTF16PtrFromString(folder)
	if err != nil {
		return 0, failed(op, err)
	}
	var mine, total, all uint64
	if err := windows.GetDiskFreeSpaceEx(name, &mine, &total, &all); err != nil {
		return 0, failed(op, err)
	}
	return int64(mine), nil
}

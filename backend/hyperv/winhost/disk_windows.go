package winhost

import (
	"context"
	"errors"
	"iter"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// disk is an attached virtual disk.
type disk struct {
	*sectors
	h        windows.Handle
	requests *requests
	// open is held by every call, and taken by Close: a number of a handle may be
	// another's as soon as it is closed.
	open   sync.RWMutex
	closed bool
}

// enter is nil while the disk is open; leave must be called then.
func (d *disk) enter() error {
	d.open.RLock()
	if d.closed {
		d.open.RUnlock()
		return host.ErrClosed
	}
	return nil
}

func (d *disk) leave() { d.open.RUnlock() }

// Size is [host.Disk]'s.
func (d *disk) Size() int64 { return d.size }

// ReadAt is [host.Disk]'s.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	defer d.leave()
	return d.sectors.ReadAt(p, off)
}

// WriteAt is [host.Disk]'s.
func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	defer d.leave()
	return d.sectors.WriteAt(p, off)
}

// Flush is [host.Disk]'s.
func (d *disk) Flush() error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return failed("FlushFileBuffers", windows.FlushFileBuffers(d.h))
}

// Changes is [host.Disk]'s.
func (d *disk) Changes(ctx context.Context, since string) iter.Seq2[host.Range, error] {
	return func(yield func(host.Range, error) bool) {
		last := int64(0)
		for from := int64(0); from < d.size; {
			ranges, next, err := d.changes(ctx, since, from, last)
			if err != nil {
				yield(host.Range{}, err)
				return
			}
			for _, r := range ranges {
				if !yield(r, nil) {
					return
				}
				last = r.Off + r.Len
			}
			from = next
		}
	}
}

// changes asks once, from an offset on, and tells how far the answer reaches.
func (d *disk) changes(ctx context.Context, since string, from, last int64) ([]host.Range, int64, error) {
	const op = "QueryChangesVirtualDisk"
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if err := d.enter(); err != nil {
		return nil, 0, err
	}
	defer d.leave()
	id, err := windows.UTF16PtrFromString(since)
	if err != nil {
		return nil, 0, failed(op, err)
	}
	answer := make([]changed, 1024)
	count, reached := uint32(len(answer)), uint64(0)
	err = call(op, uintptr(d.h), uintptr(unsafe.Pointer(id)), uintptr(from), uintptr(d.size-from), 0,
		uintptr(unsafe.Pointer(&answer[0])), uintptr(unsafe.Pointer(&count)), uintptr(unsafe.Pointer(&reached)))
	if err != nil {
		return nil, 0, err
	}
	if reached == 0 || reached > uint64(d.size-from) || int(count) > len(answer) {
		return nil, 0, errors.Join(errors.New(op+": an answer that leads nowhere"), host.ErrTrackingLost)
	}
	ranges, _, err := ascending(answer[:count], from, last, d.size)
	return ranges, from + int64(reached), failed(op, err)
}

// Allocated is [host.Disk]'s. virtdisk doesn't tell.
func (d *disk) Allocated(context.Context) iter.Seq2[host.Range, error] {
	return func(yield func(host.Range, error) bool) {
		yield(host.Range{}, win32("allocated ranges", windows.ERROR_NOT_SUPPORTED))
	}
}

// Close detaches the disk. A second Close is a no-op.
func (d *disk) Close() error {
	d.open.Lock()
	defer d.open.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	err := call("DetachVirtualDisk", uintptr(d.h), 0, 0)
	d.requests.close()
	return errors.Join(err, failed("CloseHandle", windows.CloseHandle(d.h)))
}

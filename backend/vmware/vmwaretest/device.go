package vmwaretest

import "fmt"

// Device is a disk as the guest of its machine sees it: a block device, such
// as a proxy finds for a disk that was hot-added to it. What is written to a
// disk that is attached as nonpersistent is read back here and nowhere else,
// and gone when the disk is detached or the machine powered off.
type Device struct {
	vm  *VM
	key int32
}

// Device finds a disk's block device by its device key. It fails with ErrNoDisk
// where there is none, and with ErrOff while the machine is off. The device is
// good until the disk is detached; both errors come from it afterwards.
func (v *VM) Device(disk int32) (*Device, error) {
	d := &Device{v, disk}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("device of disk %d: %w", disk, err)
	}
	return d, nil
}

func (d *Device) check() error {
	d.vm.s.mu.Lock()
	defer d.vm.s.mu.Unlock()
	switch {
	case d.vm.disks[d.key] == nil:
		return ErrNoDisk
	case !d.vm.on:
		return ErrOff
	}
	return nil
}

// Size is the disk's capacity in bytes, 0 after it was detached.
func (d *Device) Size() int64 { return d.vm.Size(d.key) }

// ReadAt has the rules of io.ReaderAt.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := d.check(); err != nil {
		return 0, fmt.Errorf("read disk %d at %d: %w", d.key, off, err)
	}
	return d.vm.Read(d.key, p, off)
}

// WriteAt writes all of p or nothing.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.vm.Write(d.key, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

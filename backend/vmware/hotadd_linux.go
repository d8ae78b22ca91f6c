package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// guestDisks: Linux has openGuestDisk.
const guestDisks = true

// bootID changes whenever the system starts.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func openGuestDisk(ctx context.Context, uuid string, write bool) (BlockDevice, error) {
	return scsiDisks{dev: "/dev", sys: "/sys", patience: 30 * time.Second}.open(ctx, uuid, write)
}

// scsiDisks finds disks by UUID as udev names them.
type scsiDisks struct {
	dev, sys string
	patience time.Duration
}

func (s scsiDisks) open(ctx context.Context, uuid string, write bool) (BlockDevice, error) {
	id := strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(uuid))
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%q is no UUID", uuid)
	}
	name, err := s.await(ctx, id)
	if err != nil {
		return nil, err
	}
	how := os.O_RDONLY
	if write {
		// Exclusive, for a block device: nothing of the system may have taken it.
		how = os.O_RDWR | unix.O_EXCL
	}
	f, err := os.OpenFile(name, how|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, advise(err, "LVM, multipath or a mount of the appliance has taken the disk: keep them from foreign disks")
	}
	if err != nil {
		return nil, err
	}
	return &scsiDisk{File: f, sys: s.sys, block: filepath.Base(name)}, nil
}

// await waits until the disk shows, and asks the adapters to look for it.
func (s scsiDisks) await(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.patience, fmt.Errorf("no disk of this UUID has shown in %s after %v", s.byID(), s.patience))
	defer cancel()
	const rescan = 50 // of the pauses below
	for n := 0; ; n++ {
		for _, link := range []string{"wwn-0x" + id, "scsi-3" + id} {
			// udev removes a link after its device: what it leads to must be there.
			if name, err := filepath.EvalSymlinks(filepath.Join(s.byID(), link)); err == nil {
				return name, nil
			}
		}
		if n%rescan == 0 {
			s.rescan()
		}
		select {
		case <-ctx.Done():
			return "", advise(context.Cause(ctx), "set disk.enableUUID to TRUE in the appliance's advanced configuration, and let udev run in it")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s scsiDisks) byID() string { return filepath.Join(s.dev, "disk", "by-id") }

// rescan is for adapters that don't tell of new disks by themselves.
func (s scsiDisks) rescan() {
	hosts, _ := filepath.Glob(filepath.Join(s.sys, "class", "scsi_host", "host*", "scan"))
	for _, name := range hosts {
		writeFile(name, "- - -")
	}
}

// writeFile writes to a file of /sys, if it is there.
func writeFile(name, value string) {
	if f, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil {
		f.WriteString(value)
		f.Close()
	}
}

// scsiDisk is a block device.
type scsiDisk struct {
	*os.File
	sys, block string
}

// Size asks for the end: the status of a block device has no size.
func (d *scsiDisk) Size() (int64, error) { return d.Seek(0, io.SeekEnd) }

// Zero has the storage zero the range, without falling back to writing zeros.
func (d *scsiDisk) Zero(off, n int64) error {
	err := unix.Fallocate(int(d.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) { // not in whole blocks
		return errors.ErrUnsupported
	}
	return err
}

// Close tells the kernel that the disk will go, so that it doesn't find out by
// errors.
func (d *scsiDisk) Close() error {
	err := d.File.Close()
	writeFile(filepath.Join(d.sys, "class", "block", d.block, "device", "delete"), "1")
	return err
}

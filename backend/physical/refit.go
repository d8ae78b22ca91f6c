package physical

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
)

// SectorError says that a disk's partition table can't be read where it was
// copied to: a table counts in the sectors of the disk that it was made on. It
// is a dr.ErrUnsupported.
type SectorError struct {
	Path          string
	Table, Device int64 // bytes a sector
}

func (e *SectorError) Error() string {
	return fmt.Sprintf("%s has sectors of %d bytes, and the partition table counts in %d (use a disk with logical sectors of %[3]d bytes; many can be formatted to either)",
		e.Path, e.Device, e.Table)
}

// Unwrap returns dr.ErrUnsupported.
func (e *SectorError) Unwrap() error { return dr.ErrUnsupported }

// endOfDisk is where the labels are that are kept at the end of a disk: those
// of ZFS take the most, two of 256 KiB on a boundary of as much.
const endOfDisk = 1 << 20

// clearRest clears what disks that were given up are larger than what they
// stand for. A copy doesn't reach there: an old RAID's label, or an old table's
// backup, would bring back what the disk was before, and whatever else is there
// would be read into the next point. Where the device can't clear it by itself,
// or not within clearLimit, only the end is cleared, where the labels are. The
// machine is torn by then.
func (d *draft) clearRest(ctx context.Context, want dr.Machine) error {
	rec := d.m.record()
	for _, f := range rec.Disks {
		w, ok := want.Disk(f.ID)
		o := d.disks[f.ID]
		if s := rec.Seen[f.ID]; !ok || !s.Taken || s.Cleared || o.size <= w.Size {
			continue
		}
		const page = 4096 // no device has larger sectors
		from := (w.Size + page - 1) &^ (page - 1)
		if err := d.clear(ctx, f.ID, o, from); err != nil {
			return &dr.Error{Op: "clear the rest", Side: dr.TargetSide, Machine: d.m.id, Disk: f.ID, Off: from, Err: err}
		}
	}
	return nil
}

// clearLimit is how long a device may take to clear the rest. One that writes the
// zeros itself takes days for tens of TiB, while nobody hears of the draft: whoever
// waits for a sign of life would stop it and begin again, without end.
const clearLimit = time.Minute

// cleared notes whether the rest of the disks is: once is enough until the machine
// runs, because on large disks it may take hours.
func (r *record) cleared(disks dr.Machine, is bool) {
	for _, d := range disks.Disks {
		if s := r.Seen[d.ID]; s.Taken {
			s.Cleared = is
			r.note(d.ID, s)
		}
	}
}

func (d *draft) clear(ctx context.Context, id dr.DiskID, o opened, from int64) error {
	if from >= o.size {
		return nil
	}
	defer d.mark(id, from, o.size-from)()
	device, err := d.m.isDevice(o.path)
	if err != nil {
		return err
	}
	if !device {
		return o.Punch(from, o.size-from)
	}
	const step = 1 << 30 // between looks at ctx and the time
	began := time.Now()
	for at := from; at < o.size; at += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		done := time.Since(began) < clearLimit
		if done {
			if done, err = d.m.host.deallocate(o.path, at, min(step, o.size-at)); err != nil {
				return err
			}
		}
		if !done {
			from = max(from, (o.size-endOfDisk)&^4095)
			return o.Punch(from, o.size-from)
		}
	}
	return nil
}

// ready makes disks that were given up ready to be started from, once a copy is
// on them: a GPT's backup is moved to the end of a disk that is larger than
// what it stands for. A table that isn't sound is left as it was copied, and
// told to the log. Before it writes, the machine durably holds nothing any more.
// Repeating it after a crash is safe. The caller holds op.
func (m *machine) ready(ctx context.Context, rec *record) (err error) {
	if err := m.free(rec); err != nil {
		return err
	}
	found, err := m.foreign(rec)
	if err != nil {
		return err
	}
	if found.bare {
		return fmt.Errorf("%w: a disk that was given up is not the one that was copied to (copy a point to it)", dr.ErrTorn)
	}
	if err := m.change(func(r *record) { r.forget(); r.New, r.Clean = false, false }); err != nil {
		return err
	}
	ds, err := m.openDisks(rec, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ds.close()) }()
	for _, d := range rec.Disks {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := rec.Seen[d.ID]
		if !s.Taken {
			continue
		}
		if err := m.refitDisk(d.ID, ds[d.ID], s.Copied); err != nil {
			return &dr.Error{Op: "refit", Side: dr.TargetSide, Machine: m.id, Disk: d.ID, Off: -1, Err: err}
		}
	}
	return nil
}

func (m *machine) refitDisk(id dr.DiskID, d opened, copied int64) error {
	table, err := disklayout.SectorOf(d, d.size)
	if err != nil {
		return err
	}
	sector, err := m.sector(d.path)
	if err != nil {
		return err
	}
	if err := m.sectors(d, table, sector); err != nil {
		return err
	}
	if copied >= d.size {
		// Where such a table ends before its disk does, the end is somebody
		// else's: RAID of firmware and of Linux keep their metadata there.
		return nil
	}
	if sector == 0 {
		sector = table
	}
	moved, err := disklayout.MoveBackup(marking{d, m, id}, d.size, sector)
	if err != nil {
		return fmt.Errorf("%s: move the backup of the partition table to the end: %w", d.path, err)
	}
	switch log := m.host.cfg.Log.With("machine", m.id, "disk", id, "path", d.path); {
	case moved.Alone != "":
		log.Warn("the partition table was left as it was copied", "why", moved.Alone)
	case len(moved.Wrote) > 0:
		log.Info("the partition table's backup was moved to the end of the disk", "from", moved.From, "to", moved.To)
	}
	return nil
}

// sectors refuses a table that can't be read on the device. table is what a GPT
// was made for, 0 without one; sector is the device's, 0 of an image file, whose
// sectors are what reads it.
func (m *machine) sectors(d opened, table, sector int64) error {
	if sector == 0 {
		return nil
	}
	if table == 0 && sector != 512 {
		// An MBR doesn't say what it counts in: where something is found by
		// 512 bytes it is that.
		list, err := disklayout.Signatures(disklayout.Disk{ID: d.path, Size: d.size, ReaderAt: d})
		if err != nil {
			return err
		}
		if len(list) > 0 && list[0].Kind == "dos" {
			for _, s := range list {
				if strings.HasPrefix(s.Where, "partition") {
					table = 512
				}
			}
		}
	}
	if table != 0 && table != sector {
		return &SectorError{d.path, table, sector}
	}
	return nil
}

// countsAlike refuses a GPT for sectors of another size when it is written: near
// the beginning of a copy, and not when all of it has travelled. What comes in
// smaller pieces is found before the machine starts.
func (d *draft) countsAlike(disk dr.DiskID, path string, p []byte, off int64) error {
	sector := d.sectors[disk]
	if off != 0 || sector == 0 {
		return nil
	}
	table, err := disklayout.SectorOf(bytes.NewReader(p), int64(len(p)))
	if err == nil && table != 0 && table != sector {
		return &SectorError{path, table, sector}
	}
	return err
}

// sector is a block device's logical sector size in bytes; 0 of an image file,
// and where it can't be asked.
func (m *machine) sector(path string) (int64, error) {
	device, err := m.isDevice(path)
	if err != nil || !device {
		return 0, err
	}
	return m.host.sectorSize(path)
}

// marking tells the tracker what is written to a disk.
type marking struct {
	opened
	m    *machine
	disk dr.DiskID
}

func (d marking) WriteAt(p []byte, off int64) (int, error) {
	if t := d.m.host.cfg.Tracker; t != nil {
		t.Mark(d.m.id, d.disk, off, int64(len(p)))
		defer t.Mark(d.m.id, d.disk, off, int64(len(p)))
	}
	return d.opened.WriteAt(p, off)
}

// rescan has the kernel read the partition tables of what was written, so that
// it doesn't go by the old ones. Devices that are in use meanwhile keep theirs.
func (m *machine) rescan(rec *record) {
	for _, d := range rec.Disks {
		path := m.path(d)
		device, err := m.isDevice(path)
		if err == nil && device {
			err = m.host.reread(path)
		}
		if err != nil {
			m.host.cfg.Log.Warn("the kernel may go by the partition table from before", "machine", m.id, "disk", d.ID, "path", path, "error", err)
		}
	}
}

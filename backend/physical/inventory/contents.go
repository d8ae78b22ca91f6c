package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
	"github.com/lifeboat-dr/lifeboat/internal/signature"
)

// contents reads the tables and superblocks of disks and volumes. Paths of a
// multipath disk are left alone: passive ones can't be read.
func (s *system) contents(ctx context.Context, read func(*device) look) error {
	for _, d := range s.all {
		if d.whole != nil || d.role != isDisk && d.role != isVolume {
			continue
		}
		var found look
		took := make(chan look, 1)
		// A device whose paths are all lost can hold a read for ever: then
		// the goroutine stays with it, and nothing else does.
		go func() { took <- read(d) }()
		timeout := time.NewTimer(s.o.DeviceTimeout)
		select {
		case found = <-took:
		case <-timeout.C:
			found = look{failed: fmt.Errorf("it did not answer within %v", s.o.DeviceTimeout)}
		case <-ctx.Done():
			timeout.Stop()
			return ctx.Err()
		}
		timeout.Stop()
		d.table, d.broken, d.sig, d.failed = found.table, found.broken, found.sig, found.failed
		for i, p := range d.parts {
			if i < len(found.parts) {
				p.sig, p.failed = found.parts[i].sig, found.parts[i].failed
			}
		}
		if found.failed == nil {
			d.place()
		}
	}
	return nil
}

// place gives the partitions of a multipath disk, whose kernel devices don't
// tell, the offsets of the table.
func (d *device) place() {
	for _, p := range d.parts {
		for _, t := range d.table.Partitions {
			if p.off < 0 && t.Number == p.part {
				p.off = t.Off
			}
		}
	}
}

// look is what was read of a device. It shares nothing with the report until
// it is whole.
type look struct {
	table  disklayout.Table
	broken error
	sig    signature.Signature
	failed error
	parts  []look
}

func (s *system) look(d *device) (l look) {
	defer func() {
		if r := recover(); r != nil {
			l = look{failed: fmt.Errorf("%w: a reader failed: %v", dr.ErrCorrupt, r)}
		}
	}()
	f, err := s.open(d.file())
	if err != nil {
		return look{failed: err}
	}
	defer f.Close()
	bytes := io.NewSectionReader(f, 0, d.size)
	if l.sig, l.failed = signature.Probe(bytes, d.size); l.failed != nil {
		return l
	}
	if d.role == isDisk || len(d.parts) > 0 {
		l.table, l.broken = disklayout.ReadTable(disklayout.Disk{ID: d.name, Size: d.size, ReaderAt: bytes})
	}
	for _, p := range d.parts {
		l.parts = append(l.parts, s.lookPart(p, bytes))
	}
	return l
}

// lookPart reads a partition by its own device, whose cache the file system
// uses; where that has no file, through the disk.
func (s *system) lookPart(p *device, disk io.ReaderAt) (l look) {
	f, err := s.open(p.file())
	switch {
	case err == nil:
		defer f.Close()
		l.sig, l.failed = signature.Probe(io.NewSectionReader(f, 0, p.size), p.size)
	case errors.Is(err, fs.ErrNotExist) && p.off >= 0:
		l.sig, l.failed = signature.Probe(io.NewSectionReader(disk, p.off, p.size), p.size)
	default:
		l.failed = err
	}
	return l
}

// spread notes a mount at all devices of the file system: mountinfo names one
// of a btrfs' devices.
func (s *system) spread() {
	by := map[string][]Mount{}
	for _, d := range s.all {
		if d.sig.Kind == "btrfs" && d.sig.Devices > 1 && d.sig.UUID != "" {
			by[d.sig.UUID] = append(by[d.sig.UUID], d.mounts...)
		}
	}
	for _, d := range s.all {
		if d.sig.Kind == "btrfs" && d.sig.Devices > 1 {
			d.mounts = by[d.sig.UUID]
		}
	}
}

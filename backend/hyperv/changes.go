package hyperv

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Changes asks resilient change tracking what differs between an image's disk
// and an older point. Disks are matched by the virtual disk's identifier: their
// files flip between .vhdx and .avhdx. Every doubt is dr.ErrChangesLost.
func (i *image) Changes(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		stop := func(err error) { yield(dr.Extent{}, i.fail("list changes", id, -1, err)) }
		moment, old, err := i.base(ctx, id, since)
		if err != nil {
			stop(err)
			return
		}
		size := i.sizes[id]
		var last dr.Extent // held back: what follows may be joined to it
		first := true
		put := func(off, end int64) bool {
			switch {
			case off >= end:
				return true
			case last.Len > 0 && off <= last.End():
				last.Len = max(last.End(), end) - last.Off
				return true
			case last.Len > 0 && !yield(last, nil):
				return false
			}
			last, first = dr.Extent{Off: off, Len: end - off}, false
			return true
		}
		err = i.open.lend(ctx, id, func(d host.Disk) error {
			for r, err := range d.Changes(ctx, moment) {
				if err != nil {
					return err
				}
				if !put(max(r.Off, 0), min(r.Off+r.Len, size)) {
					return errEnough
				}
			}
			return nil
		})
		switch {
		case errors.Is(err, errEnough):
			return
		case err != nil && !first: // it must come first, or not at all
			stop(fmt.Errorf("the tracker stopped amid its answer: %w", unlost(err)))
			return
		case err != nil:
			stop(err)
			return
		}
		if put(old, size) && last.Len > 0 {
			yield(last, nil)
		}
	}
}

// unlost takes the meaning of lost changes from an error, not its words.
func unlost(err error) error {
	if errors.Is(err, host.ErrTrackingLost) {
		return errors.New(err.Error())
	}
	return err
}

// base finds the moment of a disk's tracking at an older point, and the size
// that the disk had. The machine's record is read anew: the point may have been
// released since this image was made.
func (i *image) base(ctx context.Context, id dr.DiskID, since dr.Point) (moment string, size int64, err error) {
	if err := ctx.Err(); err != nil {
		return "", 0, err
	}
	uuid, ok := i.uuids[id]
	if !ok {
		return "", 0, errNoDisk
	}
	lost := func(why string) (string, int64, error) {
		return "", 0, fmt.Errorf("%w: %s", dr.ErrChangesLost, why)
	}
	m, err := i.v.find(ctx, i.point.Machine.ID)
	if err != nil {
		return "", 0, err
	}
	size = i.sizes[id]
	if old, ok := since.Machine.Disk(id); ok {
		size = old.Size
	}
	// What a draft wrote comes first: the point's own cursors may be of
	// another machine, or of a time before.
	e, known := m.record.epoch(since.ID)
	moment = e.IDs[uuid]
	if !known && since.Machine.ID == i.point.Machine.ID && since.Cursors[id] != "" {
		n, disk, at := parseCursor(since.Cursors[id])
		switch {
		case disk != uuid:
			return lost("the disk is another one than it was")
		case n <= m.record.Distrusted:
			return lost("the disks were written since in a way that tracking may not have seen")
		}
		moment = at
	}
	switch {
	case moment == "":
		return lost("nothing is known of that point here")
	case size > i.sizes[id]:
		return lost("the disk has shrunk since")
	}
	return moment, size, nil
}

// unchanged tells whether a stopped machine's disks are what they were at an
// epoch, by its tracker. Where that can't tell the answer is no.
func (m *machine) unchanged(ctx context.Context, e epoch) (bool, error) {
	for _, d := range m.disks {
		moment := e.IDs[d.uuid]
		if moment == "" || d.missing != nil {
			return false, nil
		}
		same, err := m.node.same(ctx, d.at, moment)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (n *node) same(ctx context.Context, path, moment string) (same bool, err error) {
	d, err := n.disks.Open(ctx, path, false)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for _, err := range d.Changes(ctx, moment) {
		if errors.Is(err, host.ErrTrackingLost) {
			return false, nil
		}
		return false, err
	}
	return true, nil
}

package vmware

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// everything is the changeId that asks for all that was ever written.
const everything = "*"

// areas asks what changed on a disk since a changeId, page by page: vSphere
// answers with 2,000 areas at most, and says how far they reach. Without a
// snapshot the machine must be off. dr.ErrChangesLost comes first, or not at
// all: a failure behind the first page is an error to be tried again.
func (v *VSphere) areas(ctx context.Context, vm types.ManagedObjectReference, snapshot *types.ManagedObjectReference, d vdisk, since string) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		last := int64(0) // end of what was yielded
		for at := int64(0); at < d.size; {
			res, err := methods.QueryChangedDiskAreas(ctx, v.client, &types.QueryChangedDiskAreas{
				This: vm, Snapshot: snapshot, DeviceKey: d.key, StartOffset: at, ChangeId: since,
			})
			if err != nil {
				if at == 0 && tellsLost(err) {
					err = fmt.Errorf("%w: %w", dr.ErrChangesLost, err)
				}
				yield(dr.Extent{}, explain(err))
				return
			}
			page := res.Returnval
			end := page.StartOffset + page.Length
			if page.StartOffset > at || end <= at {
				yield(dr.Extent{}, fmt.Errorf("vSphere answered for [%d, %d) of the disk when asked from %d on", page.StartOffset, end, at))
				return
			}
			for _, a := range page.ChangedArea {
				from, to := max(a.Start, last), min(a.Start+a.Length, d.size)
				if from >= to {
					continue
				}
				if !yield(dr.Extent{Off: from, Len: to - from}, nil) {
					return
				}
				last = to
			}
			at = end
		}
	}
}

// tellsLost tells whether a fault says that the tracker can't answer, rather
// than that the question didn't get through.
func tellsLost(err error) bool {
	if !soap.IsSoapFault(err) {
		return false
	}
	switch soap.ToSoapFault(err).VimFault().(type) {
	case types.InvalidArgument, types.FileFault, types.FileNotFound, types.NotSupported, types.InvalidState, types.CannotAccessFile, types.FileLocked:
		return true
	}
	return false
}

// notLost passes over an answer that tracking can't give.
func notLost(err error) error {
	if errors.Is(err, dr.ErrChangesLost) {
		return nil
	}
	return err
}

// unchanged tells whether a stopped machine's disks are what they were at the
// cursors, by its tracker. Where that can't tell the answer is no.
func (v *VSphere) unchanged(ctx context.Context, m *machine, cursors map[dr.DiskID]dr.Cursor) (bool, error) {
	for _, d := range m.disks {
		cursor := cursors[d.id]
		if cursor == "" || epochOf(string(cursor)) != epochOf(d.changeID) {
			return false, nil
		}
		for _, err := range v.areas(ctx, m.ref, nil, d, string(cursor)) {
			return false, notLost(err)
		}
	}
	return true, nil
}

// changes tells what differs between an image's disk and an older point.
func (i *image) changes(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		stop := func(err error) {
			yield(dr.Extent{}, withPoint(fail("list changes", i.point.Machine.ID, id, -1, err), i.point.ID))
		}
		d, cursor, size, err := i.base(ctx, id, since)
		if err != nil {
			stop(err)
			return
		}
		last := dr.Extent{} // held back: what grew is joined to it
		for e, err := range i.v.areas(ctx, i.vm, &i.snapshot.ref, d, string(cursor)) {
			if err != nil {
				stop(err)
				return
			}
			if e.Off >= size { // the new part follows, whole
				break
			}
			if last.Len > 0 && !yield(last, nil) {
				return
			}
			last = e
		}
		if d.size > size {
			grown := dr.Extent{Off: max(size, last.End()), Len: d.size - max(size, last.End())}
			if last.Len > 0 && last.End() >= size {
				last.Len = d.size - last.Off
			} else {
				if last.Len > 0 && !yield(last, nil) {
					return
				}
				last = grown
			}
		}
		if last.Len > 0 {
			yield(last, nil)
		}
	}
}

// base finds the changeId of a disk at an older point, and the size it had.
func (i *image) base(ctx context.Context, id dr.DiskID, since dr.Point) (vdisk, dr.Cursor, int64, error) {
	if err := ctx.Err(); err != nil {
		return vdisk{}, "", 0, err
	}
	d, ok := i.disks[id]
	if !ok {
		return vdisk{}, "", 0, fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	}
	lost := func(why string) (vdisk, dr.Cursor, int64, error) {
		return vdisk{}, "", 0, fmt.Errorf("%w: %s", dr.ErrChangesLost, why)
	}
	t, ok := i.record.believes(d)
	if !ok {
		return lost("tracking was not active, or began above a snapshot")
	}
	// What a draft wrote comes first: the point's own cursors may be of
	// another machine, or of a time before.
	size := d.size
	if old, ok := since.Machine.Disk(id); ok {
		size = old.Size
	}
	e, ok := i.record.epoch(since.ID)
	cursor := e.Cursors[id]
	if !ok && since.Machine.ID == i.point.Machine.ID {
		cursor = since.Cursors[id]
	}
	switch {
	case cursor == "":
		return lost("nothing is known of that point here")
	case epochOf(string(cursor)) != epochOf(d.changeID):
		return lost("another epoch of tracking has begun since")
	case sequenceOf(string(cursor)) < t.From:
		return lost("disks were written since in a way that tracking may not have seen")
	case size > d.size:
		return lost("the disk has shrunk since")
	case (trust{Size: size}).outgrown(d.size):
		return lost("the disk has grown past a multiple of 128 GiB since, across which tracking loses writes")
	}
	return d, cursor, size, nil
}

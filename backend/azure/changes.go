package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Changes implements dr.ChangeTracker: what Azure tells to differ between two
// snapshots of a disk, "Get Page Ranges" with a previous snapshot's URL. Since
// points from before the last draft of the machine all of a disk is told: it is
// another managed disk, which has no history with the former.
func (i *image) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		at := int64(0)
		for e, err := range i.changes(ctx, disk, since) {
			if err != nil {
				yield(dr.Extent{}, fail("tell changes", i.id, disk, at, err))
				return
			}
			if !yield(e, nil) {
				return
			}
			at = e.End()
		}
	}
}

func (i *image) changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	fails := func(err error) iter.Seq2[dr.Extent, error] {
		return func(yield func(dr.Extent, error) bool) { yield(dr.Extent{}, err) }
	}
	if err := ctx.Err(); err != nil {
		return fails(err)
	}
	d, err := i.disk(disk)
	if err != nil {
		return fails(err)
	}
	r, _, err := i.a.load(ctx, i.id)
	if errors.Is(err, dr.ErrNotFound) {
		return fails(fmt.Errorf("%w: the machine has no record", dr.ErrChangesLost))
	}
	if err != nil {
		return fails(err)
	}
	from, known := r.since(since, disk)
	if !known {
		return fails(fmt.Errorf("%w: nothing is known of point %s", dr.ErrChangesLost, since.ID))
	}
	if from.Before == "" || from.Unique != d.Unique {
		return func(yield func(dr.Extent, error) bool) {
			if d.Size > 0 {
				yield(dr.Extent{Len: d.Size}, nil)
			}
		}
	}
	changes := i.a.diff(ctx, from.Before, d.After, d.Size)
	if d.Restore != "" {
		changes = unzeroed(changes)
	}
	return grown(changes, from.Size, d)
}

// unzeroed takes the word of a snapshot for what changed, but not for what is
// zero: the bytes are those of a restore point made a little earlier.
func unzeroed(changes iter.Seq2[dr.Extent, error]) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		for e, err := range changes {
			e.Zero = false
			if !yield(e, err) {
				return
			}
		}
	}
}

// since finds a disk's snapshot of a point; one without Before if the point is
// known by name only.
func (r *record) since(p dr.Point, disk dr.DiskID) (momentDisk, bool) {
	in := func(mo *moment) (momentDisk, bool) {
		for _, d := range mo.Disks {
			if d.ID == disk {
				return d, true
			}
		}
		return momentDisk{}, true // a disk that is new
	}
	if b := r.base(p.ID); b != nil {
		return in(b)
	}
	for i := range slices.Backward(r.Moments) {
		mo := &r.Moments[i]
		if mo.Point == p.ID && mo.Done && !mo.Gone && !mo.Base && p.Cursors[disk] == mo.cursor() {
			return in(mo)
		}
	}
	return momentDisk{}, slices.Contains(r.Older, p.ID)
}

// grown adds the part by which a disk has grown, which a comparison of pages
// leaves out where it was never written.
func grown(changes iter.Seq2[dr.Extent, error], had int64, d momentDisk) iter.Seq2[dr.Extent, error] {
	if had >= d.Size {
		return changes
	}
	return func(yield func(dr.Extent, error) bool) {
		for e, err := range changes {
			if err != nil {
				yield(e, err)
				return
			}
			if e.Off >= had {
				break
			}
			e.Len = min(e.End(), had) - e.Off
			if !yield(e, nil) {
				return
			}
		}
		yield(dr.Extent{Off: had, Len: d.Size - had}, nil)
	}
}

// diff yields what was written or cleared between two snapshots of a disk,
// ascending, of which cleared is zero. Snapshots that Azure can't compare, or
// that are gone, are dr.ErrChangesLost as the only element.
func (a *Azure) diff(ctx context.Context, from, to string, size int64) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		if from == to {
			return
		}
		begun, stopped, at := false, false, int64(0)
		err := a.grants.with(ctx, from, func(_ *pageblob.Client, prev string) error {
			return a.grants.with(ctx, to, func(c *pageblob.Client, _ string) error {
				return pagesBetween(ctx, c, prev, func(e dr.Extent) bool {
					e.Len = min(e.End(), size) - e.Off
					if e.Len <= 0 || e.Off < at {
						return true // asked again, by another address
					}
					begun, at = true, e.End()
					stopped = !yield(e, nil)
					return !stopped
				})
			})
		})
		if err == nil || stopped {
			return
		}
		if status, code := codeOf(err); !begun && (isNotFound(err) || status == http.StatusBadRequest || code == "BlobOverwritten" || code == "PreviousSnapshotCannotBeNewer" || code == "PreviousSnapshotNotFound") {
			err = fmt.Errorf("%w: Azure can't compare the disk's snapshots: %w", dr.ErrChangesLost, err)
		}
		yield(dr.Extent{}, err)
	}
}

// pagesBetween asks for the pages that differ, page of the answer by page.
func pagesBetween(ctx context.Context, c *pageblob.Client, prev string, each func(dr.Extent) bool) error {
	pager := c.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshotURL: &prev, MaxResults: to.Ptr(int32(10_000))})
	at := int64(0)
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		var list []dr.Extent
		for _, r := range page.PageRange {
			list = append(list, dr.Extent{Off: deref(r.Start), Len: deref(r.End) + 1 - deref(r.Start)})
		}
		for _, r := range page.ClearRange {
			list = append(list, dr.Extent{Off: deref(r.Start), Len: deref(r.End) + 1 - deref(r.Start), Zero: true})
		}
		slices.SortFunc(list, func(x, y dr.Extent) int { return cmp.Compare(x.Off, y.Off) })
		for _, e := range list {
			if e.Len <= 0 || e.Off < at {
				return fmt.Errorf("Azure tells of a changed range of %d bytes at %d behind one that ends at %d", e.Len, e.Off, at)
			}
			if !each(e) {
				return nil
			}
			at = e.End()
		}
	}
	return nil
}

package pageblob

import (
	"context"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// crossCheck fails if Azure tells of bytes that differ and that are not in l.
func (i *image) crossCheck(ctx context.Context, h *head, id dr.DiskID, from version, l []dr.Extent) error {
	n, _ := i.mf.disk(id)
	k, ok := from.mf.disk(id)
	if !ok || from.mf.Disks[k].Blob != i.mf.Disks[n].Blob || from.seq >= i.e.Seq {
		return nil // Azure compares later snapshots of a blob with earlier ones
	}
	told := pieces{}
	for _, e := range l {
		told.put(piece{off: e.Off, n: e.Len, seg: noSegment})
	}
	old, err := i.store.frozen(machineDir(i.m)+from.mf.Disks[k].Blob, from.mf.Disks[k].Snapshot, from.mf.Disks[k].Size)
	if err != nil {
		return err
	}
	f := i.disks[id]
	both := min(f.size, old.size)
	differ, err := pageDiff(ctx, f.pages, from.mf.Disks[k].Snapshot, both)
	if bloberror.HasCode(err, bloberror.BlobOverwritten) {
		return nil // a snapshot was copied over the blob between the two
	}
	if err != nil {
		return fmt.Errorf("cross-check: %w", err)
	}
	for _, d := range differ {
		for q, known := range told.within(d.off, min(d.end, both)) {
			for at := q.off; !known && at < q.end(); at += maxPages {
				a, b := make([]byte, min(maxPages, q.end()-at)), make([]byte, min(maxPages, q.end()-at))
				if err := f.readAt(ctx, a, at); err != nil {
					return err
				}
				if err := old.readAt(ctx, b, at); err != nil {
					return err
				}
				if string(a) != string(b) {
					return fmt.Errorf("%w: disk %q changed in [%d, %d) since point %s, which the records don't tell", dr.ErrCorrupt, id, at, at+int64(len(a)), from.mf.Point.ID)
				}
			}
		}
	}
	return nil
}

// pageDiff lists what of a snapshot's first n bytes Azure says was written or
// cleared since an earlier one of the same blob.
func pageDiff(ctx context.Context, c *pageblob.Client, since string, n int64) ([]span, error) {
	if n <= 0 {
		return nil, nil
	}
	n = (n + pageSize - 1) / pageSize * pageSize
	pager := c.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{
		PrevSnapshot: &since, Range: blob.HTTPRange{Count: n}, MaxResults: to.Ptr(int32(5000)),
	})
	var l []span
	add := func(from, to *int64) {
		if from != nil && to != nil && *from < n {
			l = append(l, span{*from, min(n, *to+1)})
		}
	}
	for pager.More() {
		p, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range p.PageRange {
			add(r.Start, r.End)
		}
		for _, r := range p.ClearRange {
			add(r.Start, r.End)
		}
	}
	return l, nil
}

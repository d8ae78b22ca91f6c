package azure

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// PageBlobs is an ability of images whose disks are snapshots of page blobs, as
// those of package pageblob are: the storage service copies them by itself.
type PageBlobs interface {
	// Blob returns the address of the snapshot that holds a disk as a fixed
	// VHD, and the size of that disk in bytes without the footer. false: the
	// disk is kept otherwise.
	Blob(disk dr.DiskID) (url string, size int64, ok bool)
}

// Adopt implements dr.Adopter for images that are [PageBlobs]: the storage
// service copies each snapshot to a blob of this machine, in a time that
// doesn't depend on how much is in it where both are of one account.
func (d *draft) Adopt(ctx context.Context, img dr.Image) (bool, error) {
	src, ok := dr.As[PageBlobs](img)
	if !ok {
		return false, nil
	}
	type source struct {
		rec diskRecord
		url string
	}
	var sources []source
	for _, want := range img.Point().Machine.Disks {
		rec := d.m.rec.disk(want.ID)
		if rec == nil || rec.Size != want.Size {
			return false, nil
		}
		url, size, ok := src.Blob(want.ID)
		if !ok || size != vhd.Padded(want.Size) {
			return false, nil
		}
		sources = append(sources, source{*rec, url})
	}
	d.mu.Lock()
	used := len(d.disks) > 0 || d.closed || d.done
	d.mu.Unlock()
	if used {
		return false, nil // part of it was written already
	}
	made := make([]*draftDisk, len(sources))
	err := d.a.all(ctx, len(sources), func(ctx context.Context, i int) error {
		x := &draftDisk{name: d.a.stagedName(d.m.id, sources[i].rec.ID, d.gen)}
		s, err := d.a.copyFrom(ctx, x.name, sources[i].url, sources[i].rec.Size, d.owner)
		if err != nil {
			return d.fail("adopt", sources[i].rec.ID, -1, err)
		}
		x.s = s
		made[i] = x
		return nil
	}, nil)
	if err != nil {
		for _, x := range sources { // a copy is of no use alone
			drop, cancel := grace(ctx)
			if err := d.a.drop(drop, d.a.stagedName(d.m.id, x.rec.ID, d.gen)); err != nil {
				d.a.opts.Log.Warn("a blob is left behind", "blob", d.a.stagedName(d.m.id, x.rec.ID, d.gen), "err", err)
			}
			cancel()
		}
		if errors.Is(err, errNoCopy) {
			d.a.opts.Log.Info("the storage service can't copy the point's snapshots; it is read and written", "machine", d.m.id, "why", err)
			return false, nil
		}
		return false, fmt.Errorf("copy snapshots: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, x := range made {
		d.disks[sources[i].rec.ID] = x
	}
	return true, nil
}

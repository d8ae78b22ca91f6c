package vault

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var _ dr.Packer = (*draft)(nil)

// Packed tells from the maps what chunks are kept in. A vault that is opened not to compress knows nothing of those that
// it keeps as they are.
func (d *draft) Packed(ctx context.Context, disk dr.DiskID, off int64, sizes []int32) error {
	m, err := d.begin(ctx, "packed size", disk, 0, 0)
	if err != nil {
		return err
	}
	if err := checkSums(m.size, off, len(sizes)); err != nil {
		return d.fail("packed size", disk, off, err)
	}
	for len(sizes) > 0 {
		chunk := off / chunkSize
		n := min(int64(len(sizes)), pageRefs-int64(slot(chunk, 0)))
		err := d.maps.view(ctx, m, chunk, chunk+n, func(refs []ref) {
			for i := range refs {
				sizes[i] = int32(refs[i].len.stored())
				if refs[i].isZero() {
					sizes[i] = 0
				} else if refs[i].len.codec() == Raw && d.store.codec == Raw {
					sizes[i] = -1
				}
			}
		})
		if err != nil {
			return d.fail("packed size", disk, off, err)
		}
		sizes, off = sizes[n:], off+n*chunkSize
	}
	return nil
}

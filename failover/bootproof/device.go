package bootproof

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// device is a disk of an image as NBD reads it.
type device struct {
	img  dr.Image
	disk dr.Disk
	read *atomic.Int64 // bytes, of all disks
	fail func(error)   // told of what can't be read: no proof survives it
}

// summedDevice also knows where zeros are, so that they needn't be read. It asks
// for sums rather than for the image's map, which is told from the disk's
// beginning only.
type summedDevice struct {
	device
	sums dr.Summer
}

var _ nbd.Mapper = summedDevice{}

func newDevice(d device) nbd.Device {
	if s, ok := dr.As[dr.Summer](d.img); ok {
		return summedDevice{d, s}
	}
	return d
}

// Size implements nbd.Device.
func (d device) Size() int64 { return d.disk.Size }

// ReadAt implements nbd.Device.
func (d device) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := d.img.ReadAt(ctx, d.disk.ID, p, off)
	d.read.Add(int64(n))
	if err != nil && !(errors.Is(err, io.EOF) && n == len(p)) && ctx.Err() == nil {
		d.fail(err)
	}
	return n, err
}

// Extents implements nbd.Mapper.
func (d summedDevice) Extents(ctx context.Context, off, n int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		end := off + n
		row := nbd.Extent{Off: off - off%dr.SumBlock}
		for at := row.Off; at < end; at = row.Off + row.Len {
			sums := make([]dr.Sum, min(512, (end-at+dr.SumBlock-1)/dr.SumBlock))
			if err := d.sums.Sums(ctx, d.disk.ID, at, sums); err != nil {
				if ctx.Err() == nil {
					d.fail(err)
				}
				yield(nbd.Extent{}, err)
				return
			}
			for _, sum := range sums {
				zero := sum.IsZero()
				if row.Len > 0 && zero != row.Zero {
					if !yield(row, nil) {
						return
					}
					row = nbd.Extent{Off: row.Off + row.Len}
				}
				row.Zero, row.Hole = zero, zero
				row.Len = min(row.Off+row.Len+dr.SumBlock, d.disk.Size) - row.Off
			}
		}
		if row.Len > 0 {
			yield(row, nil)
		}
	}
}

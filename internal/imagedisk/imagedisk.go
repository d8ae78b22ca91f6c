// Package imagedisk lets NBD read a disk of an image, such as an opened recovery
// point: it adapts package dr's images to internal/nbd's devices, and knows of
// nothing else.
package imagedisk

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// Options watch what is read; the zero value watches nothing. The functions are
// called by many goroutines at once.
type Options struct {
	Read   func(n int)     // so many bytes were read
	Failed func(err error) // the image can't be read; not that a reader gave up
}

// New is a disk of img. If the image is a dr.Summer the device also tells where
// zeros are, so that clients needn't read them. It asks for sums rather than for
// the image's map, because that is told from the disk's beginning only.
func New(img dr.Image, disk dr.Disk, o Options) nbd.Device {
	if o.Read == nil {
		o.Read = func(int) {}
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	d := device{img, disk, o}
	if s, ok := dr.As[dr.Summer](img); ok {
		return summed{d, s}
	}
	return d
}

type device struct {
	img  dr.Image
	disk dr.Disk
	o    Options
}

type summed struct {
	device
	sums dr.Summer
}

var _ nbd.Mapper = summed{}

// Size implements nbd.Device.
func (d device) Size() int64 { return d.disk.Size }

// ReadAt implements nbd.Device.
func (d device) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := d.img.ReadAt(ctx, d.disk.ID, p, off)
	d.o.Read(n)
	if err != nil && !(errors.Is(err, io.EOF) && n == len(p)) && ctx.Err() == nil {
		d.o.Failed(err)
	}
	return n, err
}

// Extents implements nbd.Mapper.
func (d summed) Extents(ctx context.Context, off, n int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		end := off + n
		row := nbd.Extent{Off: off - off%dr.SumBlock}
		for at := row.Off; at < end; at = row.Off + row.Len {
			sums := make([]dr.Sum, min(512, (end-at+dr.SumBlock-1)/dr.SumBlock))
			if err := d.sums.Sums(ctx, d.disk.ID, at, sums); err != nil {
				if ctx.Err() == nil {
					d.o.Failed(err)
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

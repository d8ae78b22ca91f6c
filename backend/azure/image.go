package azure

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// image is a moment of a machine, read from its snapshots.
type image struct {
	a     *Azure
	id    dr.MachineID
	mo    moment
	point dr.Point

	mu     sync.Mutex
	closed bool
	held   map[string]func() // addresses that are kept until Close
}

func (a *Azure) image(m *machine, mo moment) (dr.Image, error) {
	if mo.Machine == nil {
		return nil, fmt.Errorf("%w: the record of point %s lacks the machine", dr.ErrCorrupt, mo.Point)
	}
	p := dr.Point{ID: mo.Point, Machine: *mo.Machine, Time: mo.Time, Consistency: mo.Consistency, Cursors: map[dr.DiskID]dr.Cursor{}}
	p.Machine.ID = m.id
	for _, d := range mo.Disks {
		p.Cursors[d.ID] = mo.cursor()
	}
	return &image{a: a, id: m.id, mo: mo, point: p, held: map[string]func(){}}, nil
}

// cursor names the attempt: its snapshots are found by the record.
func (m moment) cursor() dr.Cursor { return dr.Cursor("azure:" + m.Attempt) }

// Point implements dr.Image.
func (i *image) Point() dr.Point { return i.point }

func (i *image) disk(id dr.DiskID) (momentDisk, error) {
	for _, d := range i.mo.Disks {
		if d.ID == id {
			return d, nil
		}
	}
	return momentDisk{}, fmt.Errorf("%w: the point has no such disk", dr.ErrNotFound)
}

// bytes is what a disk is read from.
func (d momentDisk) bytes() string {
	if d.Restore != "" {
		return d.Restore
	}
	return d.Before
}

// hold keeps an address until Close, so that it is granted once only.
func (i *image) hold(ctx context.Context, name string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return errImageClosed
	}
	if i.held[name] != nil {
		return nil
	}
	_, done, err := i.a.grants.snapshot(ctx, name)
	if err == nil {
		i.held[name] = done
	}
	return err
}

var errImageClosed = fmt.Errorf("%w: the image is closed", dr.ErrInvalid)

// ReadAt implements dr.Image.
func (i *image) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	n, err := i.read(ctx, disk, p, off)
	if err == io.EOF {
		return n, err
	}
	return n, fail("read", i.id, disk, off, err)
}

func (i *image) read(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	d, err := i.disk(disk)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, dr.ErrOutOfRange
	}
	if off >= d.Size {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.Size-off
	if short {
		p = p[:d.Size-off]
	}
	if err := i.hold(ctx, d.bytes()); err != nil {
		return 0, err
	}
	if err := i.a.grants.read(ctx, d.bytes(), p, off); err != nil {
		return 0, err
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// Extents implements dr.Mapper.
func (i *image) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := i.disk(disk)
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = i.hold(ctx, d.bytes())
		}
		if err != nil {
			yield(dr.Extent{}, fail("map", i.id, disk, -1, err))
			return
		}
		at := int64(0)
		for r, err := range i.a.written(ctx, d.bytes()) {
			if err != nil {
				yield(dr.Extent{}, fail("map", i.id, disk, at, err))
				return
			}
			r.Len = min(r.End(), d.Size) - r.Off
			if r.Len <= 0 {
				break
			}
			if r.Off > at && !yield(dr.Extent{Off: at, Len: r.Off - at, Zero: true}, nil) {
				return
			}
			if !yield(r, nil) {
				return
			}
			at = r.End()
		}
		if at < d.Size {
			yield(dr.Extent{Off: at, Len: d.Size - at, Zero: true}, nil)
		}
	}
}

// written yields what is written of a snapshot, ascending.
func (a *Azure) written(ctx context.Context, name string) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		stopped, at := false, int64(0)
		err := a.grants.with(ctx, name, func(c *pageblob.Client, _ string) error {
			pager := c.NewGetPageRangesPager(nil)
			for pager.More() && !stopped {
				page, err := pager.NextPage(ctx)
				if err != nil {
					return err
				}
				for _, r := range page.PageRange {
					e := dr.Extent{Off: deref(r.Start), Len: deref(r.End) + 1 - deref(r.Start)}
					if e.Len <= 0 || e.Off < at {
						continue // asked again, by another address
					}
					at = e.End()
					if !yield(e, nil) {
						stopped = true
						break
					}
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(dr.Extent{}, err)
		}
	}
}

// Close implements dr.Image: it revokes what the image was read by.
func (i *image) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	for _, d := range i.mo.Disks {
		if done := i.held[d.bytes()]; done != nil {
			done()
		}
	}
	clear(i.held)
	return nil
}

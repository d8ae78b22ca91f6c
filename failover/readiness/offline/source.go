package offline

import (
	"container/list"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Pages are what is read at once: the vault's chunks have this size.
const (
	pageSize = 64 << 10
	maxPages = 128
)

// budget bounds what is read of an image in all.
type budget struct {
	mu         sync.Mutex
	left, read int64
}

func (b *budget) take(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return fmt.Errorf("%w: more than %d bytes would have to be read", dr.ErrUnsupported, b.read+b.left)
	}
	b.left -= n
	b.read += n
	return nil
}

// disk is one disk of an image as an io.ReaderAt, with the last pages kept.
// It is safe for concurrent use.
type disk struct {
	ctx    context.Context
	img    dr.Image
	id     dr.DiskID
	size   int64
	budget *budget

	mu    sync.Mutex
	pages map[int64]*list.Element
	order list.List // of page, the newest first
}

type page struct {
	at   int64
	data []byte
}

func newDisk(ctx context.Context, img dr.Image, d dr.Disk, b *budget) *disk {
	return &disk{ctx: ctx, img: img, id: d.ID, size: d.Size, budget: b, pages: map[int64]*list.Element{}}
}

// ReadAt reads as io.ReaderAt does.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at < 0 || at >= d.size {
			return done, io.EOF
		}
		data, err := d.page(at / pageSize)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], data[at%pageSize:])
	}
	return done, nil
}

func (d *disk) page(at int64) ([]byte, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.pages[at]; ok {
		d.order.MoveToFront(e)
		return e.Value.(page).data, nil
	}
	data := make([]byte, min(pageSize, d.size-at*pageSize))
	if err := d.budget.take(int64(len(data))); err != nil {
		return nil, err
	}
	if n, err := d.img.ReadAt(d.ctx, d.id, data, at*pageSize); n < len(data) {
		return nil, &dr.Error{Op: "read", Side: dr.StoreSide, Point: d.img.Point().ID, Disk: d.id, Off: at * pageSize, Err: err}
	}
	d.pages[at] = d.order.PushFront(page{at, data})
	if d.order.Len() > maxPages {
		last := d.order.Back()
		delete(d.pages, d.order.Remove(last).(page).at)
	}
	return data, nil
}

package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// openDisks are the disks of an image or a draft, each opened when it is first
// needed.
type openDisks struct {
	v *HyperV
	// locate finds a disk's file anew, after one failed; nil: it is where it
	// was.
	locate func(ctx context.Context, disk dr.DiskID) (*node, string, error)
	disks  map[dr.DiskID]*openDisk

	mu     sync.Mutex
	closed bool
}

// openDisk is one of them.
type openDisk struct {
	size  int64
	write bool

	mu    sync.RWMutex // held for reading while the file is used
	node  *node
	path  string
	file  host.Disk // nil: not open
	moved bool      // it was opened anew once
}

func newOpenDisks(v *HyperV, locate func(ctx context.Context, disk dr.DiskID) (*node, string, error)) *openDisks {
	return &openDisks{v: v, locate: locate, disks: map[dr.DiskID]*openDisk{}}
}

func (o *openDisks) add(id dr.DiskID, n *node, path string, size int64) {
	o.disks[id] = &openDisk{node: n, path: path, size: size}
}

// lend opens a disk unless it is open, and lends it to f.
func (o *openDisks) lend(ctx context.Context, id dr.DiskID, f func(host.Disk) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, ok := o.disks[id]
	if !ok {
		return errNoDisk
	}
	for {
		d.mu.RLock()
		if d.file != nil {
			defer d.mu.RUnlock()
			return f(d.file)
		}
		d.mu.RUnlock()
		if err := o.openFile(ctx, id, d); err != nil {
			return err
		}
	}
}

func (o *openDisks) openFile(ctx context.Context, id dr.DiskID, d *openDisk) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		return fmt.Errorf("%w: it is closed", dr.ErrInvalid)
	}
	if d.file != nil {
		return nil
	}
	f, err := d.node.disks.Open(ctx, d.path, d.write)
	if err != nil && o.locate != nil && !d.write && ctx.Err() == nil {
		n, path, lost := o.locate(ctx, id)
		if lost != nil {
			return errors.Join(err, lost)
		}
		d.node, d.path = n, path
		f, err = n.disks.Open(ctx, path, false)
	}
	if err != nil {
		return err
	}
	if f.Size() < d.size {
		return errors.Join(fmt.Errorf("%w: the disk has %d bytes, and had %d", dr.ErrConflict, f.Size(), d.size), f.Close())
	}
	d.file = f
	return nil
}

// readAt reads as io.ReaderAt does. A file that can't be read any more is looked
// for once again: its machine may have moved.
func (o *openDisks) readAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (n int, err error) {
	d, ok := o.disks[id]
	switch {
	case !ok:
		return 0, errNoDisk
	case off < 0:
		return 0, fmt.Errorf("%w: offset %d", dr.ErrInvalid, off)
	case off >= d.size:
		return 0, io.EOF
	}
	want := p
	if int64(len(p)) > d.size-off {
		want = p[:d.size-off]
	}
	for again := false; ; again = true {
		err = o.lend(ctx, id, func(f host.Disk) error {
			n, err = f.ReadAt(want, off)
			if n == len(want) {
				err = nil
			}
			return err
		})
		if err == nil || again || ctx.Err() != nil || o.locate == nil || !o.reopen(ctx, id, d) {
			break
		}
	}
	if err == nil && len(want) < len(p) {
		err = io.EOF
	} else if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// reopen looks for a disk's file anew, once.
func (o *openDisks) reopen(ctx context.Context, id dr.DiskID, d *openDisk) bool {
	n, path, err := o.locate(ctx, id)
	if err != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moved {
		return d.file != nil // another reader has
	}
	d.moved = true
	if d.file != nil {
		_ = d.file.Close() // it failed already
		d.file = nil
	}
	d.node, d.path = n, path
	return true
}

// sums reads blocks and sums them.
func (o *openDisks) sums(ctx context.Context, id dr.DiskID, off int64, sums []dr.Sum) error {
	d, ok := o.disks[id]
	if !ok {
		return errNoDisk
	}
	buf := o.v.buffers.Get()
	defer o.v.buffers.Put(buf)
	return blocksum.Read(d.size, off, sums, buf, func(p []byte, off int64) (int, error) { return o.readAt(ctx, id, p, off) })
}

// flush makes what was written durable.
func (o *openDisks) flush(ctx context.Context) error {
	for _, d := range o.disks {
		if err := ctx.Err(); err != nil {
			return err
		}
		d.mu.RLock()
		f := d.file
		var err error
		if f != nil {
			err = f.Flush()
		}
		d.mu.RUnlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// shut closes the files; they may be opened again.
func (o *openDisks) shut() error {
	var err error
	for _, d := range o.disks {
		d.mu.Lock()
		if d.file != nil {
			err = errors.Join(err, d.file.Close())
			d.file = nil
		}
		d.mu.Unlock()
	}
	return err
}

// close closes the files for good. A second call does nothing.
func (o *openDisks) close() error {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	return o.shut()
}

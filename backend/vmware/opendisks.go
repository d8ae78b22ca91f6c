package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// openDisks are the disks of one image or draft, opened when they are first
// used. Places are scarce: while others wait for one, whoever needs another
// closes a disk of its own that nobody uses at the moment, so that machines
// with more disks than there are places go on, and don't wait for each other.
type openDisks struct {
	v     *VSphere
	refs  map[dr.DiskID]diskRef // not changed any more
	write bool

	mu     sync.Mutex
	open   map[dr.DiskID]*openDisk
	closed bool
	broken error         // a disk that was written couldn't be made durable
	idle   chan struct{} // closed and replaced when a disk may have become idle
}

type openDisk struct {
	dev     device
	err     error
	users   int
	ready   chan struct{} // closed when dev or err is there
	written bool          // since the last flush
}

func newOpenDisks(v *VSphere, write bool) *openDisks {
	return &openDisks{v: v, refs: map[dr.DiskID]diskRef{}, write: write, open: map[dr.DiskID]*openDisk{}, idle: make(chan struct{})}
}

var errClosed = fmt.Errorf("%w: it is closed", dr.ErrInvalid)

// use lends a disk, opened if need be, until done is called.
func (o *openDisks) use(ctx context.Context, disk dr.DiskID) (dev device, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	ref, ok := o.refs[disk]
	if !ok {
		return nil, nil, fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	}
	for {
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			return nil, nil, errClosed
		}
		d, ok := o.open[disk]
		if !ok {
			d = &openDisk{ready: make(chan struct{})}
			o.open[disk] = d
		}
		d.users++
		o.mu.Unlock()
		if !ok {
			o.opening(ctx, ref, d)
		}
		select {
		case <-d.ready:
		case <-ctx.Done():
			o.done(d)
			return nil, nil, ctx.Err()
		}
		if d.err == nil {
			return d.dev, func() { o.done(d) }, nil
		}
		o.done(d)
		if errors.Is(d.err, errGivenUp) && ctx.Err() == nil {
			continue // whoever opened it was cancelled; we were not
		}
		return nil, nil, d.err
	}
}

// errGivenUp says that whoever was opening the disk had no more time.
var errGivenUp = errors.New("opening was given up")

func (o *openDisks) opening(ctx context.Context, ref diskRef, d *openDisk) {
	leave, err := o.place(ctx, ref)
	var dev device
	if err == nil {
		dev, err = o.v.open(ctx, ref, o.write, leave)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", errGivenUp, ctx.Err())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if d.dev, d.err = dev, err; err != nil && o.open[ref.disk] == d {
		delete(o.open, ref.disk)
	}
	close(d.ready) // a close that came meanwhile waits for it
}

// place takes one of the scarce places.
func (o *openDisks) place(ctx context.Context, ref diskRef) (leave func(), err error) {
	for {
		if leave := o.v.limits.try(ref.host); leave != nil {
			return leave, nil
		}
		o.mu.Lock()
		idle := o.idle
		o.mu.Unlock()
		if closed, err := o.closeIdle(ctx); err != nil {
			return nil, err
		} else if closed {
			continue
		}
		// Wait for a place, or for a disk of our own that could give its.
		wait, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-idle:
				cancel()
			case <-wait.Done():
			}
		}()
		leave, err := o.v.limits.enter(wait, ref.host)
		cancel()
		if err == nil {
			return leave, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// closeIdle closes one disk that nobody uses, after making it durable.
func (o *openDisks) closeIdle(ctx context.Context) (bool, error) {
	o.mu.Lock()
	for id, d := range o.open {
		if d.dev == nil || d.users > 0 {
			continue
		}
		delete(o.open, id) // who needs it opens it anew
		o.mu.Unlock()
		err := o.end(ctx, d)
		if err != nil {
			o.mu.Lock()
			o.broken = errors.Join(o.broken, err)
			o.mu.Unlock()
		}
		return true, err
	}
	o.mu.Unlock()
	return false, nil
}

// end makes a disk durable and closes it.
func (o *openDisks) end(ctx context.Context, d *openDisk) error {
	var err error
	if w, ok := dr.As[writable](d.dev); ok && d.written {
		err = w.Flush(ctx)
	}
	if cl := d.dev.Close(); o.write {
		err = errors.Join(err, cl)
	}
	return err
}

func (o *openDisks) done(d *openDisk) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d.users--; d.users == 0 {
		close(o.idle)
		o.idle = make(chan struct{})
	}
}

// readAt has the rules of dr.Image's ReadAt.
func (o *openDisks) readAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	ref, ok := o.refs[disk]
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	case off < 0:
		return 0, fmt.Errorf("%w: offset %d", dr.ErrInvalid, off)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	short := off > ref.size || int64(len(p)) > ref.size-off
	if short {
		p = p[:max(0, ref.size-off)]
	}
	if len(p) > 0 {
		dev, done, err := o.use(ctx, disk)
		if err != nil {
			return 0, err
		}
		n, err := dev.ReadAt(ctx, p, off)
		done()
		if n < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// flush makes everything durable that was written, also by disks that were
// closed since. It must not run together with writes.
func (o *openDisks) flush(ctx context.Context) error {
	o.mu.Lock()
	err := o.broken
	var all []*openDisk
	for _, d := range o.open {
		if d.dev != nil {
			all = append(all, d)
		}
	}
	o.mu.Unlock()
	if err != nil {
		return fmt.Errorf("what was written may be lost: %w", err)
	}
	for _, d := range all {
		if w, ok := dr.As[writable](d.dev); ok && d.written {
			if err := w.Flush(ctx); err != nil {
				return err
			}
			d.written = false
		}
	}
	return nil
}

// wrote notes that a disk was written to.
func (o *openDisks) wrote(disk dr.DiskID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.open[disk]; d != nil {
		d.written = true
	}
}

// shut closes every disk, and lets them be opened again.
func (o *openDisks) shut() error {
	o.mu.Lock()
	all := o.open
	o.open = map[dr.DiskID]*openDisk{}
	o.mu.Unlock()
	var err error
	for _, d := range all {
		<-d.ready
		if d.dev != nil {
			err = errors.Join(err, d.dev.Close())
		}
	}
	if !o.write {
		return nil
	}
	return err
}

// close closes all, for good. A second close is a no-op.
func (o *openDisks) close(ctx context.Context) error {
	o.mu.Lock()
	was := o.closed
	o.closed = true
	o.mu.Unlock()
	if was {
		return nil
	}
	return o.shut()
}

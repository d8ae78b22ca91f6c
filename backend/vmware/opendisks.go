package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// openDisks are the disks of one image or draft, opened when they are first
// used. Places are scarce: whoever needs one and finds none closes a disk that
// nobody uses at the moment, its own or, after a while, another's. So machines
// with more disks than there are places go on, and a copy whose two ends are
// bounded by the same limits doesn't wait for itself.
type openDisks struct {
	v          *VSphere
	refs       map[dr.DiskID]diskRef // not changed any more
	write      bool
	life       context.Context // ends when it is closed, and ends what is under way
	end        context.CancelFunc
	unregister func()

	mu     sync.Mutex
	moved  *sync.Cond // a disk was opened, closed, or has become idle
	open   map[dr.DiskID]*openDisk
	closed bool
	broken error // a disk that was written couldn't be made durable
	left   error // a disk that was durable couldn't be closed well
}

type openDisk struct {
	dev     device
	err     error
	users   int
	idle    time.Time     // since when it has no users
	ready   chan struct{} // closed when dev or err is there
	gone    chan struct{} // not nil once it is being closed, closed when it is
	written bool          // since the last flush
}

func newOpenDisks(v *VSphere, write bool) *openDisks {
	o := &openDisks{v: v, refs: map[dr.DiskID]diskRef{}, write: write, open: map[dr.DiskID]*openDisk{}}
	o.life, o.end = context.WithCancel(context.Background())
	o.moved = sync.NewCond(&o.mu)
	o.unregister = v.limits.register(o)
	return o
}

var errClosed = fmt.Errorf("%w: it is closed", dr.ErrInvalid)

// lend lends a disk, opened if need be, to f. Nobody may keep a disk while
// waiting for another, or for somebody who may need one.
func (o *openDisks) lend(ctx context.Context, disk dr.DiskID, f func(context.Context, device) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ours, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.life, cancel)()
	d, err := o.use(ours, disk)
	if err == nil {
		err = f(ours, d.dev)
		o.done(d)
	}
	if err != nil && ctx.Err() == nil && o.life.Err() != nil {
		return errClosed
	}
	return err
}

// use waits until a disk is open. done must follow.
func (o *openDisks) use(ctx context.Context, disk dr.DiskID) (*openDisk, error) {
	ref, ok := o.refs[disk]
	if !ok {
		return nil, fmt.Errorf("%w: the machine has no such disk", dr.ErrNotFound)
	}
	for {
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			return nil, errClosed
		}
		d, ok := o.open[disk]
		if ok && d.gone != nil {
			o.mu.Unlock()
			// It must be closed before it is opened anew: whoever writes has it
			// locked, and may have something to make durable.
			select {
			case <-d.gone:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
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
			return nil, ctx.Err()
		}
		if d.err == nil {
			return d, nil
		}
		o.done(d)
		if errors.Is(d.err, errGivenUp) && ctx.Err() == nil {
			continue // whoever opened it was cancelled; we were not
		}
		return nil, d.err
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
	if d.dev, d.err = dev, err; err != nil {
		delete(o.open, ref.disk)
	}
	close(d.ready)
	o.moved.Broadcast()
}

func (o *openDisks) done(d *openDisk) {
	o.mu.Lock()
	d.users--
	idle := d.users == 0
	if idle {
		d.idle = time.Now()
		o.moved.Broadcast()
	}
	o.mu.Unlock()
	if idle {
		o.v.limits.idled()
	}
}

// grace is how long another's disk must have been idle before it is closed to
// make room: reopening may cost a stream that is read from its beginning.
const grace = 100 * time.Millisecond

// place takes one of the scarce places. It stays in the line of those who wait,
// and makes room meanwhile.
func (o *openDisks) place(ctx context.Context, ref diskRef) (leave func(), err error) {
	l := o.v.limits
	if leave := l.try(ref.host); leave != nil {
		return leave, nil
	}
	defer l.wait()()
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	type place struct {
		leave func()
		err   error
	}
	got := make(chan place, 1)
	go func() {
		leave, err := l.enter(wait, ref.host)
		got <- place{leave, err}
	}()
	look := time.NewTicker(grace)
	defer look.Stop()
	for {
		idle := l.nextIdle()
		if err := o.makeRoom(ctx, ref); err != nil {
			cancel()
			if p := <-got; p.err == nil {
				p.leave()
			}
			return nil, err
		}
		select {
		case p := <-got:
			if p.err != nil && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return p.leave, p.err
		case <-idle:
		case <-look.C:
		}
	}
}

// makeRoom closes one idle disk, if there is one: of the same host rather than
// of another, ours rather than another's.
func (o *openDisks) makeRoom(ctx context.Context, ref diskRef) error {
	sets := o.v.limits.registered(o)
	for _, near := range []bool{true, false} {
		for _, s := range sets {
			least := grace
			if s == o {
				least = 0
			}
			closing := s.closeIdle(ctx, func(id dr.DiskID, d *openDisk) bool {
				return (s.refs[id].host == ref.host) == near && time.Since(d.idle) >= least
			})
			if closing == nil {
				continue
			}
			select {
			case <-closing:
			case <-ctx.Done():
				return ctx.Err()
			}
			if s == o {
				return o.failed()
			}
			return nil
		}
	}
	return nil
}

// patience is how long a disk that is closed to make room has to become
// durable.
const patience = 2 * time.Minute

// closeIdle begins to close one disk that nobody uses, after making it durable.
// It returns nil if there is none, else what is closed when that is over. It
// doesn't end with ctx: the disk may be another's.
func (o *openDisks) closeIdle(ctx context.Context, which func(dr.DiskID, *openDisk) bool) (over <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, d := range o.open {
		if d.dev == nil || d.users > 0 || d.gone != nil || !which(id, d) {
			continue
		}
		d.gone = make(chan struct{})
		go func() {
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			var err error
			if w, ok := dr.As[writable](d.dev); ok && d.written {
				err = w.Flush(limit)
			}
			o.closeDisk(id, d, err)
		}()
		return d.gone
	}
	return nil
}

// closeDisk closes a disk whose gone is set; unsaved says that what was written
// to it is not known to be durable.
func (o *openDisks) closeDisk(id dr.DiskID, d *openDisk, unsaved error) {
	err := d.dev.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, id)
	o.broken = errors.Join(o.broken, unsaved)
	if o.write {
		o.left = errors.Join(o.left, err)
	}
	close(d.gone)
	o.moved.Broadcast()
}

func (o *openDisks) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken != nil {
		return fmt.Errorf("what was written may be lost: %w", o.broken)
	}
	return nil
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
		n := 0
		err := o.lend(ctx, disk, func(ctx context.Context, dev device) (err error) {
			n, err = dev.ReadAt(ctx, p, off)
			return err
		})
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
	defer context.AfterFunc(ctx, o.wake)()
	o.mu.Lock()
	var written []dr.DiskID
	for id := range o.open {
		for o.open[id] != nil && o.open[id].gone != nil && ctx.Err() == nil {
			o.moved.Wait() // it is being made durable by whoever closes it
		}
		if d := o.open[id]; d != nil && d.written {
			written = append(written, id)
		}
	}
	o.mu.Unlock()
	for _, id := range written {
		err := o.lend(ctx, id, func(ctx context.Context, dev device) error {
			o.mu.Lock()
			d := o.open[id]
			still := d != nil && d.written
			o.mu.Unlock()
			if w, ok := dr.As[writable](dev); ok && still {
				if err := w.Flush(ctx); err != nil {
					return err
				}
				o.mu.Lock()
				d.written = false
				o.mu.Unlock()
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return o.failed()
}

func (o *openDisks) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.moved.Broadcast()
}

// wrote notes that a disk was written to.
func (o *openDisks) wrote(disk dr.DiskID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.open[disk]; d != nil {
		d.written = true
	}
}

// shut closes every disk once nobody uses it, and lets them be opened again. It
// flushes nothing.
func (o *openDisks) shut() error {
	o.mu.Lock()
	for len(o.open) > 0 {
		busy := true
		for id, d := range o.open {
			if d.dev == nil || d.users > 0 || d.gone != nil {
				continue
			}
			d.gone = make(chan struct{})
			o.mu.Unlock()
			o.closeDisk(id, d, nil)
			o.mu.Lock()
			busy = false
			break
		}
		if busy {
			o.moved.Wait()
		}
	}
	err := o.left
	o.left = nil
	o.mu.Unlock()
	return err
}

// close closes all, for good; calls under way end with errors. A second close
// is a no-op.
func (o *openDisks) close() error {
	o.mu.Lock()
	was := o.closed
	o.closed = true
	o.mu.Unlock()
	if was {
		return nil
	}
	o.end()
	o.unregister()
	return o.shut()
}

package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// image is one that is open at the agent.
type image struct {
	c       *Client
	a       argument // of its Capture
	settles bool
	chain   any

	mu    sync.Mutex
	point dr.Point
	shut  bool
	dead  error // why it can't be opened again

	turn   chan struct{} // guards what follows
	w      *wire
	handle uint64
}

func newImage(c *Client, a argument, w *wire, o opened) *image {
	i := &image{c: c, a: a, point: o.Point, w: w, handle: o.Handle, turn: make(chan struct{}, 1)}
	i.settles = slices.Contains(o.Abilities, canSettle)
	add := func(name string, make func(ofImage) any) {
		if slices.Contains(o.Abilities, name) {
			i.chain = make(ofImage{link{i.chain}, i})
		}
	}
	add(canChanges, func(o ofImage) any { return changeTracker{o} })
	add(canExtents, func(o ofImage) any { return mapper{o} })
	add(canSettle, func(o ofImage) any { return settler{o} })
	add(canLinger, func(o ofImage) any { return lingerer{o} })
	add(canSums, func(o ofImage) any { return imageSummer{o} })
	return i
}

type ofImage struct {
	link
	i *image
}

type (
	changeTracker struct{ ofImage }
	mapper        struct{ ofImage }
	settler       struct{ ofImage }
	lingerer      struct{ ofImage }
	imageSummer   struct{ ofImage }
)

// Unwrap shows the image's abilities to dr.As.
func (i *image) Unwrap() any { return i.chain }

func (i *image) Point() dr.Point {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.point
	p.Cursors = maps.Clone(p.Cursors)
	return p
}

// attach returns where the image is open, and opens it again if need be.
func (i *image) attach(ctx context.Context) (*wire, uint64, error) {
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	i.mu.Lock()
	shut, dead := i.shut, i.dead
	i.mu.Unlock()
	switch {
	case shut:
		return nil, 0, fs.ErrClosed
	case dead != nil:
		return nil, 0, dead
	case i.w.alive():
		return i.w, i.handle, nil
	case i.settles:
		return nil, 0, i.die(fmt.Errorf("%w: what was read of a machine that runs on is of no moment: %w", dr.ErrNotConsistent, i.w.lostErr()))
	}
	w, err := i.c.wire(ctx)
	if err != nil {
		return nil, 0, err
	}
	o, err := ask[opened](ctx, w, agentwire.OpCapture, 0, i.a)
	if err != nil {
		return nil, 0, err
	}
	was := i.Point()
	if now := o.Point; now.ID != was.ID || !now.Time.Equal(was.Time) || !maps.Equal(now.Cursors, was.Cursors) || slices.Contains(o.Abilities, canSettle) {
		_, _ = ask[any](ctx, w, agentwire.OpClose, o.Handle, argument{})
		return nil, 0, i.die(fmt.Errorf("%w: the moment of %v is gone: under its name the agent has now one of %v",
			dr.ErrNotConsistent, was.Time.Format(time.RFC3339Nano), now.Time.Format(time.RFC3339Nano)))
	}
	i.w, i.handle = w, o.Handle
	i.c.o.Log.Info("an image was opened again", "machine", i.a.Machine, "point", i.a.Name)
	return w, o.Handle, nil
}

func (i *image) die(err error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dead = err
	return err
}

// do makes a call of the image, as often as it takes. f may be repeated.
func (i *image) do(ctx context.Context, op agentwire.Op, disk dr.DiskID, off int64, f func(w *wire, handle uint64) error) error {
	var p pause
	p.begin(i.c.o.Patience)
	for {
		w, h, err := i.attach(ctx)
		if err == nil {
			begun := time.Now()
			err = f(w, h)
			p.spent(begun)
		}
		if passes(err) && p.wait(ctx) {
			continue
		}
		return i.place(op, disk, off, err)
	}
}

func (i *image) place(op agentwire.Op, disk dr.DiskID, off int64, err error) error {
	return place(op, i.a.Machine, i.a.Name, disk, off, err)
}

// Close implements dr.Image. Where the connection is lost the agent has closed
// it.
func (i *image) Close() error {
	i.mu.Lock()
	shut := i.shut
	i.shut = true
	i.mu.Unlock()
	if shut {
		return nil
	}
	i.turn <- struct{}{}
	defer func() { <-i.turn }()
	return i.place(agentwire.OpClose, "", -1, closeHandle(i.w, i.handle))
}

// closeTime is how long closing may take: a machine may have to be thawed.
const closeTime = time.Minute

func closeHandle(w *wire, handle uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_, err := ask[any](ctx, w, agentwire.OpClose, handle, argument{})
	if errors.Is(err, ErrLost) {
		return nil
	}
	return err
}

// ReadAt implements dr.Image.
func (i *image) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	return pieces(p, off, func(p []byte, off int64) (n int, err error) {
		err = i.do(ctx, agentwire.OpRead, disk, off, func(w *wire, h uint64) error {
			n, err = w.readAt(ctx, h, disk, p, off)
			return err
		})
		return n, err
	})
}

// sequence yields the extents of a call. When the connection is lost it goes on
// behind what was yielded: extents ascend.
func (i *image) sequence(ctx context.Context, op agentwire.Op, a argument) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		var at int64
		left, lost := false, false
		err := i.do(ctx, op, a.Disk, -1, func(w *wire, h uint64) error {
			again := lost
			err := w.extents(ctx, op, h, a, func(e dr.Extent) bool {
				if again {
					if e.End() <= at {
						return true
					}
					e.Len, e.Off = e.End()-max(e.Off, at), max(e.Off, at)
				}
				at = e.End()
				left = !yield(e, nil)
				return !left
			})
			lost = true
			return err
		})
		if err != nil && !left {
			yield(dr.Extent{}, err)
		}
	}
}

// Changes implements dr.ChangeTracker.
func (t changeTracker) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return t.i.sequence(ctx, agentwire.OpChanges, argument{Disk: disk, Point: &since})
}

// Extents implements dr.Mapper.
func (m mapper) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return m.i.sequence(ctx, agentwire.OpExtents, argument{Disk: disk})
}

// Sums implements dr.Summer.
func (s imageSummer) Sums(ctx context.Context, disk dr.DiskID, off int64, sums []dr.Sum) error {
	return s.i.do(ctx, agentwire.OpSums, disk, off, func(w *wire, h uint64) error { return w.sums(ctx, h, disk, off, sums) })
}

// settle makes a call that may change the image's point. It isn't repeated: a
// pass that was lost can't be read again.
func (i *image) settle(ctx context.Context, op agentwire.Op) (settled, error) {
	w, h, err := i.attach(ctx)
	var s settled
	if err == nil {
		s, err = ask[settled](ctx, w, op, h, argument{})
	}
	if errors.Is(err, ErrLost) {
		err = i.die(fmt.Errorf("%w: what was read of a machine that runs on is of no moment: %w", dr.ErrNotConsistent, err))
	}
	if err != nil {
		return s, i.place(op, "", -1, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.point = s.Point
	return s, nil
}

// Settle implements dr.Settler.
func (s settler) Settle(ctx context.Context) (bool, error) {
	r, err := s.i.settle(ctx, agentwire.OpSettle)
	return r.More, err
}

// Linger implements dr.Lingerer.
func (l lingerer) Linger(ctx context.Context) (int64, error) {
	r, err := l.i.settle(ctx, agentwire.OpLinger)
	return r.Left, err
}

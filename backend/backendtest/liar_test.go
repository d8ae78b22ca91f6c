package backendtest

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// liar is a backend that is honest where it has no function of its own. It
// keeps the abilities of the backend behind it.
type liar struct {
	backend.Backend

	capture func(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error)
	release func(ctx context.Context, id dr.MachineID, name dr.PointID) error
	prepare func(ctx context.Context, p backend.Placement) (backend.Replica, error)
	draft   func(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error)
	start   func(ctx context.Context, id dr.MachineID) error
	stop    func(ctx context.Context, id dr.MachineID) error
	remove  func(ctx context.Context, id dr.MachineID) error
}

func (l *liar) Unwrap() any { return l.Backend }

func (l *liar) Capture(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
	if l.capture != nil {
		return l.capture(ctx, id, name, want)
	}
	return l.Backend.Capture(ctx, id, name, want)
}

func (l *liar) Release(ctx context.Context, id dr.MachineID, name dr.PointID) error {
	if l.release != nil {
		return l.release(ctx, id, name)
	}
	return l.Backend.Release(ctx, id, name)
}

func (l *liar) Prepare(ctx context.Context, p backend.Placement) (backend.Replica, error) {
	if l.prepare != nil {
		return l.prepare(ctx, p)
	}
	return l.Backend.Prepare(ctx, p)
}

func (l *liar) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	if l.draft != nil {
		return l.draft(ctx, id, p)
	}
	return l.Backend.Draft(ctx, id, p)
}

func (l *liar) Start(ctx context.Context, id dr.MachineID) error {
	if l.start != nil {
		return l.start(ctx, id)
	}
	return l.Backend.Start(ctx, id)
}

func (l *liar) Stop(ctx context.Context, id dr.MachineID) error {
	if l.stop != nil {
		return l.stop(ctx, id)
	}
	return l.Backend.Stop(ctx, id)
}

func (l *liar) Remove(ctx context.Context, id dr.MachineID) error {
	if l.remove != nil {
		return l.remove(ctx, id)
	}
	return l.Backend.Remove(ctx, id)
}

// lyingImage is an image of a liar, lyingDraft a draft.
type lyingImage struct {
	dr.Image
	readAt  func(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error)
	changes func(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error]
}

func (i *lyingImage) Unwrap() any { return i.Image }

func (i *lyingImage) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	if i.readAt != nil {
		return i.readAt(ctx, disk, p, off)
	}
	return i.Image.ReadAt(ctx, disk, p, off)
}

func (i *lyingImage) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	if i.changes != nil {
		return i.changes(ctx, disk, since)
	}
	return i.honest(ctx, disk, since)
}

func (i *lyingImage) honest(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	t, _ := dr.As[dr.ChangeTracker](i.Image)
	return t.Changes(ctx, disk, since)
}

type lyingDraft struct {
	dr.Draft
	writeAt func(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error)
	commit  func(ctx context.Context, p dr.Point) error
	close   func() error
}

func (d *lyingDraft) Unwrap() any { return d.Draft }

func (d *lyingDraft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	if d.writeAt != nil {
		return d.writeAt(ctx, disk, p, off)
	}
	return d.Draft.WriteAt(ctx, disk, p, off)
}

func (d *lyingDraft) Commit(ctx context.Context, p dr.Point) error {
	if d.commit != nil {
		return d.commit(ctx, p)
	}
	return d.Draft.Commit(ctx, p)
}

func (d *lyingDraft) Close() error {
	if d.close != nil {
		return d.close()
	}
	return d.Draft.Close()
}

// images makes every image of l a lying one, completed by lie.
func (l *liar) images(lie func(i *lyingImage)) {
	l.capture = func(ctx context.Context, id dr.MachineID, name dr.PointID, want dr.Consistency) (dr.Image, error) {
		img, err := l.Backend.Capture(ctx, id, name, want)
		if err != nil {
			return nil, err
		}
		i := &lyingImage{Image: img}
		lie(i)
		return i, nil
	}
}

// changesAs passes every list of changes through lie.
func (l *liar) changesAs(lie func(since dr.Point, xs []dr.Extent) []dr.Extent) {
	l.images(func(i *lyingImage) {
		i.changes = func(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
			return func(yield func(dr.Extent, error) bool) {
				var xs []dr.Extent
				for x, err := range i.honest(ctx, disk, since) {
					if err != nil {
						yield(x, err)
						return
					}
					xs = append(xs, x)
				}
				for _, x := range lie(since, xs) {
					if !yield(x, nil) {
						return
					}
				}
			}
		}
	})
}

// drafts makes every draft of l a lying one, completed by lie.
func (l *liar) drafts(lie func(d *lyingDraft, p dr.Point)) {
	l.draft = func(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
		d, err := l.Backend.Draft(ctx, id, p)
		if err != nil {
			return nil, err
		}
		lying := &lyingDraft{Draft: d}
		lie(lying, p)
		return lying, nil
	}
}

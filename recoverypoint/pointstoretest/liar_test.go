package pointstoretest

import (
	"context"
	"iter"
	"testing"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
)

// liar is a store that works, but for what a mutant makes of it.
type liar struct {
	*memstore.Store
	create func(context.Context, dr.Point) (dr.Draft, error)
	open   func(context.Context, dr.MachineID, dr.PointID) (dr.Image, error)
	list   func(context.Context, dr.MachineID) iter.Seq2[dr.Point, error]
	delete func(context.Context, dr.MachineID, dr.PointID) error
	crash  func() // instead of Store.Crash
}

func newLiar() *liar {
	s := memstore.New(memstore.Options{})
	return &liar{s, s.Create, s.Open, s.List, s.Delete, s.Crash}
}

func (l *liar) Create(ctx context.Context, p dr.Point) (dr.Draft, error) { return l.create(ctx, p) }
func (l *liar) Open(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
	return l.open(ctx, m, id)
}
func (l *liar) List(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return l.list(ctx, m)
}
func (l *liar) Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	return l.delete(ctx, m, id)
}

// draftLie and imageLie forward what a mutant leaves alone.
type draftLie struct {
	dr.Draft
	write   func(context.Context, dr.DiskID, []byte, int64) (int, error)
	commit  func(context.Context, dr.Point) error
	close   func() error
	zero    func(context.Context, dr.DiskID, int64, int64) error
	sums    func(context.Context, dr.DiskID, int64, []dr.Sum) error
	durable func(context.Context, dr.DiskID) iter.Seq2[dr.Extent, error]
}

func (d *draftLie) WriteAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	return d.write(ctx, id, p, off)
}
func (d *draftLie) Commit(ctx context.Context, p dr.Point) error { return d.commit(ctx, p) }
func (d *draftLie) Close() error                                 { return d.close() }
func (d *draftLie) Zero(ctx context.Context, id dr.DiskID, off, n int64) error {
	return d.zero(ctx, id, off, n)
}
func (d *draftLie) Sums(ctx context.Context, id dr.DiskID, off int64, s []dr.Sum) error {
	return d.sums(ctx, id, off, s)
}
func (d *draftLie) Durable(ctx context.Context, id dr.DiskID) iter.Seq2[dr.Extent, error] {
	return d.durable(ctx, id)
}

// drafts makes every draft of the store lie.
func (l *liar) drafts(lie func(d *draftLie, p dr.Point)) {
	create := l.create
	l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
		d, err := create(ctx, p)
		if err != nil {
			return nil, err
		}
		w := &draftLie{d, d.WriteAt, d.Commit, d.Close, d.(dr.Zeroer).Zero, d.(dr.Summer).Sums, d.(dr.Resumer).Durable}
		lie(w, p)
		return w, nil
	}
}

type imageLie struct {
	dr.Image
	dr.Summer
	changes func(context.Context, dr.DiskID, dr.Point) iter.Seq2[dr.Extent, error]
	read    func(context.Context, dr.DiskID, []byte, int64) (int, error)
}

func (i *imageLie) Changes(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return i.changes(ctx, id, since)
}
func (i *imageLie) ReadAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	return i.read(ctx, id, p, off)
}

// images makes every image of the store lie.
func (l *liar) images(lie func(i *imageLie)) {
	open := l.open
	l.open = func(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
		img, err := open(ctx, m, id)
		if err != nil {
			return nil, err
		}
		w := &imageLie{img, img.(dr.Summer), img.(dr.ChangeTracker).Changes, img.ReadAt}
		lie(w)
		return w, nil
	}
}

func (l *liar) extents(seq func(context.Context, dr.DiskID, dr.Point) iter.Seq2[dr.Extent, error], change func([]dr.Extent) []dr.Extent) func(context.Context, dr.DiskID, dr.Point) iter.Seq2[dr.Extent, error] {
	return func(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
		return func(yield func(dr.Extent, error) bool) {
			var all []dr.Extent
			for e, err := range seq(ctx, id, since) {
				if err != nil {
					yield(e, err)
					return
				}
				all = append(all, e)
			}
			for _, e := range change(all) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// summing is a dr.Summer of one's own.
type summing func(context.Context, dr.DiskID, int64, []dr.Sum) error

func (f summing) Sums(ctx context.Context, id dr.DiskID, off int64, s []dr.Sum) error {
	return f(ctx, id, off, s)
}

func (l *liar) harness() Harness {
	return Harness{
		Open:   func(testing.TB) recoverypoint.PointStore { return l },
		Reopen: func(_ testing.TB, s recoverypoint.PointStore) recoverypoint.PointStore { l.crash(); return s },
	}
}

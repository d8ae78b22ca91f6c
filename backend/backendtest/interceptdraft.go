package backendtest

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// WrapDraft puts interceptors around a draft of p, wherever it comes from: a
// backend's replica or a store's new point.
func WrapDraft(d dr.Draft, p dr.Point, is ...Interceptor) dr.Draft {
	return wrapDraft(d, Call{Machine: p.Machine.ID, Point: p.ID}, chain(is))
}

func wrapDraft(d dr.Draft, of Call, around Interceptor) dr.Draft {
	return &wrappedDraft{d: d, around: around, of: of}
}

type wrappedDraft struct {
	d      dr.Draft
	around Interceptor
	of     Call
}

func (w *wrappedDraft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	return result(ctx, w.around, w.of.at(OpWriteAt, disk, off, int64(len(p))), func() (int, error) { return w.d.WriteAt(ctx, disk, p, off) })
}

func (w *wrappedDraft) Commit(ctx context.Context, p dr.Point) error {
	return w.around(ctx, w.of.at(OpCommit, "", 0, 0), func() error { return w.d.Commit(ctx, p) })
}

func (w *wrappedDraft) Close() error {
	return w.around(context.Background(), w.of.at(OpClose, "", 0, 0), w.d.Close)
}

func (w *wrappedDraft) Unwrap() any {
	var c any = w.d
	if a, ok := dr.As[dr.Zeroer](w.d); ok {
		c = zeroer{link{c}, a, w}
	}
	if a, ok := dr.As[dr.Resumer](w.d); ok {
		c = resumer{link{c}, a, w}
	}
	if a, ok := dr.As[dr.Adopter](w.d); ok {
		c = adopter{link{c}, a, w}
	}
	if a, ok := dr.As[dr.Summer](w.d); ok {
		c = summer{link{c}, a, w.around, w.of}
	}
	return c
}

type zeroer struct {
	link
	dr.Zeroer
	w *wrappedDraft
}

func (a zeroer) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	return a.w.around(ctx, a.w.of.at(OpZero, disk, off, n), func() error { return a.Zeroer.Zero(ctx, disk, off, n) })
}

type resumer struct {
	link
	dr.Resumer
	w *wrappedDraft
}

func (a resumer) Durable(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return sequence(ctx, a.w.around, a.w.of.at(OpDurable, disk, 0, 0), func() iter.Seq2[dr.Extent, error] {
		return a.Resumer.Durable(ctx, disk)
	})
}

type adopter struct {
	link
	dr.Adopter
	w *wrappedDraft
}

func (a adopter) Adopt(ctx context.Context, img dr.Image) (bool, error) {
	return result(ctx, a.w.around, a.w.of.at(OpAdopt, "", 0, 0), func() (bool, error) { return a.Adopter.Adopt(ctx, img) })
}

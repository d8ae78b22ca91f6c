package backendtest

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// WrapImage puts interceptors around an image, wherever it comes from.
func WrapImage(img dr.Image, is ...Interceptor) dr.Image { return wrapImage(img, chain(is)) }

func wrapImage(img dr.Image, around Interceptor) dr.Image {
	p := img.Point()
	return &wrappedImage{Image: img, around: around, of: Call{Machine: p.Machine.ID, Point: p.ID}}
}

type wrappedImage struct {
	dr.Image
	around Interceptor
	of     Call
}

// ReadAt passes what was read even when a failure comes behind it: readers
// look at both.
func (w *wrappedImage) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	var n int
	err := w.around(ctx, w.of.at(OpReadAt, disk, off, int64(len(p))), func() (err error) {
		n, err = w.Image.ReadAt(ctx, disk, p, off)
		return err
	})
	return n, err
}

func (w *wrappedImage) Close() error {
	return w.around(context.Background(), w.of.at(OpClose, "", 0, 0), w.Image.Close)
}

func (w *wrappedImage) Unwrap() any {
	var c any = w.Image
	if a, ok := dr.As[dr.ChangeTracker](w.Image); ok {
		c = changeTracker{link{c}, a, w}
	}
	if a, ok := dr.As[dr.Mapper](w.Image); ok {
		c = mapper{link{c}, a, w}
	}
	if a, ok := dr.As[dr.Settler](w.Image); ok {
		c = settler{link{c}, a, w}
	}
	if a, ok := dr.As[dr.Summer](w.Image); ok {
		c = summer{link{c}, a, w.around, w.of}
	}
	return c
}

type changeTracker struct {
	link
	dr.ChangeTracker
	w *wrappedImage
}

func (a changeTracker) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return sequence(ctx, a.w.around, a.w.of.at(OpChanges, disk, 0, 0), func() iter.Seq2[dr.Extent, error] {
		return a.ChangeTracker.Changes(ctx, disk, since)
	})
}

type mapper struct {
	link
	dr.Mapper
	w *wrappedImage
}

func (a mapper) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return sequence(ctx, a.w.around, a.w.of.at(OpExtents, disk, 0, 0), func() iter.Seq2[dr.Extent, error] {
		return a.Mapper.Extents(ctx, disk)
	})
}

type settler struct {
	link
	dr.Settler
	w *wrappedImage
}

func (a settler) Settle(ctx context.Context) (bool, error) {
	return result(ctx, a.w.around, a.w.of.at(OpSettle, "", 0, 0), func() (bool, error) { return a.Settler.Settle(ctx) })
}

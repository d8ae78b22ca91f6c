package pageblob

import (
	"context"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

const (
	// maxPages is what one request may write, in bytes: Azure's limit.
	maxPages = 4 << 20
	// zeroBlock is what is looked for zeros in that nobody told of.
	zeroBlock = 64 << 10
	// parallelDisks bounds the disks of one machine that are written at once.
	parallelDisks = 4
	// copyPoll is when Azure is asked first whether a copy is done, and
	// maxCopyPoll how often it is later.
	copyPoll    = 20 * time.Millisecond
	maxCopyPoll = 5 * time.Second
)

// extents says what of the blob is to be written so that it holds the point:
// what differs from what it holds, and what lies between the disk's end and
// the VHD's where either moved.
func (p *pass) extents(ctx context.Context, h *head, t *target) ([]dr.Extent, error) {
	l, err := p.s.changes(ctx, p.m, h, t.disk.ID, t.from, p.to)
	if err != nil {
		return nil, err
	}
	if t.from.mf.size(t.disk.ID) != t.disk.Size {
		x := extents(l)
		x.add(t.disk.Size, vhd.Padded(t.disk.Size), true)
		l = x
	}
	return l, nil
}

// findSnapshots looks for those that a pass before this one took of the point.
// They are taken of blobs that hold it whole, under a lease.
func (p *pass) findSnapshots(ctx context.Context) error {
	for _, t := range p.disks {
		for o, err := range p.s.list(ctx, p.dir+t.name, true) {
			if err != nil {
				return err
			}
			if o.name == p.dir+t.name && o.snapshot != "" && o.draft == p.e.Draft {
				t.snapshot = o.snapshot
				break
			}
		}
	}
	return nil
}

func (p *pass) pages(t *target) *pageblob.Client { return p.s.c.NewPageBlobClient(p.dir + t.name) }

// ready makes sure that the blob is there, and takes its lease.
func (p *pass) ready(ctx context.Context, t *target) error {
	if t.fresh {
		_, err := p.pages(t).Create(ctx, vhd.Padded(t.disk.Size)+vhd.FooterSize, &pageblob.CreateOptions{
			AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}},
		})
		if err != nil && !bloberror.HasCode(err, bloberror.BlobAlreadyExists) && !isLeaseLost(err) {
			return err
		}
	}
	return p.leases.take(ctx, p.dir+t.name, p.turn)
}

// promoted makes a blob that holds nobody knows what a copy of its parent's
// snapshot.
func (p *pass) promoted(ctx context.Context, t *target) error {
	if !t.promote {
		return nil
	}
	src, err := p.s.snapshot(p.dir+t.name, t.source)
	if err != nil {
		return err
	}
	b := p.pages(t).BlobClient()
	r, err := p.startCopy(ctx, b, src.URL())
	if err != nil {
		return err
	}
	state := r.CopyStatus
	for wait := copyPoll; state != nil && *state == blob.CopyStatusTypePending; wait = min(2*wait, maxCopyPoll) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		g, err := b.GetProperties(ctx, nil)
		if err != nil {
			return err
		}
		state = g.CopyStatus
	}
	if state == nil {
		return fmt.Errorf("the service does not say whether it copied the snapshot of %s", t.name)
	}
	if *state != blob.CopyStatusTypeSuccess {
		return fmt.Errorf("copying the snapshot of %s over it: %s", t.name, *state)
	}
	return nil
}

// startCopy begins a copy over a blob, instead of one that a pass left which
// was cut off.
func (p *pass) startCopy(ctx context.Context, b *blob.Client, from string) (blob.StartCopyFromURLResponse, error) {
	const tries = 5
	for try := 1; ; try++ {
		r, err := b.StartCopyFromURL(ctx, from, &blob.StartCopyFromURLOptions{
			AccessConditions: p.leases.condition(),
			// Else it would take the snapshot's, which names its draft.
			Metadata: map[string]*string{metaPoint: to.Ptr(string(p.parent.mf.Point.ID))},
		})
		if !bloberror.HasCode(err, bloberror.PendingCopyOperation) || try == tries {
			return r, err
		}
		g, err := b.GetProperties(ctx, nil)
		if err != nil {
			return r, err
		}
		if g.CopyID == nil {
			continue
		}
		_, err = b.AbortCopyFromURL(ctx, *g.CopyID, &blob.AbortCopyFromURLOptions{LeaseAccessConditions: p.leases.condition().LeaseAccessConditions})
		if err != nil && !bloberror.HasCode(err, bloberror.NoPendingCopyOperation) {
			return r, err
		}
	}
}

// apply writes the point to a blob that holds its parent, or what target.from
// says, as often as it takes.
func (p *pass) apply(ctx context.Context, t *target) error {
	c, cond := p.pages(t), p.leases.condition()
	g, err := c.GetProperties(ctx, nil)
	if err != nil {
		return err
	}
	end := vhd.Padded(t.disk.Size)
	if g.ContentLength == nil || *g.ContentLength != end+vhd.FooterSize {
		if _, err := c.Resize(ctx, end+vhd.FooterSize, &pageblob.ResizeOptions{AccessConditions: cond}); err != nil {
			return err
		}
	}
	w := &pageWriter{p: p, t: t, c: c, pace: p.s.pace(p.dir + t.name)}
	if err := w.all(ctx); err != nil {
		return err
	}
	f := vhd.Footer{Size: end, ID: vhdID(p.m, t.disk.ID)}
	return w.upload(ctx, f.Bytes(), end)
}

// snapshot freezes what apply wrote.
func (p *pass) snapshot(ctx context.Context, t *target) error {
	r, err := p.pages(t).BlobClient().CreateSnapshot(ctx, &blob.CreateSnapshotOptions{
		AccessConditions: p.leases.condition(),
		Metadata:         map[string]*string{metaPoint: to.Ptr(string(p.e.ID)), metaDraft: to.Ptr(p.e.Draft)},
	})
	if err != nil {
		return err
	}
	if r.Snapshot == nil {
		return fmt.Errorf("the service made a snapshot and did not name it")
	}
	t.snapshot = *r.Snapshot
	return nil
}

// pageWriter writes one disk of a point to its blob.
type pageWriter struct {
	p    *pass
	t    *target
	c    *pageblob.Client
	pace *pace
}

// all writes what target.write lists, a few requests at a time.
func (w *pageWriter) all(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.p.s.o.Concurrency)
	for r := range runs(w.t.write, vhd.Padded(w.t.disk.Size)) {
		if gctx.Err() != nil {
			break
		}
		if r.Zero {
			g.Go(func() error { return w.clear(gctx, r.Off, r.Len) })
			continue
		}
		for off := r.Off; off < r.End(); {
			end := min(r.End(), (off/maxPages+1)*maxPages)
			from := off
			g.Go(func() error { return w.bytes(gctx, from, end-from) })
			off = end
		}
	}
	return g.Wait()
}

// runs yields extents in whole pages up to end, ascending: a page of which not
// all is told to be zeros is no zeros.
func runs(l []dr.Extent, end int64) func(yield func(dr.Extent) bool) {
	const p = pageSize
	return func(yield func(dr.Extent) bool) {
		var held dr.Extent
		ok := true
		add := func(from, to int64, zero bool) {
			from = max(from, held.End())
			to = min(to, end)
			switch {
			case !ok || from >= to:
			case held.Len > 0 && held.Zero == zero && held.End() == from:
				held.Len += to - from
			default:
				if held.Len > 0 {
					ok = yield(held)
				}
				held = dr.Extent{Off: from, Len: to - from, Zero: zero}
			}
		}
		for _, e := range l {
			lo, hi := e.Off/p*p, (e.End()+p-1)/p*p
			if e.Zero {
				in, out := (e.Off+p-1)/p*p, e.End()/p*p
				add(lo, min(in, hi), false)
				add(in, out, true)
				add(max(out, lo), hi, false)
			} else {
				add(lo, hi, false)
			}
			if !ok {
				return
			}
		}
		if ok && held.Len > 0 {
			yield(held)
		}
	}
}

// clear makes pages zeros. A blob that is new has no others.
func (w *pageWriter) clear(ctx context.Context, off, n int64) error {
	if w.t.fresh {
		return nil
	}
	if err := w.pace.wait(ctx, 0); err != nil {
		return err
	}
	_, err := w.c.ClearPages(ctx, blob.HTTPRange{Offset: off, Count: n}, &pageblob.ClearPagesOptions{AccessConditions: w.p.leases.condition()})
	return err
}

// bytes writes a part of the point's content, at most maxPages of it.
func (w *pageWriter) bytes(ctx context.Context, off, n int64) error {
	var b []byte
	if n >= maxPages/2 {
		buf := w.p.s.chunks.Get().(*[]byte)
		defer w.p.s.chunks.Put(buf)
		b = (*buf)[:n]
	} else {
		b = make([]byte, n)
	}
	if err := w.p.whole.readAt(ctx, w.t.disk.ID, b, off); err != nil {
		return err
	}
	for at := int64(0); at < n; {
		end := min(n, at+zeroBlock)
		zero := blocksum.Zero(b[at:end])
		for end < n {
			next := min(n, end+zeroBlock)
			if blocksum.Zero(b[end:next]) != zero {
				break
			}
			end = next
		}
		var err error
		if zero {
			err = w.clear(ctx, off+at, end-at)
		} else {
			err = w.upload(ctx, b[at:end], off+at)
		}
		if err != nil {
			return err
		}
		at = end
	}
	return nil
}

func (w *pageWriter) upload(ctx context.Context, b []byte, off int64) error {
	if err := w.pace.wait(ctx, len(b)); err != nil {
		return err
	}
	_, err := w.c.UploadPages(ctx, body(b), blob.HTTPRange{Offset: off, Count: int64(len(b))}, &pageblob.UploadPagesOptions{AccessConditions: w.p.leases.condition()})
	return err
}

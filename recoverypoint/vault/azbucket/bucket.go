package azbucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Options are the knobs of a bucket. The zero value suits a vault.
type Options struct {
	// BlockSize is what a request carries at most, in bytes; 0: 4 MiB. An
	// object has up to 50,000 blocks, and is read with requests of that size.
	BlockSize int

	// Parallel is how many blocks are on their way at once, those of all
	// writers together; 0: 8. As many wait in memory beside those that are
	// being filled, one or two for each writer. A read has as many requests.
	Parallel int
}

// Bucket keeps objects as block blobs of a container. It implements
// [vault.Bucket] and [vault.Locker].
type Bucket struct {
	c      *container.Client
	size   int
	slots  chan struct{}
	blocks *fsys.Pool
	locks  lockTable
}

var _ vault.Bucket = (*Bucket)(nil)

// New returns a bucket on a container that exists. The container should have
// nothing else in it; blobs whose names aren't a bucket's are passed over.
//
// How often and how long a request is tried is the client's: its retry options
// should have a TryTimeout, because a connection that has died without a word
// holds a request for minutes.
func New(c *container.Client, o Options) *Bucket {
	if o.BlockSize <= 0 {
		o.BlockSize = 4 << 20
	}
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	return &Bucket{c: c, size: o.BlockSize, slots: make(chan struct{}, o.Parallel), blocks: fsys.NewPool(o.BlockSize, o.Parallel+2),
		locks: lockTable{lease: leaseTime, turns: map[string]*sync.Mutex{}, held: map[string]*lock{}}}
}

// ReadAt implements [vault.Bucket] with one request for each block's size that
// is asked for.
func (b *Bucket) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	blobName, err := blobName(name)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("%w: read object %s at %d", dr.ErrInvalid, name, off)
	}
	c := b.c.NewBlobClient(blobName)
	if len(p) == 0 {
		// There is no empty range, and whether it is there matters still.
		_, err := read(ctx, c, name, make([]byte, 1), off)
		if err == io.EOF {
			err = nil
		}
		return 0, err
	}
	if len(p) <= b.size {
		return read(ctx, c, name, p, off)
	}
	// Each part is asked for by itself, and what is read ends where the first
	// does that isn't full.
	parts := (len(p) + b.size - 1) / b.size
	ns, errs := make([]int, parts), make([]error, parts)
	var g errgroup.Group
	g.SetLimit(cap(b.slots))
	for i := range parts {
		g.Go(func() error {
			at := i * b.size
			ns[i], errs[i] = read(ctx, c, name, p[at:min(at+b.size, len(p))], off+int64(at))
			return nil
		})
	}
	_ = g.Wait() // each has its own
	n := 0
	for i, err := range errs {
		n += ns[i]
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// read makes one request, or more if the connection is lost in its middle.
func read(ctx context.Context, c *blob.Client, name string, p []byte, off int64) (int, error) {
	r, err := c.DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: off, Count: int64(len(p))}})
	switch {
	case missing(err):
		return 0, fmt.Errorf("%w: object %s", dr.ErrNotFound, name)
	case bloberror.HasCode(err, bloberror.InvalidRange):
		return 0, io.EOF // it begins behind the end
	case err != nil:
		return 0, failed("read object", name, err)
	}
	body := r.NewRetryReader(ctx, nil)
	defer body.Close()
	n, err := io.ReadFull(body, p)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return n, failed("read object", name, err)
	}
	if n == len(p) {
		return n, nil
	}
	// Fewer bytes are the object's end only if the service says so.
	if end, ok := objectEnd(r.ContentRange); !ok || off+int64(n) != end {
		return n, failed("read object", name, fmt.Errorf("%w: the answer ends after %d bytes", io.ErrUnexpectedEOF, n))
	}
	return n, io.EOF
}

// objectEnd is the size in a Content-Range.
func objectEnd(contentRange *string) (int64, bool) {
	if contentRange == nil {
		return 0, false
	}
	_, size, ok := strings.Cut(*contentRange, "/")
	n, err := strconv.ParseInt(size, 10, 64)
	return n, ok && err == nil
}

// List implements [vault.Bucket]; all comes by name.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[vault.Object, error] {
	return func(yield func(vault.Object, error) bool) {
		begin := blobPrefix(prefix)
		pages := b.c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &begin})
		for pages.More() {
			if err := ctx.Err(); err != nil {
				yield(vault.Object{}, err)
				return
			}
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(vault.Object{}, failed("list objects", prefix, err))
				return
			}
			for _, item := range page.Segment.BlobItems {
				if item.Name == nil || item.Properties == nil || item.Properties.ContentLength == nil {
					continue
				}
				name, ok := objectName(*item.Name)
				if !ok || !strings.HasPrefix(name, prefix) {
					continue
				}
				if !yield(vault.Object{Name: name, Size: *item.Properties.ContentLength}, nil) {
					return
				}
			}
		}
	}
}

// Delete implements [vault.Bucket].
func (b *Bucket) Delete(ctx context.Context, name string) error {
	blobName, err := blobName(name)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return err
	}
	if err := b.mayChange(); err != nil {
		return err
	}
	if _, err := b.c.NewBlobClient(blobName).Delete(ctx, nil); err != nil && !missing(err) {
		return failed("delete object", name, err)
	}
	return nil
}

package pageblob

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// deletesAtOnce bounds the deletions in flight: a point of a large disk leaves a
// hundred thousand segments.
const deletesAtOnce = 16

// maxObject is the most that is read of a head or a manifest, in bytes.
const maxObject = 1 << 30

// get reads a whole small object.
func (s *Store) get(ctx context.Context, name string) ([]byte, azcore.ETag, error) {
	r, err := s.c.NewBlobClient(name).DownloadStream(ctx, nil)
	if err != nil {
		return nil, "", err
	}
	body := r.NewRetryReader(ctx, nil)
	defer body.Close()
	var b bytes.Buffer
	if n := r.ContentLength; n != nil && *n > 0 && *n <= maxSegment {
		b.Grow(int(*n) + bytes.MinRead)
	}
	if n, err := io.Copy(&b, io.LimitReader(body, maxObject+1)); err != nil {
		return nil, "", err
	} else if n > maxObject {
		return nil, "", fmt.Errorf("%w: object %s is larger than any of its kind", dr.ErrCorrupt, name)
	}
	var tag azcore.ETag
	if r.ETag != nil {
		tag = *r.ETag
	}
	return b.Bytes(), tag, nil
}

// readRange fills p from an object's byte off on.
func readRange(ctx context.Context, b *blob.Client, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	r, err := b.DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: off, Count: int64(len(p))}})
	if err != nil {
		return err
	}
	body := r.NewRetryReader(ctx, nil)
	defer body.Close()
	_, err = io.ReadFull(body, p)
	return err
}

// put writes a whole object, over one that may be there.
func (s *Store) put(ctx context.Context, name string, b []byte) error {
	_, err := s.c.NewBlockBlobClient(name).Upload(ctx, body(b), nil)
	return err
}

// swap writes an object if its version is still the one given, and "" if there
// is none yet. ok says whether it was.
func (s *Store) swap(ctx context.Context, name string, b []byte, old azcore.ETag) (ok bool, err error) {
	cond := &blob.ModifiedAccessConditions{IfMatch: &old}
	if old == "" {
		cond = &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}
	}
	_, err = s.c.NewBlockBlobClient(name).Upload(ctx, body(b), &blockblob.UploadOptions{
		AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: cond},
	})
	if c := status(err); c == 409 || c == 412 {
		return false, nil
	}
	return err == nil, err
}

func body(b []byte) io.ReadSeekCloser { return streaming.NopCloser(bytes.NewReader(b)) }

// remove deletes an object or a snapshot; one that is not there is no error.
func (s *Store) remove(ctx context.Context, name, snapshot string) error {
	b, err := s.snapshot(name, snapshot)
	if err != nil {
		return err
	}
	if _, err = b.Delete(ctx, nil); isNotFound(err) {
		return nil
	}
	return err
}

// snapshot is the client of a blob's snapshot, or of the blob itself if that
// is "".
func (s *Store) snapshot(name, snapshot string) (*blob.Client, error) {
	b := s.c.NewBlobClient(name)
	if snapshot == "" {
		return b, nil
	}
	return b.WithSnapshot(snapshot)
}

// object is what a listing tells.
type object struct {
	name     string
	snapshot string
	size     int64
	page     bool   // a page blob
	draft    string // the draft that a snapshot was made of, if it was
}

// list yields what is below a prefix, in the order of names; a blob's snapshots
// come before or behind it.
func (s *Store) list(ctx context.Context, prefix string, snapshots bool) iter.Seq2[object, error] {
	return func(yield func(object, error) bool) {
		pager := s.c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
			Prefix: &prefix, Include: container.ListBlobsInclude{Snapshots: snapshots, Metadata: snapshots},
		})
		for pager.More() {
			page, err := pager.NextPage(ctx)
			if err != nil {
				yield(object{}, err)
				return
			}
			if page.Segment == nil {
				continue
			}
			for _, i := range page.Segment.BlobItems {
				if i == nil || i.Name == nil {
					continue
				}
				o := object{name: *i.Name}
				if i.Snapshot != nil {
					o.snapshot = *i.Snapshot
				}
				if p := i.Properties; p != nil {
					if p.ContentLength != nil {
						o.size = *p.ContentLength
					}
					o.page = p.BlobType != nil && *p.BlobType == container.BlobTypePageBlob
				}
				o.draft = meta(i.Metadata, metaDraft)
				if !yield(o, nil) {
					return
				}
			}
		}
	}
}

// meta looks a key up; services give keys back in another case.
func meta(m map[string]*string, key string) string {
	for k, v := range m {
		if strings.EqualFold(k, key) && v != nil {
			return *v
		}
	}
	return ""
}

// removeAll deletes the objects below a prefix, and returns how many bytes
// they had.
func (s *Store) removeAll(ctx context.Context, prefix string) (int64, error) {
	var all []object
	for o, err := range s.list(ctx, prefix, false) {
		if err != nil {
			return 0, err
		}
		all = append(all, o)
	}
	var n atomic.Int64
	var g errgroup.Group
	g.SetLimit(deletesAtOnce)
	for _, o := range all {
		g.Go(func() error {
			err := s.remove(ctx, o.name, "")
			if err == nil {
				n.Add(o.size)
			}
			return err
		})
	}
	err := g.Wait()
	return n.Load(), err
}

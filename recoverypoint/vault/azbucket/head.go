package azbucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// maxHead bounds what is read of a head, in bytes: a head of a vault with 10,000
// points takes 2 MiB.
const maxHead = 64 << 20

// ReadHead implements [vault.Bucket]; a version is the blob's ETag.
func (b *Bucket) ReadHead(ctx context.Context, name string) ([]byte, vault.Version, error) {
	blobName, err := blobName(name)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return nil, "", err
	}
	r, err := b.c.NewBlobClient(blobName).DownloadStream(ctx, nil)
	if missing(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", failed("read head", name, err)
	}
	// When it resumes it asks for the same ETag, so that one version is read.
	body := r.NewRetryReader(ctx, nil)
	defer body.Close()
	if r.ContentLength == nil || r.ETag == nil || *r.ETag == "" {
		return nil, "", failed("read head", name, errors.New("the answer has no length or no ETag"))
	}
	if *r.ContentLength > maxHead {
		return nil, "", fmt.Errorf("%w: object %s: %d bytes long, and at most %d are expected", dr.ErrCorrupt, name, *r.ContentLength, maxHead)
	}
	data := make([]byte, *r.ContentLength)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, "", failed("read head", name, err)
	}
	return data, vault.Version(*r.ETag), nil
}

// SwapHead implements [vault.Bucket]. If the answer was lost, and the request
// tried again by the client, it reads whose the head is. If that is a third
// one's, nobody knows whether ours was there before: then the error is none of
// the typed ones.
func (b *Bucket) SwapHead(ctx context.Context, name string, old vault.Version, data []byte) (vault.Version, error) {
	blobName, err := blobName(name)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return "", err
	}
	if len(data) > maxHead {
		return "", fmt.Errorf("%w: head %s of %d bytes; at most %d", dr.ErrInvalid, name, len(data), maxHead)
	}
	if err := b.mayChange(); err != nil {
		return "", err
	}
	condition := ifAbsent()
	if old != "" {
		tag := azcore.ETag(old)
		condition = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &tag}}
	}
	c := b.c.NewBlockBlobClient(blobName)
	body := &countedBody{Reader: bytes.NewReader(data)}
	own := newNonce()
	r, err := c.Upload(ctx, body, &blockblob.UploadOptions{Metadata: own.metadata(), AccessConditions: condition, TransactionalValidation: checksum(data)})
	if err == nil {
		if r.ETag == nil || *r.ETag == "" {
			return "", failed("swap head", name, errors.New("the answer has no ETag"))
		}
		return vault.Version(*r.ETag), nil
	}
	// A head that isn't there has no ETag to match.
	if !refused(err) && !missing(err) {
		return "", failed("swap head", name, err)
	}
	if body.sent.Load() > 1 {
		p, perr := c.GetProperties(ctx, nil)
		switch {
		case perr != nil && !missing(perr):
			return "", failed("swap head", name, perr)
		case perr == nil && own.wrote(p.Metadata) && p.ETag != nil:
			return vault.Version(*p.ETag), nil
		}
		return "", failed("swap head", name, fmt.Errorf("another was faster, or followed: %w", err))
	}
	return "", fmt.Errorf("%w: head %s has changed", dr.ErrConflict, name)
}

// countedBody counts how often it was read to its end: a request that was sent
// once and refused had no effect, one that was sent again may have had its
// effect before.
type countedBody struct {
	*bytes.Reader
	sent atomic.Int32
}

func (b *countedBody) Read(p []byte) (int, error) {
	before := b.Reader.Len()
	n, err := b.Reader.Read(p)
	if b.Reader.Len() == 0 && (n > 0 || before == 0 && b.Reader.Size() == 0) {
		b.sent.Add(1)
	}
	return n, err
}

// WriteTo is hidden from those who would copy past Read.
func (b *countedBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{b})
}

func (b *countedBody) Close() error { return nil }

package azure

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// blobs yields the names of blobs in the staging container.
func (a *Azure) blobs(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for pages := a.opts.Staging.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: to.Ptr(prefix)}); pages.More(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", explain(err))
				return
			}
			for _, b := range page.Segment.BlobItems {
				if !yield(deref(b.Name), nil) {
					return
				}
			}
		}
	}
}

// Two replicas must not want one machine's name, and neither has a machine yet
// that would hold it. So names are claimed: a blob says whose one is.
func nameBlob(name string) string { return "names/" + strings.ToLower(name) }

// claim gets a name for a machine, or finds that it has it. false: another
// machine that still has a record has it.
func (a *Azure) claim(ctx context.Context, id dr.MachineID, name string) (bool, error) {
	c := a.opts.Staging.NewBlockBlobClient(nameBlob(name))
	any := azcore.ETagAny
	cond := &blob.ModifiedAccessConditions{IfNoneMatch: &any}
	for range 4 {
		_, err := c.Upload(ctx, streaming.NopCloser(bytes.NewReader([]byte(id))), &blockblob.UploadOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: cond}})
		if err == nil {
			return true, nil
		}
		if status, _ := codeOf(err); status != http.StatusConflict && status != http.StatusPreconditionFailed {
			return false, explain(err)
		}
		resp, err := c.DownloadStream(ctx, nil)
		if isNotFound(err) {
			cond = &blob.ModifiedAccessConditions{IfNoneMatch: &any}
			continue
		}
		if err != nil {
			return false, explain(err)
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return false, err
		}
		if string(raw) == string(id) {
			return true, nil
		}
		if _, _, err := a.load(ctx, dr.MachineID(raw)); !errors.Is(err, dr.ErrNotFound) {
			return false, err
		}
		cond = &blob.ModifiedAccessConditions{IfMatch: resp.ETag} // left by one that is gone
	}
	return false, nil
}

// unclaim gives a name back, if it is the machine's.
func (a *Azure) unclaim(ctx context.Context, id dr.MachineID, name string) error {
	c := a.opts.Staging.NewBlockBlobClient(nameBlob(name))
	resp, err := c.DownloadStream(ctx, nil)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if string(raw) != string(id) {
		return nil
	}
	_, err = c.Delete(ctx, &blob.DeleteOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: resp.ETag}}})
	if status, _ := codeOf(err); err == nil || isNotFound(err) || status == http.StatusPreconditionFailed {
		return nil
	}
	return explain(err)
}

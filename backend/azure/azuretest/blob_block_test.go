package azuretest

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"
)

func blockID(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func stage(t *testing.T, b *blockblob.Client, id, text string) {
	t.Helper()
	_, err := b.StageBlock(t.Context(), blockID(id), body([]byte(text)), nil)
	require.NoError(t, err)
}

func commit(b *blockblob.Client, t *testing.T, ids ...string) error {
	for i := range ids {
		ids[i] = blockID(ids[i])
	}
	_, err := b.CommitBlockList(t.Context(), ids, nil)
	return err
}

func onlyIf(k blob.ModifiedAccessConditions) *blob.AccessConditions {
	return &blob.AccessConditions{ModifiedAccessConditions: &k}
}

var blockFacts = []blobFact{
	{"a blob is read as it was uploaded", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("dir/b")
		_, err := b.Upload(t.Context(), body([]byte("hello")), &blockblob.UploadOptions{
			Metadata: map[string]*string{"k": ptr("v")}, Tags: map[string]string{"t": "1"},
			HTTPHeaders: &blob.HTTPHeaders{BlobContentType: ptr("text/plain"), BlobCacheControl: ptr("no-store")}})
		require.NoError(t, err)
		require.Equal(t, "hello", string(get(t, b, 0, 0)))
		require.Equal(t, "ell", string(get(t, b, 1, 3)))
		require.Equal(t, "lo", string(get(t, b, 3, 100)))
		r, err := b.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.EqualValues(t, 5, *r.ContentLength)
		require.Equal(t, "text/plain", *r.ContentType)
		require.Equal(t, "no-store", *r.CacheControl)
		require.Equal(t, "v", *r.Metadata["K"])
		require.Equal(t, blobMD5([]byte("hello")), base64.StdEncoding.EncodeToString(r.ContentMD5))
		require.EqualValues(t, 1, *r.TagCount)
		require.Equal(t, blob.BlobTypeBlockBlob, *r.BlobType)
		require.WithinDuration(t, time.Now(), *r.LastModified, time.Minute)
		require.WithinDuration(t, time.Now(), *r.CreationTime, time.Minute)
	}},
	{"an empty blob is one", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "")
		require.Empty(t, get(t, b, 0, 0))
	}},
	{"an empty blob has no ranges", "Azurite answers with no bytes", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "")
		_, err := b.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Count: 1}})
		refused(t, err, 416, "InvalidRange")
	}},
	{"blocks are there once they are committed", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		stage(t, b, "1", "one")
		stage(t, b, "2", "two")
		stage(t, b, "3", "three")
		_, err := b.GetProperties(t.Context(), nil)
		refused(t, err, 404, "BlobNotFound")
		l, err := b.GetBlockList(t.Context(), blockblob.BlockListTypeAll, nil)
		require.NoError(t, err)
		require.Len(t, l.UncommittedBlocks, 3)
		require.Empty(t, l.CommittedBlocks)
		require.NoError(t, commit(b, t, "2", "1"))
		require.Equal(t, "twoone", string(get(t, b, 0, 0)))
		require.Equal(t, "oo", string(get(t, b, 2, 2)))
		l, err = b.GetBlockList(t.Context(), blockblob.BlockListTypeAll, nil)
		require.NoError(t, err)
		require.Empty(t, l.UncommittedBlocks)
		require.Len(t, l.CommittedBlocks, 2)
		require.Equal(t, blockID("2"), *l.CommittedBlocks[0].Name)
		stage(t, b, "1", "ONE")
		stage(t, b, "4", "four")
		require.NoError(t, commit(b, t, "1", "2", "4"))
		require.Equal(t, "ONEtwofour", string(get(t, b, 0, 0)))
		refused(t, commit(b, t, "3"), 400, "InvalidBlockList")
		require.Equal(t, "ONEtwofour", string(get(t, b, 0, 0)))
	}},
	{"an upload drops blocks that weren't committed", "Azurite keeps them", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		stage(t, b, "1", "one")
		put(t, b, "all")
		refused(t, commit(b, t, "1"), 400, "InvalidBlockList")
	}},
	{"the IDs of a blob's blocks have one length", "Azurite takes all", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		stage(t, b, "1", "one")
		_, err := b.StageBlock(t.Context(), blockID("longer"), body([]byte("two")), nil)
		refused(t, err, 400, "InvalidBlobOrBlock")
	}},
	{"sums are checked", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		_, err := b.Upload(t.Context(), body([]byte("text")), &blockblob.UploadOptions{TransactionalValidation: blob.TransferValidationTypeMD5(make([]byte, 16))})
		refused(t, err, 400, "Md5Mismatch")
		_, err = b.StageBlock(t.Context(), blockID("1"), body([]byte("text")), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeMD5(make([]byte, 16))})
		refused(t, err, 400, "Md5Mismatch")
		_, err = b.StageBlock(t.Context(), blockID("1"), body([]byte("text")), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
		require.NoError(t, err)
		_, err = b.GetProperties(t.Context(), nil)
		refused(t, err, 404, "BlobNotFound")
	}},
	{"a blob is made only if there is none", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		none := onlyIf(blob.ModifiedAccessConditions{IfNoneMatch: ptr(anyETag)})
		_, err := b.Upload(t.Context(), body([]byte("one")), &blockblob.UploadOptions{AccessConditions: none})
		require.NoError(t, err)
		_, err = b.Upload(t.Context(), body([]byte("two")), &blockblob.UploadOptions{AccessConditions: none})
		refused(t, err, 409, "BlobAlreadyExists")
		stage(t, b, "1", "three")
		_, err = b.CommitBlockList(t.Context(), []string{blockID("1")}, &blockblob.CommitBlockListOptions{AccessConditions: none})
		refused(t, err, 409, "BlobAlreadyExists")
		require.Equal(t, "one", string(get(t, b, 0, 0)))
	}},
	{"a blob is replaced only if it is the one that was read", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		up := func(k blob.ModifiedAccessConditions) error {
			_, err := b.Upload(t.Context(), body([]byte("new")), &blockblob.UploadOptions{AccessConditions: onlyIf(k)})
			return err
		}
		refused(t, up(blob.ModifiedAccessConditions{IfMatch: ptr(anyETag)}), 412, "ConditionNotMet")
		one := put(t, b, "one")
		two := put(t, b, "one")
		require.NotEqual(t, one, two)
		refused(t, up(blob.ModifiedAccessConditions{IfMatch: &one}), 412, "ConditionNotMet")
		require.NoError(t, up(blob.ModifiedAccessConditions{IfMatch: &two}))
		past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		refused(t, up(blob.ModifiedAccessConditions{IfUnmodifiedSince: &past}), 412, "ConditionNotMet")
		refused(t, up(blob.ModifiedAccessConditions{IfModifiedSince: &future}), 412, "ConditionNotMet")
		require.NoError(t, up(blob.ModifiedAccessConditions{IfModifiedSince: &past}))
	}},
	{"a blob is read only if it is another one, or newer", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		one := put(t, b, "one")
		read := func(k blob.ModifiedAccessConditions) error {
			r, err := b.GetProperties(t.Context(), &blob.GetPropertiesOptions{AccessConditions: onlyIf(k)})
			if err == nil {
				require.Equal(t, one, *r.ETag)
			}
			return err
		}
		future := time.Now().Add(time.Hour)
		require.NoError(t, read(blob.ModifiedAccessConditions{IfMatch: &one}))
		refused(t, read(blob.ModifiedAccessConditions{IfNoneMatch: &one}), 304, "ConditionNotMet")
		refused(t, read(blob.ModifiedAccessConditions{IfModifiedSince: &future}), 304, "ConditionNotMet")
		require.NoError(t, read(blob.ModifiedAccessConditions{IfUnmodifiedSince: &future}))
		put(t, b, "two")
		refused(t, read(blob.ModifiedAccessConditions{IfMatch: &one}), 412, "ConditionNotMet")
	}},
	{"metadata is replaced, and is a write", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		one := put(t, b, "one")
		for _, k := range []string{"a", "b"} {
			_, err := b.SetMetadata(t.Context(), map[string]*string{k: ptr("v")}, nil)
			require.NoError(t, err)
		}
		r, err := b.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, r.Metadata, 1)
		require.NotEqual(t, one, *r.ETag)
		require.Equal(t, "one", string(get(t, b, 0, 0)))
	}},
	{"tags are kept, and are no write", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		one := put(t, b, "one")
		_, err := b.SetTags(t.Context(), map[string]string{"a": "1", "b": "x y"}, nil)
		require.NoError(t, err)
		r, err := b.GetTags(t.Context(), nil)
		require.NoError(t, err)
		got := map[string]string{}
		for _, tag := range r.BlobTagSet {
			got[*tag.Key] = *tag.Value
		}
		require.Equal(t, map[string]string{"a": "1", "b": "x y"}, got)
		props, err := b.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, one, *props.ETag)
	}},
	{"headers are replaced", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "one")
		_, err := b.SetHTTPHeaders(t.Context(), blob.HTTPHeaders{BlobContentType: ptr("text/x"), BlobContentLanguage: ptr("eo")}, nil)
		require.NoError(t, err)
		r, err := b.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "text/x eo", *r.ContentType+" "+*r.ContentLanguage)
	}},
	{"a block blob has snapshots", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "one")
		s, err := b.WithSnapshot(snapshot(t, b, nil))
		require.NoError(t, err)
		put(t, b, "two")
		require.Equal(t, "one", string(get(t, s, 0, 0)))
		require.Equal(t, "two", string(get(t, b, 0, 0)))
	}},
	{"blobs and blocks are made from URLs", "Azurite answers 501", func(t *testing.T, e *blobEnv, c *container.Client) {
		src, b := c.NewBlockBlobClient("src"), c.NewBlockBlobClient("b")
		put(t, src, "0123456789")
		_, err := b.UploadBlobFromURL(t.Context(), src.URL(), nil)
		require.NoError(t, err)
		require.Equal(t, "0123456789", string(get(t, b, 0, 0)))
		_, err = b.StageBlockFromURL(t.Context(), blockID("1"), src.URL(), &blockblob.StageBlockFromURLOptions{Range: blob.HTTPRange{Offset: 2, Count: 3}})
		require.NoError(t, err)
		require.NoError(t, commit(b, t, "1"))
		require.Equal(t, "234", string(get(t, b, 0, 0)))
	}},
	{"a part is read with its sum", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "0123456789")
		r, err := b.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: 2, Count: 3}, RangeGetContentMD5: ptr(true)})
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		require.Equal(t, blobMD5([]byte("234")), base64.StdEncoding.EncodeToString(r.ContentMD5))
		require.Equal(t, "bytes 2-4/10", *r.ContentRange)
	}},
}

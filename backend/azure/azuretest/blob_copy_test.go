package azuretest

import (
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/stretchr/testify/require"
)

// copied copies, and waits until it is done.
func copied(t *testing.T, to *pageblob.Client, from string) {
	t.Helper()
	r, err := to.StartCopyFromURL(t.Context(), from, nil)
	require.NoError(t, err)
	require.NotEmpty(t, *r.CopyID)
	for {
		p, err := to.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		if *p.CopyStatus != blob.CopyStatusTypePending {
			require.Equal(t, blob.CopyStatusTypeSuccess, *p.CopyStatus)
			require.Equal(t, *r.CopyID, *p.CopyID)
			return
		}
	}
}

var copyFacts = []blobFact{
	{"a snapshot is copied to a new blob", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		_, err := p.SetMetadata(t.Context(), map[string]*string{"k": ptr("v")}, nil)
		require.NoError(t, err)
		upload(t, p, fill(1, 4096), 8192)
		s := at(t, p, snapshot(t, p, nil))
		upload(t, p, fill(2, 4096), 8192)
		n := c.NewPageBlobClient("new")
		copied(t, n, s.URL())
		same(t, fill(1, 4096), get(t, n, 8192, 4096))
		require.Equal(t, "8192-12287", ranges(t, n, nil))
		r, err := n.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "v", *r.Metadata["K"])
		require.Equal(t, blob.BlobTypePageBlob, *r.BlobType)
	}},
	{"a copy is written without its source", "Azurite, in memory, lets a write to the copy show in the snapshot", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		upload(t, p, fill(1, 4096), 8192)
		s, n := at(t, p, snapshot(t, p, nil)), c.NewPageBlobClient("new")
		copied(t, n, s.URL())
		upload(t, n, fill(3, 512), 0)
		upload(t, n, fill(3, 512), 8192)
		require.Equal(t, "8192-12287", ranges(t, s, nil))
		same(t, fill(1, 4096), get(t, s, 8192, 4096))
	}},
	{"a snapshot is copied over its blob, and over another", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p, other := pageBlob(t, c, "disk", mib), pageBlob(t, c, "other", 2*mib)
		upload(t, p, fill(1, 512), 0)
		s := at(t, p, snapshot(t, p, nil))
		upload(t, p, fill(2, 1024), 0)
		upload(t, other, fill(3, 1024), 65536)
		copied(t, p, s.URL())
		same(t, fill(1, 512), get(t, p, 0, 512))
		require.Equal(t, "0-511", ranges(t, p, nil))
		require.Equal(t, "0-511", ranges(t, s, nil))
		copied(t, other, s.URL())
		require.Equal(t, "0-511", ranges(t, other, nil))
		same(t, fill(1, 512), get(t, other, 0, 512))
		r, err := other.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.EqualValues(t, mib, *r.ContentLength)
	}},
	{"a copy of nothing is refused", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		_, err := c.NewPageBlobClient("to").StartCopyFromURL(t.Context(), c.NewPageBlobClient("none").URL(), nil)
		refused(t, err, 404, "BlobNotFound")
	}},
	{"a copy doesn't change what kind a blob is", "Azurite lets it", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "text")
		p := pageBlob(t, c, "disk", mib)
		_, err := p.StartCopyFromURL(t.Context(), b.URL(), nil)
		refused(t, err, 409, "InvalidBlobType")
	}},
	{"a copy is made only if there is no blob", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p, q := pageBlob(t, c, "p", mib), pageBlob(t, c, "q", mib)
		_, err := q.StartCopyFromURL(t.Context(), p.URL(), &blob.StartCopyFromURLOptions{AccessConditions: onlyIf(blob.ModifiedAccessConditions{IfNoneMatch: ptr(anyETag)})})
		refused(t, err, 409, "BlobAlreadyExists")
	}},
	{"a copy is made only of the right source", "Azurite has another code", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "p", mib)
		old := upload(t, p, fill(1, 512), 0)
		upload(t, p, fill(2, 512), 0)
		_, err := c.NewPageBlobClient("q").StartCopyFromURL(t.Context(), p.URL(), &blob.StartCopyFromURLOptions{SourceModifiedAccessConditions: &blob.SourceModifiedAccessConditions{SourceIfMatch: &old}})
		refused(t, err, 412, "SourceConditionNotMet")
	}},
}

func TestCopiesArePendingAWhile(t *testing.T) {
	e := ours(t, BlobOptions{CopyPolls: 2})
	c := e.container(t)
	p := pageBlob(t, c, "disk", mib)
	upload(t, p, fill(1, 512), 0)
	n := c.NewPageBlobClient("new")
	started, err := n.StartCopyFromURL(t.Context(), p.URL(), nil)
	require.NoError(t, err)
	require.Equal(t, blob.CopyStatusTypePending, *started.CopyStatus)
	_, err = n.UploadPages(t.Context(), body(fill(2, 512)), blob.HTTPRange{Count: 512}, nil)
	refused(t, err, 409, "PendingCopyOperation")
	_, err = n.StartCopyFromURL(t.Context(), p.URL(), nil)
	refused(t, err, 409, "PendingCopyOperation")
	_, err = e.ours.source(t.Context(), n.URL())
	require.ErrorContains(t, err, "PendingCopyOperation")
	upload(t, p, fill(3, 512), 0) // what is copied is what was there
	for _, want := range []blob.CopyStatusType{blob.CopyStatusTypePending, blob.CopyStatusTypePending, blob.CopyStatusTypeSuccess, blob.CopyStatusTypeSuccess} {
		r, err := n.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, want, *r.CopyStatus)
		require.EqualValues(t, mib, *r.ContentLength)
	}
	same(t, fill(1, 512), get(t, n, 0, 512))

	started, err = n.StartCopyFromURL(t.Context(), p.URL(), nil)
	require.NoError(t, err)
	_, err = n.AbortCopyFromURL(t.Context(), "00000000-0000-0000-0000-000000000000", nil)
	refused(t, err, 409, "CopyIdMismatch")
	_, err = n.AbortCopyFromURL(t.Context(), *started.CopyID, nil)
	require.NoError(t, err)
	r, err := n.GetProperties(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, blob.CopyStatusTypeAborted, *r.CopyStatus)
	require.Zero(t, *r.ContentLength)
	_, err = n.AbortCopyFromURL(t.Context(), *started.CopyID, nil)
	refused(t, err, 409, "NoPendingCopyOperation")
}

func TestCopiesFromAnotherAccountNeedASignature(t *testing.T) {
	now := time.Now()
	b := NewBlobs(BlobOptions{Clock: func() time.Time { return now }})
	defer b.Close()
	one, err := b.Container(t.Context(), "one", "from")
	require.NoError(t, err)
	two, err := b.Container(t.Context(), "two", "into")
	require.NoError(t, err)
	p := pageBlob(t, one, "disk", mib)
	upload(t, p, fill(1, 512), 0)
	n := two.NewPageBlobClient("new")
	_, err = n.StartCopyFromURL(t.Context(), p.URL(), nil)
	refused(t, err, 403, "CannotVerifyCopySource")
	signed, err := p.GetSASURL(sas.BlobPermissions{Read: true}, now.Add(time.Hour), nil)
	require.NoError(t, err)
	copied(t, n, signed)
	same(t, fill(1, 512), get(t, n, 0, 512))
	now = now.Add(2 * time.Hour)
	_, err = n.StartCopyFromURL(t.Context(), signed, nil)
	refused(t, err, 403, "CannotVerifyCopySource")
}

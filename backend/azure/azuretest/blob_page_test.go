package azuretest

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/stretchr/testify/require"
)

const mib = 1 << 20

var pageFacts = []blobFact{
	{"a new page blob reads as zeros, and has no ranges", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		same(t, make([]byte, mib), get(t, p, 0, 0))
		require.Empty(t, ranges(t, p, nil))
	}},
	{"pages that are written are read, and told", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", 8*mib)
		b := fill(1, 4*mib)
		upload(t, p, b, 512)
		same(t, b, get(t, p, 512, 4*mib))
		same(t, b[100:200], get(t, p, 612, 100))
		same(t, make([]byte, 512), get(t, p, 0, 512))
		require.Equal(t, "512-4194815", ranges(t, p, nil))
		require.Equal(t, "1024-2047", ranges(t, p, &pageblob.GetPageRangesOptions{Range: blob.HTTPRange{Offset: 1024, Count: 1024}}))
	}},
	{"a large blob is read in one call", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", 20*mib)
		want := make([]byte, 20*mib)
		for i, off := range []int64{0, 8*mib - 512, 16*mib - 1024, 20*mib - 2048} {
			copy(want[off:], fill(byte(i), 2048))
			upload(t, p, fill(byte(i), 2048), off)
		}
		same(t, want, get(t, p, 0, 0))
		same(t, want[1000:17*mib], get(t, p, 1000, 17*mib-1000))
	}},
	{"pages that are cleared are zeros, and not told", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", 16*mib)
		upload(t, p, fill(1, 4096), 0)
		_, err := p.ClearPages(t.Context(), blob.HTTPRange{Offset: 1024, Count: 16*mib - 1024}, nil)
		require.NoError(t, err)
		require.Equal(t, "0-1023", ranges(t, p, nil))
		same(t, make([]byte, 4096-1024), get(t, p, 1024, 4096-1024))
	}},
	{"pages of zeros that are written are told", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		upload(t, p, make([]byte, 1024), 2048)
		require.Equal(t, "2048-3071", ranges(t, p, nil))
	}},
	{"an upload has at most 4 MiB", "Azurite takes more", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", 8*mib)
		_, err := p.UploadPages(t.Context(), body(fill(1, 4*mib+512)), blob.HTTPRange{Count: 4*mib + 512}, nil)
		refused(t, err, 413, "RequestBodyTooLarge")
		require.Empty(t, ranges(t, p, nil))
	}},
	{"an upload is within the blob", "Azurite takes what begins within it", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		_, err := p.UploadPages(t.Context(), body(fill(1, 1024)), blob.HTTPRange{Offset: mib - 512, Count: 1024}, nil)
		refused(t, err, 416, "InvalidPageRange")
	}},
	{"an upload has whole pages", "Azurite has a code of its own", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		_, err := p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Offset: 100, Count: 512}, nil)
		refused(t, err, 416, "InvalidPageRange")
		_, err = p.ClearPages(t.Context(), blob.HTTPRange{Offset: 0, Count: 100}, nil)
		refused(t, err, 416, "InvalidPageRange")
	}},
	{"a page blob has whole pages, and at most 8 TiB", "Azurite takes 9 TiB", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := c.NewPageBlobClient("disk")
		for _, size := range []int64{100, 8<<40 + 512} {
			_, err := p.Create(t.Context(), size, nil)
			refused(t, err, 400, "InvalidHeaderValue")
		}
		_, err := p.Create(t.Context(), 8<<40, nil)
		require.NoError(t, err)
		upload(t, p, fill(1, 512), 8<<40-512)
		require.Equal(t, "8796093021696-8796093022207", ranges(t, p, nil))
	}},
	{"pages aren't written to a block blob, or to none", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		put(t, c.NewBlockBlobClient("b"), "text")
		_, err := c.NewPageBlobClient("b").UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, nil)
		refused(t, err, 409, "InvalidBlobType")
		_, err = c.NewPageBlobClient("none").UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, nil)
		refused(t, err, 404, "BlobNotFound")
	}},
	{"each write changes the ETag, and a condition on an older one fails", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		one := upload(t, p, fill(1, 512), 0)
		two := upload(t, p, fill(2, 512), 0)
		require.NotEqual(t, one, two)
		o := &pageblob.UploadPagesOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &one}}}
		_, err := p.UploadPages(t.Context(), body(fill(3, 512)), blob.HTTPRange{Count: 512}, o)
		refused(t, err, 412, "ConditionNotMet")
		same(t, fill(2, 512), get(t, p, 0, 512))
		r, err := p.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, two, *r.ETag)
	}},
	{"a blob that is resized loses what is behind its end", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		upload(t, p, fill(1, mib), 0)
		_, err := p.Resize(t.Context(), 1024, nil)
		require.NoError(t, err)
		_, err = p.Resize(t.Context(), 2*mib, nil)
		require.NoError(t, err)
		require.Equal(t, "0-1023", ranges(t, p, nil))
		same(t, make([]byte, 1024), get(t, p, 1024, 1024))
		r, err := p.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.EqualValues(t, 2*mib, *r.ContentLength)
	}},
	{"sequence numbers go up, and are conditions", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := c.NewPageBlobClient("disk")
		_, err := p.Create(t.Context(), mib, &pageblob.CreateOptions{SequenceNumber: ptr(int64(7))})
		require.NoError(t, err)
		r, err := p.UpdateSequenceNumber(t.Context(), &pageblob.UpdateSequenceNumberOptions{ActionType: ptr(pageblob.SequenceNumberActionTypeIncrement)})
		require.NoError(t, err)
		require.EqualValues(t, 8, *r.BlobSequenceNumber)
		r, err = p.UpdateSequenceNumber(t.Context(), &pageblob.UpdateSequenceNumberOptions{ActionType: ptr(pageblob.SequenceNumberActionTypeMax), SequenceNumber: ptr(int64(5))})
		require.NoError(t, err)
		require.EqualValues(t, 8, *r.BlobSequenceNumber)
		try := func(k pageblob.SequenceNumberAccessConditions) error {
			_, err := p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, &pageblob.UploadPagesOptions{SequenceNumberAccessConditions: &k})
			return err
		}
		require.NoError(t, try(pageblob.SequenceNumberAccessConditions{IfSequenceNumberEqualTo: ptr(int64(8))}))
		require.NoError(t, try(pageblob.SequenceNumberAccessConditions{IfSequenceNumberLessThanOrEqualTo: ptr(int64(8))}))
		refused(t, try(pageblob.SequenceNumberAccessConditions{IfSequenceNumberLessThan: ptr(int64(8))}), 412, "SequenceNumberConditionNotMet")
		refused(t, try(pageblob.SequenceNumberAccessConditions{IfSequenceNumberEqualTo: ptr(int64(9))}), 412, "SequenceNumberConditionNotMet")
	}},
	{"ranges come in pages", "Azurite tells them all at once", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		want := ""
		for i := range int64(5) {
			upload(t, p, fill(1, 512), i*2048)
		}
		want = "0-511 2048-2559 4096-4607 6144-6655 8192-8703"
		for n := range int32(6) {
			require.Equal(t, want, ranges(t, p, &pageblob.GetPageRangesOptions{MaxResults: ptr(n + 1)}))
		}
		page, err := p.NewGetPageRangesPager(&pageblob.GetPageRangesOptions{MaxResults: ptr(int32(2))}).NextPage(t.Context())
		require.NoError(t, err)
		require.Len(t, page.PageRange, 2)
	}},
	{"wrong sums are refused, and nothing is written", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		for _, v := range []blob.TransferValidationType{blob.TransferValidationTypeMD5(make([]byte, 16)), blob.TransferValidationTypeCRC64(7)} {
			_, err := p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, &pageblob.UploadPagesOptions{TransactionalValidation: v})
			require.ErrorContains(t, err, "Mismatch")
		}
		require.Empty(t, ranges(t, p, nil))
		_, err := p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, &pageblob.UploadPagesOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
		require.NoError(t, err)
	}},
	{"pages are written from a URL", "Azurite answers 501", func(t *testing.T, e *blobEnv, c *container.Client) {
		src, dst := pageBlob(t, c, "src", mib), pageBlob(t, c, "dst", mib)
		b := fill(1, 4096)
		upload(t, src, b, 0)
		_, err := dst.UploadPagesFromURL(t.Context(), src.URL(), 1024, 512, 2048, nil)
		require.NoError(t, err)
		require.Equal(t, "512-2559", ranges(t, dst, nil))
		same(t, b[1024:3072], get(t, dst, 512, 2048))
	}},
	{"a range behind the end is refused", "Azurite answers with no bytes", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		_, err := p.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: mib, Count: 512}})
		refused(t, err, 416, "InvalidRange")
		require.Len(t, get(t, p, mib-512, 4096), 512)
	}},
}

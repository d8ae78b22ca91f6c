package azuretest

import (
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/stretchr/testify/require"
)

const noDiff = "Azurite tells all ranges as changed, and none as cleared"

func at(t *testing.T, p *pageblob.Client, snapshot string) *pageblob.Client {
	t.Helper()
	s, err := p.WithSnapshot(snapshot)
	require.NoError(t, err)
	return s
}

var snapshotFacts = []blobFact{
	{"a snapshot stays as it was, with metadata of its own", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		_, err := p.SetMetadata(t.Context(), map[string]*string{"of": ptr("base")}, nil)
		require.NoError(t, err)
		upload(t, p, fill(1, 1024), 0)
		s := at(t, p, snapshot(t, p, map[string]*string{"of": ptr("snapshot")}))
		upload(t, p, fill(2, 1024), 512)
		same(t, fill(1, 1024), get(t, s, 0, 1024))
		require.Equal(t, "0-1023", ranges(t, s, nil))
		require.Equal(t, "0-1535", ranges(t, p, nil))
		r, err := s.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "snapshot", *r.Metadata["Of"])
		r, err = p.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "base", *r.Metadata["Of"])
		plain := at(t, p, snapshot(t, p, nil))
		r, err = plain.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, "base", *r.Metadata["Of"])
	}},
	{"snapshots have ever later times, and are listed in order", "Azurite has milliseconds, and may list the blob first", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		want := []string{}
		for range 20 {
			want = append(want, snapshot(t, p, nil))
		}
		require.IsIncreasing(t, want)
		var got []string
		for pager := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{MaxResults: ptr(int32(3)), Include: container.ListBlobsInclude{Snapshots: true}}); pager.More(); {
			page, err := pager.NextPage(t.Context())
			require.NoError(t, err)
			for _, b := range page.Segment.BlobItems {
				if b.Snapshot == nil {
					got = append(got, "")
				} else {
					got = append(got, *b.Snapshot)
				}
			}
		}
		require.Equal(t, append(want, ""), got)
	}},
	{"a snapshot isn't written", "Azurite writes to the blob", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		s := at(t, p, snapshot(t, p, nil))
		_, err := s.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, nil)
		refused(t, err, 400, "InvalidQueryParameterValue")
		_, err = s.SetMetadata(t.Context(), nil, nil)
		refused(t, err, 400, "InvalidQueryParameterValue")
		require.Empty(t, ranges(t, p, nil))
	}},
	{"a blob with snapshots isn't deleted without them", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		one := at(t, p, snapshot(t, p, nil))
		upload(t, p, fill(1, 512), 0)
		two := at(t, p, snapshot(t, p, nil))
		_, err := p.Delete(t.Context(), nil)
		refused(t, err, 409, "SnapshotsPresent")
		_, err = one.Delete(t.Context(), nil)
		require.NoError(t, err)
		_, err = one.GetProperties(t.Context(), nil)
		refused(t, err, 404, "BlobNotFound")
		_, err = two.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		_, err = p.Delete(t.Context(), &blob.DeleteOptions{DeleteSnapshots: ptr(blob.DeleteSnapshotsOptionTypeOnly)})
		require.NoError(t, err)
		_, err = two.GetProperties(t.Context(), nil)
		refused(t, err, 404, "BlobNotFound")
		snapshot(t, p, nil)
		_, err = p.Delete(t.Context(), &blob.DeleteOptions{DeleteSnapshots: ptr(blob.DeleteSnapshotsOptionTypeInclude)})
		require.NoError(t, err)
		_, err = p.GetProperties(t.Context(), nil)
		refused(t, err, 404, "BlobNotFound")
	}},
	{"what changed since a snapshot is told, clears too", noDiff, func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		upload(t, p, fill(1, 8192), 0)
		one := snapshot(t, p, nil)
		upload(t, p, fill(2, 512), 1024)
		_, err := p.ClearPages(t.Context(), blob.HTTPRange{Offset: 4096, Count: 1024}, nil)
		require.NoError(t, err)
		two := snapshot(t, p, nil)
		upload(t, p, fill(3, 512), 65536)
		require.Equal(t, "+1024-1535 +65536-66047 -4096-5119", changes(t, p, &pageblob.GetPageRangesDiffOptions{PrevSnapshot: &one}))
		require.Equal(t, "+65536-66047", changes(t, p, &pageblob.GetPageRangesDiffOptions{PrevSnapshot: &two}))
		require.Equal(t, "+1024-1535 -4096-5119", changes(t, at(t, p, two), &pageblob.GetPageRangesDiffOptions{PrevSnapshot: &one}))
		url := at(t, p, one).URL()
		require.Equal(t, "+1024-1535 -4096-5119", changes(t, at(t, p, two), &pageblob.GetPageRangesDiffOptions{PrevSnapshotURL: &url}))
		require.Equal(t, "-4608-5119", changes(t, p, &pageblob.GetPageRangesDiffOptions{PrevSnapshot: &one, Range: blob.HTTPRange{Offset: 4608, Count: 8192}}))
		require.Equal(t, "+1024-1535 -4096-5119 +65536-66047", changes(t, p, &pageblob.GetPageRangesDiffOptions{PrevSnapshot: &one, MaxResults: ptr(int32(1))}))
		_, err = at(t, p, one).NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshot: &two}).NextPage(t.Context())
		refused(t, err, 400, "PreviousSnapshotCannotBeNewer")
		_, err = p.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshot: ptr("2020-01-01T00:00:00.0000000Z")}).NextPage(t.Context())
		refused(t, err, 409, "PreviousSnapshotNotFound")
	}},
	{"nothing can be told since a blob was overwritten", noDiff, func(t *testing.T, e *blobEnv, c *container.Client) {
		p := pageBlob(t, c, "disk", mib)
		one := snapshot(t, p, nil)
		pageBlob(t, c, "disk", mib)
		_, err := p.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshot: &one}).NextPage(t.Context())
		refused(t, err, 409, "BlobOverwritten")
		two := snapshot(t, p, nil)
		_, err = p.StartCopyFromURL(t.Context(), at(t, p, one).URL(), nil)
		require.NoError(t, err)
		for _, s := range []string{one, two} {
			_, err = p.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshot: &s}).NextPage(t.Context())
			refused(t, err, 409, "BlobOverwritten")
		}
		put(t, c.NewBlockBlobClient("other"), "text")
		other := snapshot(t, c.NewBlockBlobClient("other"), nil)
		_, err = pageBlob(t, c, "other", mib).NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshot: &other}).NextPage(t.Context())
		refused(t, err, 409, "BlobOverwritten")
		three := snapshot(t, p, nil)
		require.Empty(t, changes(t, p, &pageblob.GetPageRangesDiffOptions{PrevSnapshot: &three}))
	}},
}

func TestSnapshotsHaveTheirTimesWhateverTheClock(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678901299, time.UTC)
	e := ours(t, BlobOptions{Clock: func() time.Time { return now }})
	p := pageBlob(t, e.container(t), "disk", mib)
	one, two := snapshot(t, p, nil), snapshot(t, p, nil)
	require.Equal(t, "2026-01-02T03:04:05.6789012Z 2026-01-02T03:04:05.6789013Z", one+" "+two)
	now = now.Add(-time.Hour)
	require.Equal(t, "2026-01-02T03:04:05.6789014Z", snapshot(t, p, nil))
	now = time.Date(2026, 1, 2, 5, 0, 0, 0, time.UTC)
	require.Equal(t, "2026-01-02T05:00:00.0000000Z", snapshot(t, p, nil))
}

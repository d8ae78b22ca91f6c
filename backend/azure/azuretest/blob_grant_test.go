package azuretest

import (
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/stretchr/testify/require"
)

func granted(t *testing.T, url string) *pageblob.Client {
	t.Helper()
	p, err := pageblob.NewClientWithNoCredential(url, &pageblob.ClientOptions{ClientOptions: noRetries()})
	require.NoError(t, err)
	return p
}

// A managed disk is read, and compared with its snapshots, by grants.
func TestGrantsReadDisks(t *testing.T) {
	now := time.Now()
	e := ours(t, BlobOptions{Clock: func() time.Time { return now }})
	disk := newPages(mib + 512)
	require.NoError(t, disk.writeAt(fill(1, 8192), 0))
	one := disk.freeze()
	require.NoError(t, disk.writeAt(fill(2, 512), 65536))
	require.NoError(t, disk.clearAt(1024, 1024))
	two := disk.freeze()
	until := now.Add(time.Hour)
	url1, url2 := e.ours.grant(one, false, until), e.ours.grant(two, false, until)
	require.NotEqual(t, url1, url2)
	a, b := granted(t, url1), granted(t, url2)

	same(t, fill(1, 8192), get(t, a, 0, 8192))
	same(t, fill(2, 512), get(t, b, 65536, 512))
	r, err := a.GetProperties(t.Context(), nil)
	require.NoError(t, err)
	require.EqualValues(t, mib+512, *r.ContentLength)
	require.Equal(t, blob.BlobTypePageBlob, *r.BlobType)
	require.Equal(t, "0-8191", ranges(t, a, nil))
	require.Equal(t, "0-1023 2048-8191 65536-66047", ranges(t, b, nil))
	require.Equal(t, "+65536-66047 -1024-2047", changes(t, b, &pageblob.GetPageRangesDiffOptions{PrevSnapshotURL: &url1}))

	_, err = a.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshotURL: &url2}).NextPage(t.Context())
	refused(t, err, 400, "PreviousSnapshotCannotBeNewer")
	foreign := e.ours.grant(newPages(mib).freeze(), false, until)
	_, err = b.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshotURL: &foreign}).NextPage(t.Context())
	refused(t, err, 400, "InvalidHeaderValue")

	to := e.container(t).NewPageBlobClient("copy")
	copied(t, to, url1)
	same(t, fill(1, 8192), get(t, to, 0, 8192))
	require.Equal(t, "0-8191", ranges(t, to, nil))

	for what, do := range map[string]func() error{
		"write": func() error {
			_, err := a.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, nil)
			return err
		},
		"delete":   func() error { _, err := a.Delete(t.Context(), nil); return err },
		"snapshot": func() error { _, err := a.CreateSnapshot(t.Context(), nil); return err },
		"lease":    func() error { _, err := leaseOf(t, a, leaseA).AcquireLease(t.Context(), -1, nil); return err },
		"resize":   func() error { _, err := a.Resize(t.Context(), 512, nil); return err },
	} {
		t.Run(what, func(t *testing.T) { refused(t, do(), 403, "AuthorizationPermissionMismatch") })
	}

	e.ours.revoke(url1)
	e.ours.revoke(url1)
	e.ours.revoke("no URL")
	_, err = a.GetProperties(t.Context(), nil)
	refused(t, err, 403, "AuthenticationFailed")
	_, err = b.NewGetPageRangesDiffPager(&pageblob.GetPageRangesDiffOptions{PrevSnapshotURL: &url1}).NextPage(t.Context())
	refused(t, err, 403, "AuthenticationFailed")
	_, err = to.StartCopyFromURL(t.Context(), url1, nil)
	refused(t, err, 403, "CannotVerifyCopySource")
	_, err = granted(t, strings.Replace(url2, "sig=", "sig=x", 1)).GetProperties(t.Context(), nil)
	refused(t, err, 403, "AuthenticationFailed")
	now = until
	_, err = b.GetProperties(t.Context(), nil)
	refused(t, err, 403, "AuthenticationFailed")
}

func TestGrantsWriteDisks(t *testing.T) {
	e := ours(t, BlobOptions{})
	disk := newPages(16 * mib)
	url := e.ours.grant(disk, true, time.Now().Add(time.Hour))
	p := granted(t, url)
	upload(t, p, fill(1, 4*mib), 4*mib)
	_, err := p.ClearPages(t.Context(), blob.HTTPRange{Offset: 4 * mib, Count: 8 * mib}, nil)
	require.NoError(t, err)
	upload(t, p, fill(2, 1024), 512)
	same(t, fill(2, 1024), get(t, p, 512, 1024))
	require.Equal(t, "512-1535", ranges(t, p, nil))
	got := make([]byte, 1024)
	_, err = disk.readAt(got, 512)
	require.NoError(t, err)
	same(t, fill(2, 1024), got)
	_, err = p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Offset: 16 * mib, Count: 512}, nil)
	refused(t, err, 416, "InvalidPageRange")
	_, err = p.UploadPages(t.Context(), body(fill(1, 4*mib+512)), blob.HTTPRange{Count: 4*mib + 512}, nil)
	refused(t, err, 413, "RequestBodyTooLarge")
	_, err = p.Delete(t.Context(), nil)
	refused(t, err, 403, "AuthorizationPermissionMismatch")
	e.ours.revoke(url)
	_, err = p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, nil)
	refused(t, err, 403, "AuthenticationFailed")
}

func TestSourceIsAPageBlobAsItIs(t *testing.T) {
	e := ours(t, BlobOptions{})
	c := e.container(t)
	p := pageBlob(t, c, "disk", mib)
	upload(t, p, fill(1, 512), 0)
	s := at(t, p, snapshot(t, p, nil))
	got, err := e.ours.source(t.Context(), p.URL())
	require.NoError(t, err)
	upload(t, p, fill(2, 512), 0)
	b := make([]byte, 512)
	_, err = got.readAt(b, 0)
	require.NoError(t, err)
	same(t, fill(1, 512), b)
	require.EqualValues(t, mib, got.length())
	put(t, c.NewBlockBlobClient("block"), "text")
	for _, url := range []string{s.URL(), c.NewBlobClient("block").URL(), c.NewBlobClient("none").URL(), c.URL(), e.url,
		"https://elsewhere/acct/c/disk", e.ours.grant(newPages(512), false, time.Now().Add(time.Hour)), "::"} {
		_, err := e.ours.source(t.Context(), url)
		require.Error(t, err, url)
	}
}

func TestFaultsComeBeforeTheService(t *testing.T) {
	e := ours(t, BlobOptions{})
	c := e.container(t)
	p := pageBlob(t, c, "disk", mib)
	before := e.ours.Calls()
	e.ours.OnCall(func(call Call) *Fault {
		require.Equal(t, ServiceBlob, call.Service)
		switch call.N - before {
		case 1:
			return &Fault{Status: 503, Code: "ServerBusy"}
		case 2:
			return &Fault{Lost: true, Effect: true}
		}
		return nil
	})
	_, err := p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, nil)
	refused(t, err, 503, "ServerBusy")
	_, err = p.UploadPages(t.Context(), body(fill(1, 512)), blob.HTTPRange{Count: 512}, nil)
	require.Error(t, err)
	var answered *azcore.ResponseError
	require.NotErrorAs(t, err, &answered)
	same(t, fill(1, 512), get(t, p, 0, 512))
	require.Equal(t, before+3, e.ours.Calls())
}

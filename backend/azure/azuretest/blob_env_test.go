package azuretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/azurite"
)

// blobEnv is a Blob service that facts are shown of.
type blobEnv struct {
	account, url, key string
	ours              *Blobs // nil if it isn't
	n                 atomic.Int64
}

// noRetries lets a refusal be seen at once.
func noRetries() azcore.ClientOptions {
	return azcore.ClientOptions{Retry: policy.RetryOptions{MaxRetries: -1}}
}

func (e *blobEnv) service(t *testing.T) *service.Client {
	cred, err := service.NewSharedKeyCredential(e.account, e.key)
	require.NoError(t, err)
	c, err := service.NewClientWithSharedKeyCredential(e.url, cred, &service.ClientOptions{ClientOptions: noRetries()})
	require.NoError(t, err)
	return c
}

// container makes a new one.
func (e *blobEnv) container(t *testing.T) *container.Client {
	c := e.service(t).NewContainerClient(fmt.Sprintf("c%d-%d", time.Now().UnixNano(), e.n.Add(1)))
	_, err := c.Create(t.Context(), nil)
	require.NoError(t, err)
	return c
}

func ours(t testing.TB, o BlobOptions) *blobEnv {
	b := NewBlobs(o)
	t.Cleanup(b.Close)
	url, key := b.Account("acct")
	return &blobEnv{account: "acct", url: url, key: key, ours: b}
}

// emulator is Microsoft's own, whose account may not be one that others use.
func emulator(t *testing.T) *blobEnv {
	s := azurite.Start(t)
	return &blobEnv{account: s.Account, url: s.URL(), key: s.Key}
}

// refused fails unless an error is Azure's with this status and code. An empty
// code is for answers that have none.
func refused(t *testing.T, err error, status int, code string) {
	t.Helper()
	var e *azcore.ResponseError
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, fmt.Sprint(status, " ", code), fmt.Sprint(e.StatusCode, " ", e.ErrorCode), "%v", err)
}

// same fails if bytes differ, without printing them all.
func same(t testing.TB, want, got []byte) {
	t.Helper()
	require.Equal(t, len(want), len(got))
	for i := range want {
		if want[i] != got[i] {
			t.Fatalf("byte %d is %#x, not %#x", i, got[i], want[i])
		}
	}
}

func body(b []byte) io.ReadSeekCloser { return streaming.NopCloser(bytes.NewReader(b)) }

func ptr[T any](v T) *T { return &v }

// fill returns bytes that differ from one tag, and one place, to the next.
func fill(tag byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = tag + byte(i/pageSize)*7 + byte(i)
		if b[i] == 0 {
			b[i] = 1
		}
	}
	return b
}

func put(t *testing.T, c *blockblob.Client, text string) azcore.ETag {
	t.Helper()
	r, err := c.Upload(t.Context(), body([]byte(text)), nil)
	require.NoError(t, err)
	return *r.ETag
}

// get reads a blob or a part of it; n 0 is all.
func get(t *testing.T, c interface {
	DownloadStream(context.Context, *blob.DownloadStreamOptions) (blob.DownloadStreamResponse, error)
}, off, n int64) []byte {
	t.Helper()
	r, err := c.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: off, Count: n}})
	require.NoError(t, err)
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	return b
}

func pageBlob(t *testing.T, c *container.Client, name string, size int64) *pageblob.Client {
	t.Helper()
	p := c.NewPageBlobClient(name)
	_, err := p.Create(t.Context(), size, nil)
	require.NoError(t, err)
	return p
}

func upload(t *testing.T, p *pageblob.Client, b []byte, off int64) azcore.ETag {
	t.Helper()
	r, err := p.UploadPages(t.Context(), body(b), blob.HTTPRange{Offset: off, Count: int64(len(b))}, nil)
	require.NoError(t, err)
	return *r.ETag
}

func snapshot(t *testing.T, c interface {
	CreateSnapshot(context.Context, *blob.CreateSnapshotOptions) (blob.CreateSnapshotResponse, error)
}, meta map[string]*string) string {
	t.Helper()
	r, err := c.CreateSnapshot(t.Context(), &blob.CreateSnapshotOptions{Metadata: meta})
	require.NoError(t, err)
	return *r.Snapshot
}

// ranges lists what is written, as "from-to from-to", whichever way neighbours
// are told apart.
func ranges(t *testing.T, p *pageblob.Client, o *pageblob.GetPageRangesOptions) string {
	t.Helper()
	var spans []span
	for pager := p.NewGetPageRangesPager(o); pager.More(); {
		page, err := pager.NextPage(t.Context())
		require.NoError(t, err)
		for _, r := range page.PageRange {
			spans = join(spans, span{*r.Start, *r.End + 1 - *r.Start})
		}
	}
	var list []string
	for _, s := range spans {
		list = append(list, fmt.Sprintf("%d-%d", s.off, s.off+s.n-1))
	}
	return strings.Join(list, " ")
}

// changes lists what was written (+) and cleared (-).
func changes(t *testing.T, p *pageblob.Client, o *pageblob.GetPageRangesDiffOptions) string {
	t.Helper()
	var list []string
	for pager := p.NewGetPageRangesDiffPager(o); pager.More(); {
		page, err := pager.NextPage(t.Context())
		require.NoError(t, err)
		for _, r := range page.PageRange {
			list = append(list, fmt.Sprintf("+%d-%d", *r.Start, *r.End))
		}
		for _, r := range page.ClearRange {
			list = append(list, fmt.Sprintf("-%d-%d", *r.Start, *r.End))
		}
	}
	return strings.Join(list, " ")
}

const anyETag = azcore.ETagAny

// raw makes a request without a client's ways.
func raw(t *testing.T, method, url string, headers map[string]string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	a, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer a.Body.Close()
	if a.StatusCode < 300 {
		return nil
	}
	return runtime.NewResponseError(a)
}

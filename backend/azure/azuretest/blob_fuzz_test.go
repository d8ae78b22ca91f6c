package azuretest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzBlobBlockList(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><BlockList><Latest>AAAA</Latest><Committed>BBBB</Committed></BlockList>`))
	f.Add([]byte(`<BlockList/>`))
	f.Add([]byte(`<BlockList><Latest>A<x/>B</Latest></BlockList><BlockList/>`))
	f.Add([]byte(`</BlockList>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := blobBlockList(b)
		var e *blobError
		if err != nil {
			require.True(t, errors.As(err, &e))
			require.Equal(t, 400, e.status)
			return
		}
		for _, r := range list {
			require.Contains(t, []string{"Latest", "Committed", "Uncommitted"}, r.list)
		}
	})
}

func FuzzBlobRange(f *testing.F) {
	for _, v := range []string{"bytes=0-511", "bytes=512-", "bytes=-5", "bytes=9-1", "bytes=0-99999999999999999999", "x"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		off, end, ok := blobRange(v)
		if ok {
			require.GreaterOrEqual(t, off, int64(0))
			require.Greater(t, end, int64(0))
			require.True(t, end > off || strings.HasSuffix(v, "-"))
		}
	})
}

// Whatever comes, the service answers, and never with an error of its own.
func FuzzBlobRequests(f *testing.F) {
	for _, seed := range [][4]string{
		{"PUT", "/acct/con/blob", "comp=block&blockid=QQ==", "x-ms-blob-type: BlockBlob"},
		{"PUT", "/acct/con/disk", "comp=page", "x-ms-range: bytes=0-511\nx-ms-page-write: clear"},
		{"PUT", "/acct/con/disk", "comp=properties", "x-ms-blob-content-length: 1024\nIf-Match: *"},
		{"PUT", "/acct/con/disk", "comp=lease", "x-ms-lease-action: acquire\nx-ms-lease-duration: 15"},
		{"PUT", "/acct/con/new", "", "x-ms-copy-source: http://127.0.0.1/acct/con/disk"},
		{"GET", "/acct/con", "restype=container&comp=list&marker=QQ&maxresults=2&delimiter=/&include=snapshots", ""},
		{"GET", "/acct/con/disk", "comp=pagelist&prevsnapshot=2026-01-01T00:00:00.0000000Z&marker=zz", "x-ms-range: bytes=5-"},
		{"POST", "/acct", "comp=batch", "Content-Type: multipart/mixed; boundary=x"},
		{"GET", "/md/x/abcd", "sig=x", ""},
		{"DELETE", "/acct/con/disk", "snapshot=x", "x-ms-delete-snapshots: only"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], []byte("body"))
	}
	b := NewBlobs(BlobOptions{})
	f.Cleanup(b.Close)
	c, err := b.Container(f.Context(), "acct", "con")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, method, path, query, headers string, text []byte) {
		if method != http.MethodGet && method != http.MethodPut && method != http.MethodDelete && method != http.MethodPost && method != http.MethodHead {
			return
		}
		_, err := c.NewPageBlobClient("disk").Create(t.Context(), 65536, nil)
		if err != nil {
			b.mu.Lock()
			delete(b.accounts, "acct") // a lease, or no container: begin anew
			b.mu.Unlock()
			_, err = b.Container(t.Context(), "acct", "con")
			require.NoError(t, err)
		}
		r := httptest.NewRequest(method, "/", strings.NewReader(string(text)))
		r.URL = &url.URL{Path: path, RawQuery: query}
		r.Header.Set("x-ms-version", "2026-06-06")
		r.Header.Set("Authorization", "Bearer x")
		for line := range strings.Lines(headers) {
			if name, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
				r.Header.Set(name, v)
			}
		}
		w := httptest.NewRecorder()
		b.ServeHTTP(w, r)
		require.NotEqual(t, 500, w.Code, "%s", w.Body)
		require.NotEmpty(t, w.Header().Get("x-ms-request-id"))
		if w.Code >= 300 {
			require.NotEmpty(t, w.Header().Get("x-ms-error-code"))
		}
	})
}

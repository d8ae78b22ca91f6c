package azuretest

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/stretchr/testify/require"
)

func TestOnlyWhoKnowsTheKeyIsAnswered(t *testing.T) {
	e := ours(t, BlobOptions{})
	c := e.container(t)
	b := c.NewBlockBlobClient("b")
	put(t, b, "text")
	url := c.URL() + "/b"
	version := map[string]string{"x-ms-version": "2026-06-06"}

	refused(t, raw(t, "GET", url, version), 403, "NoAuthenticationInformation")
	version["Authorization"] = "Basic x"
	refused(t, raw(t, "GET", url, version), 403, "AuthenticationFailed")
	version["Authorization"] = "Bearer token"
	require.NoError(t, raw(t, "GET", url, version))
	refused(t, raw(t, "GET", e.ours.URL()+"/nobody/c/b", version), 403, "AuthenticationFailed")

	_, key := e.ours.Account("other")
	for account, key := range map[string]string{"acct": key, "other": key, "another": base64.StdEncoding.EncodeToString([]byte("key"))} {
		cred, err := container.NewSharedKeyCredential(account, key)
		require.NoError(t, err)
		w, err := container.NewClientWithSharedKeyCredential(c.URL(), cred, &container.ClientOptions{ClientOptions: noRetries()})
		require.NoError(t, err)
		_, err = w.GetProperties(t.Context(), nil)
		refused(t, err, 403, "AuthenticationFailed")
	}
}

// Every kind of header and query is signed the way the client signs it.
func TestSignaturesCoverOddRequests(t *testing.T) {
	c := ours(t, BlobOptions{}).container(t)
	b := c.NewBlockBlobClient("ä b/c+d%&?.txt")
	_, err := b.Upload(t.Context(), body([]byte("text")), &blockblob.UploadOptions{
		Metadata:    map[string]*string{"a": ptr("1"), "a_b": ptr("2"), "aB": ptr("3"), "a1": ptr("4"), "_a": ptr("5")},
		HTTPHeaders: &blob.HTTPHeaders{BlobContentType: ptr("x/y"), BlobContentEncoding: ptr("br")}})
	require.NoError(t, err)
	same(t, []byte("text"), get(t, b, 0, 0))
	require.Equal(t, "ä b/c+d%&?.txt", flat(t, c, container.ListBlobsFlatOptions{Prefix: ptr("ä b/c+")}))
}

func TestSignedURLsAreHeldToTheirTerms(t *testing.T) {
	now := time.Now()
	e := ours(t, BlobOptions{Clock: func() time.Time { return now }})
	c := e.container(t)
	b := c.NewBlockBlobClient("b")
	put(t, b, "text")
	url, err := b.GetSASURL(sas.BlobPermissions{Read: true}, now.Add(time.Hour), nil)
	require.NoError(t, err)
	s, err := blockblob.NewClientWithNoCredential(url, &blockblob.ClientOptions{ClientOptions: noRetries()})
	require.NoError(t, err)
	same(t, []byte("text"), get(t, s, 0, 0))
	_, err = s.Upload(t.Context(), body(nil), nil)
	refused(t, err, 403, "AuthorizationPermissionMismatch")
	_, err = s.Delete(t.Context(), nil)
	refused(t, err, 403, "AuthorizationPermissionMismatch")
	refused(t, raw(t, "GET", strings.Replace(url, "sig=", "sig=A", 1), nil), 403, "AuthenticationFailed")
	refused(t, raw(t, "GET", strings.Replace(url, "sp=r", "sp=rw", 1), nil), 403, "AuthenticationFailed")
	refused(t, raw(t, "GET", strings.Replace(url, "/b?", "/other?", 1), nil), 403, "AuthenticationFailed")
	require.NoError(t, raw(t, "GET", url, nil), "the URL tells a version")
	now = now.Add(time.Hour)
	_, err = s.GetProperties(t.Context(), nil)
	refused(t, err, 403, "AuthenticationFailed")
}

func TestSignaturesAreForAnAccountAContainerOrASnapshot(t *testing.T) {
	e := ours(t, BlobOptions{})
	c := e.container(t)
	b := c.NewBlockBlobClient("dir/b")
	put(t, b, "text")
	until := time.Now().Add(time.Hour)
	open := func(url, name, comp string) error {
		t.Helper()
		base, q, _ := strings.Cut(url, "?")
		q = strings.ReplaceAll(q, "?", "&") // the client puts a second one behind a snapshot
		return raw(t, "GET", base+name+"?"+comp+q, nil)
	}
	account, err := e.service(t).GetSASURL(sas.AccountResourceTypes{Object: true, Container: true}, sas.AccountPermissions{Read: true}, until, nil)
	require.NoError(t, err)
	name := strings.TrimPrefix(c.URL(), e.url)
	require.NoError(t, open(account, strings.Trim(name, "/")+"/dir/b", ""))
	refused(t, open(account, strings.Trim(name, "/"), "restype=container&comp=list&"), 403, "AuthorizationPermissionMismatch")
	list, err := c.GetSASURL(sas.ContainerPermissions{Read: true, List: true}, until, nil)
	require.NoError(t, err)
	require.NoError(t, open(list, "/dir/b", ""))
	require.NoError(t, open(list, "", "restype=container&comp=list&"))
	s, err := b.WithSnapshot(snapshot(t, b, nil))
	require.NoError(t, err)
	url, err := s.GetSASURL(sas.BlobPermissions{Read: true}, until, nil)
	require.NoError(t, err)
	require.NoError(t, open(url, "", ""))
}

func TestTheAnswersTellWhatIsNotSimulated(t *testing.T) {
	c := ours(t, BlobOptions{}).container(t)
	_, err := c.NewAppendBlobClient("a").Create(t.Context(), nil)
	refused(t, err, 501, "NotImplemented")
	b := c.NewBlockBlobClient("b")
	put(t, b, "text")
	_, err = b.SetTier(t.Context(), blob.AccessTierCool, nil)
	refused(t, err, 501, "NotImplemented")
}

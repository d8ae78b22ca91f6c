package azuretest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

var errBlobAuth = &blobError{403, "AuthenticationFailed", "Server failed to authenticate the request. Make sure the value of the Authorization header is formed correctly including the signature."}

// authenticate refuses who doesn't know the account's key, or has no token or
// signature.
func (c *blobCall) authenticate(account string) error {
	scheme, rest, _ := strings.Cut(c.header("Authorization"), " ")
	switch {
	case c.account == nil:
		return errBlobAuth
	case scheme == "Bearer" && rest != "":
		return nil
	case scheme == "SharedKey":
		name, sign, ok := strings.Cut(rest, ":")
		got, err := base64.StdEncoding.DecodeString(sign)
		if !ok || name != account || err != nil || !hmac.Equal(got, blobSignature(c.r, name, c.account.key)) {
			return errBlobAuth
		}
		return nil
	case scheme != "":
		return errBlobAuth
	case c.q.Get("sig") != "":
		return c.checkSAS()
	case c.part:
		return errBlobAuth
	}
	return blobErr(403, "NoAuthenticationInformation")
}

// checkSAS holds a client to its signature and the terms of it.
func (c *blobCall) checkSAS() error {
	if !c.b.signed(blobName{c.account.name, c.container, c.blob, c.q.Get("snapshot"), c.q}, c.now) {
		return errBlobAuth
	}
	var need string
	switch comp := c.q.Get("comp"); {
	case c.r.Method == http.MethodDelete:
		need = "d"
	case comp == "tags":
		need = "t"
	case c.r.Method == http.MethodPut:
		need = "wca"
	case comp == "list":
		need = "l"
	case comp == "batch":
		return nil // each part has its own
	default:
		need = "r"
	}
	if sp := c.q.Get("sp"); sp != "" && !strings.ContainsAny(sp, need) {
		return blobErr(403, "AuthorizationPermissionMismatch")
	}
	return nil
}

// signed tells whether a URL has a shared access signature for what it names
// that holds at a time. Signatures by a user delegation key are believed.
func (b *Blobs) signed(n blobName, now time.Time) bool {
	a := b.account(n.account)
	p := sas.NewQueryParameters(maps.Clone(n.query), false)
	if a == nil || p.Signature() == "" || !p.ExpiryTime().IsZero() && !now.Before(p.ExpiryTime()) || now.Before(p.StartTime()) {
		return false
	}
	if p.SignedOID() != "" {
		return true
	}
	cred, err := azblob.NewSharedKeyCredential(a.name, base64.StdEncoding.EncodeToString(a.key))
	if err != nil {
		return false
	}
	var want sas.QueryParameters
	if p.ResourceTypes() != "" {
		want, err = sas.AccountSignatureValues{Version: p.Version(), Protocol: p.Protocol(), StartTime: p.StartTime(), ExpiryTime: p.ExpiryTime(),
			Permissions: p.Permissions(), IPRange: p.IPRange(), ResourceTypes: p.ResourceTypes(), EncryptionScope: p.EncryptionScope()}.SignWithSharedKey(cred)
	} else {
		v := sas.BlobSignatureValues{Version: p.Version(), Protocol: p.Protocol(), StartTime: p.StartTime(), ExpiryTime: p.ExpiryTime(),
			Permissions: p.Permissions(), IPRange: p.IPRange(), Identifier: p.Identifier(), ContainerName: n.container,
			CacheControl: p.CacheControl(), ContentDisposition: p.ContentDisposition(), ContentEncoding: p.ContentEncoding(),
			ContentLanguage: p.ContentLanguage(), ContentType: p.ContentType(), EncryptionScope: p.EncryptionScope()}
		switch p.Resource() {
		case "b":
			v.BlobName = n.blob
		case "bs":
			v.BlobName = n.blob
			if v.SnapshotTime, err = time.Parse(blobSnapshotTime, n.snapshot); err != nil {
				return false
			}
		case "c":
		default:
			return false
		}
		want, err = v.SignWithSharedKey(cred)
	}
	return err == nil && hmac.Equal([]byte(want.Signature()), []byte(p.Signature()))
}

// blobSignature is what the holder of an account's key writes under a request.
func blobSignature(r *http.Request, account string, key []byte) []byte {
	length := r.Header.Get("Content-Length")
	if length == "0" {
		length = ""
	}
	lines := []string{r.Method}
	for _, name := range []string{"Content-Encoding", "Content-Language", "", "Content-MD5", "Content-Type", "Date",
		"If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"} {
		switch {
		case name == "":
			lines = append(lines, length)
		case name == "Date" && r.Header.Get("x-ms-date") != "":
			lines = append(lines, "")
		default:
			lines = append(lines, r.Header.Get(name))
		}
	}
	named := map[string]string{}
	for name, values := range r.Header {
		if name := strings.ToLower(name); strings.HasPrefix(name, "x-ms-") {
			named[name] = strings.Join(values, ",")
		}
	}
	// The service's order passes over hyphens, and has _ before all else.
	weight := strings.NewReplacer("-", "", "_", "!")
	for _, name := range slices.SortedFunc(maps.Keys(named), func(a, b string) int {
		return strings.Compare(weight.Replace(a), weight.Replace(b))
	}) {
		lines = append(lines, name+":"+named[name])
	}
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	lines = append(lines, "/"+account+path)
	q, _ := url.ParseQuery(r.URL.RawQuery)
	for _, name := range slices.Sorted(maps.Keys(q)) {
		values := slices.Sorted(slices.Values(q[name]))
		lines = append(lines, strings.ToLower(name)+":"+strings.Join(values, ","))
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.Join(lines, "\n")))
	return mac.Sum(nil)
}

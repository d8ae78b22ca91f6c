package azuretest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// blobGrant lets whoever has its URL read a managed disk or a snapshot of one,
// or write a disk that is being uploaded.
type blobGrant struct {
	pages       *pages
	write       bool
	made, until time.Time
	sig         string
}

func (g *blobGrant) etag() string { return fmt.Sprintf(`"0x8DF%012X"`, g.pages.moment()) }

// grant returns a URL by which a managed disk is read, or written, until a time.
func (b *Blobs) grant(p *pages, write bool, until time.Time) string {
	var random [24]byte
	rand.Read(random[:]) // never fails
	sum := sha256.Sum256(random[:])
	g := &blobGrant{pages: p, write: write, made: b.now(), until: until, sig: base64.StdEncoding.EncodeToString(sum[:])}
	path := "/md/" + hex.EncodeToString(random[:8]) + "/abcd"
	b.mu.Lock()
	b.grants[path] = g
	b.mu.Unlock()
	q := url.Values{"sv": {"2018-03-28"}, "sr": {"b"}, "sp": {"r"}, "sig": {g.sig}, "se": {until.UTC().Format(time.RFC3339)}}
	if write {
		q.Set("sp", "rw")
	}
	return b.URL() + path + "?" + q.Encode()
}

// revoke ends a grant. One that isn't known is fine.
func (b *Blobs) revoke(given string) {
	u, err := url.Parse(given)
	if err != nil {
		return
	}
	b.mu.Lock()
	delete(b.grants, u.Path)
	b.mu.Unlock()
}

// granted returns the grant of a URL and its signature, or nil.
func (b *Blobs) granted(given string) *blobGrant {
	u, err := url.Parse(given)
	if err != nil || u.Host != "" && u.Scheme+"://"+u.Host != b.URL() {
		return nil
	}
	b.mu.RLock()
	g := b.grants[u.Path]
	b.mu.RUnlock()
	if g == nil || subtle.ConstantTimeCompare([]byte(u.Query().Get("sig")), []byte(g.sig)) == 0 {
		return nil
	}
	return g
}

// grant answers a call to a managed disk.
func (c *blobCall) grant() error {
	g := c.b.granted(c.r.URL.String())
	if g == nil || !c.now.Before(g.until) {
		return errBlobAuth
	}
	h := c.w.Header()
	h.Set("ETag", g.etag())
	h.Set("Last-Modified", g.made.Format(http.TimeFormat))
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	switch c.r.Method + " " + c.q.Get("comp") {
	case "GET ", "HEAD ":
		if err := k.read(g.etag(), g.made); err != nil {
			return err
		}
		h.Set("x-ms-blob-type", blobPageType)
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Accept-Ranges", "bytes")
		return c.content(&blobState{kind: blobPageType, pages: g.pages}, func() {})
	case "GET pagelist":
		if err := k.read(g.etag(), g.made); err != nil {
			return err
		}
		return c.grantRanges(g)
	case "PUT page":
		if !g.write {
			return blobErr(403, "AuthorizationPermissionMismatch")
		}
		if c.header("x-ms-copy-source") != "" {
			return blobNotImplemented("writing a disk from a URL")
		}
		if err := k.write(g.etag(), g.made); err != nil {
			return err
		}
		data, off, n, err := c.pageWrite()
		if err != nil {
			return err
		}
		if err := g.pages.put(data, off, n); err != nil {
			return err
		}
		h.Set("ETag", g.etag())
		h.Set("x-ms-blob-sequence-number", "0")
		return c.answer(201)
	}
	return blobErr(403, "AuthorizationPermissionMismatch")
}

// grantRanges lists what is written, or what changed since another moment of
// the same disk, which its own grant names.
func (c *blobCall) grantRanges(g *blobGrant) error {
	previous := c.header("x-ms-previous-snapshot-url")
	if previous == "" {
		previous = c.q.Get("prevsnapshot")
	}
	if previous == "" {
		return c.pageList(g.pages, nil)
	}
	since := c.b.granted(previous)
	if since == nil || !c.now.Before(since.until) {
		return errBlobAuth
	}
	if since.pages.line != g.pages.line || !since.pages.frozen {
		return blobBadHeader("x-ms-previous-snapshot-url")
	}
	if since.pages.moment() > g.pages.moment() {
		return blobErr(400, "PreviousSnapshotCannotBeNewer")
	}
	return c.pageList(g.pages, since.pages)
}

package azuretest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// blobName is what a URL of this service names.
type blobName struct {
	account, container, blob, snapshot string
	query                              url.Values
}

func (b *Blobs) parseURL(given string) (blobName, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme+"://"+u.Host != b.URL() {
		return blobName{}, fmt.Errorf("no URL of this service")
	}
	path := append(strings.SplitN(strings.TrimPrefix(u.Path, "/"), "/", 3), "", "")
	q := u.Query()
	return blobName{path[0], path[1], path[2], q.Get("snapshot"), q}, nil
}

// source returns what a page blob of this service holds now. It fails for what
// no managed disk can be imported from: snapshots, block blobs, and blobs that
// aren't there or are still being copied to.
func (b *Blobs) source(ctx context.Context, url string) (*pages, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := b.parseURL(url)
	if err != nil {
		return nil, err
	}
	a := b.account(n.account)
	if a == nil || n.blob == "" {
		return nil, fmt.Errorf("no blob of an account here")
	}
	if n.snapshot != "" {
		return nil, fmt.Errorf("%s/%s is a snapshot", n.container, n.blob)
	}
	t, err := a.container(n.container)
	if err != nil {
		return nil, err
	}
	o := t.find(n.blob)
	if o == nil {
		return nil, blobErr(404, "BlobNotFound")
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	switch {
	case o.base == nil:
		return nil, blobErr(404, "BlobNotFound")
	case o.base.kind != blobPageType:
		return nil, blobErr(409, "InvalidBlobType")
	case o.pending != nil:
		return nil, blobErr(409, "PendingCopyOperation")
	}
	return o.base.pages.freeze(), nil
}

// sourceState returns the blob, snapshot or managed disk that a copy is made
// of, frozen.
func (c *blobCall) sourceState() (*blobState, error) {
	given := c.header("x-ms-copy-source")
	n, err := c.b.parseURL(given)
	if err != nil {
		return nil, blobBadHeader("x-ms-copy-source")
	}
	if n.account == "md" {
		g := c.b.granted(given)
		if g == nil || !c.now.Before(g.until) {
			return nil, blobErr(403, "CannotVerifyCopySource")
		}
		p := g.pages.freeze()
		return &blobState{kind: blobPageType, etag: g.etag(), modified: g.made, pages: p,
			head: blobHead{typ: "application/octet-stream"}}, nil
	}
	a := c.b.account(n.account)
	if a == nil {
		return nil, blobErr(404, "CannotVerifyCopySource")
	}
	if a != c.account && c.header("x-ms-copy-source-authorization") == "" && !c.b.signed(n, c.now) {
		return nil, blobErr(403, "CannotVerifyCopySource")
	}
	t, err := a.container(n.container)
	if err != nil {
		return nil, err
	}
	o := t.find(n.blob)
	if o == nil {
		return nil, blobErr(404, "BlobNotFound")
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	s := o.at(n.snapshot)
	if s == nil {
		return nil, blobErr(404, "BlobNotFound")
	}
	if o.pending != nil && n.snapshot == "" {
		return nil, blobErr(409, "PendingCopyOperation")
	}
	k, err := c.conditions("x-ms-source-")
	if err != nil {
		return nil, err
	}
	if k.write(s.etag, s.modified) != nil {
		return nil, blobErr(412, "SourceConditionNotMet")
	}
	frozen := *s
	if s.pages != nil {
		frozen.pages = s.pages.freeze()
	}
	return &frozen, nil
}

// fetchSource returns the bytes that a call takes from a source instead of its
// own body.
func (c *blobCall) fetchSource(limit int64) ([]byte, *blobState, error) {
	if c.r.ContentLength > 0 {
		return nil, nil, blobBadHeader("Content-Length")
	}
	s, err := c.sourceState()
	if err != nil {
		return nil, nil, err
	}
	off, n := int64(0), s.size()
	if v := c.header("x-ms-source-range"); v != "" {
		from, end, ok := blobRange(v)
		if !ok {
			return nil, nil, blobBadHeader("x-ms-source-range")
		}
		if from >= n {
			return nil, nil, blobErr(416, "InvalidRange")
		}
		off, n = from, min(end, n)-from
	}
	if n > limit {
		return nil, nil, blobErr(413, "RequestBodyTooLarge")
	}
	b := make([]byte, n)
	s.readAt(b, off)
	return b, s, c.checkSums(b, "x-ms-source-content-md5", "x-ms-source-content-crc64")
}

package azuretest

import (
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"
)

const (
	blobMaxPageBlob = 8 << 40
	blobMaxPages    = 4 << 20 // a call
	blobMaxRanges   = 10000   // an answer
)

// sizeHeader reads the size of a page blob.
func (c *blobCall) sizeHeader() (int64, error) {
	n, err := strconv.ParseInt(c.header("x-ms-blob-content-length"), 10, 64)
	if err != nil || n < 0 || n%pageSize != 0 || n > blobMaxPageBlob {
		return 0, blobBadHeader("x-ms-blob-content-length")
	}
	return n, nil
}

func (c *blobCall) createPageBlob() error {
	if c.r.ContentLength > 0 {
		return blobBadHeader("Content-Length")
	}
	size, err := c.sizeHeader()
	if err != nil {
		return err
	}
	var seq int64
	if v := c.header("x-ms-blob-sequence-number"); v != "" {
		if seq, err = strconv.ParseInt(v, 10, 64); err != nil || seq < 0 {
			return blobBadHeader("x-ms-blob-sequence-number")
		}
	}
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	tags, err := blobTagsOf(c.header("x-ms-tags"))
	if err != nil {
		return err
	}
	o, err := c.object(true)
	if err != nil {
		return err
	}
	defer o.unlock()
	if err := c.mayCreate(o); err != nil {
		return err
	}
	s := c.created(o, blobPageType)
	s.head, s.meta, s.tags, s.seq, s.pages = c.head(), meta, tags, seq, newPages(size)
	o.base = s
	clear(o.uncommitted)
	return c.written(201, s)
}

// pageRange is the range of whole pages that a call writes.
func (c *blobCall) pageRange() (off, n int64, err error) {
	v := c.header("x-ms-range")
	if v == "" {
		v = c.header("Range")
	}
	if v == "" {
		return 0, 0, &blobError{400, "MissingRequiredHeader", "x-ms-range"}
	}
	off, end, ok := blobRange(v)
	if !ok {
		return 0, 0, blobBadHeader("x-ms-range")
	}
	if off%pageSize != 0 || end%pageSize != 0 {
		return 0, 0, blobErr(416, "InvalidPageRange")
	}
	return off, end - off, nil
}

// pageWrite is a Put Page: the bytes, or nil to clear.
func (c *blobCall) pageWrite() (data []byte, off, n int64, err error) {
	if off, n, err = c.pageRange(); err != nil {
		return nil, 0, 0, err
	}
	switch strings.ToLower(c.header("x-ms-page-write")) {
	case "clear":
		if c.r.ContentLength > 0 {
			return nil, 0, 0, blobBadHeader("Content-Length")
		}
		return nil, off, n, nil
	case "update":
	default:
		return nil, 0, 0, blobBadHeader("x-ms-page-write")
	}
	if c.header("x-ms-copy-source") != "" {
		data, _, err = c.fetchSource(blobMaxPages)
	} else {
		data, err = c.body(blobMaxPages)
	}
	if err == nil && int64(len(data)) != n {
		err = blobBadHeader("x-ms-range")
	}
	if h := c.w.Header(); err == nil && h.Get("Content-MD5") == "" && h.Get("x-ms-content-crc64") == "" {
		h.Set("x-ms-content-crc64", blobCRC(data))
	}
	return data, off, n, err
}

// put does a Put Page.
func (p *pages) put(data []byte, off, n int64) error {
	if size := p.length(); off >= size || n > size-off {
		return blobErr(416, "InvalidPageRange")
	}
	if data == nil {
		return p.clearAt(off, n)
	}
	return p.writeAt(data, off)
}

func (c *blobCall) putPage() error {
	data, off, n, err := c.pageWrite()
	if err != nil {
		return err
	}
	o, err := c.object(false)
	if err != nil {
		return err
	}
	defer o.unlock()
	if err := c.mayWritePages(o); err != nil {
		return err
	}
	if err := o.base.pages.put(data, off, n); err != nil {
		return err
	}
	o.base = c.changed(o.base)
	return c.written(201, o.base)
}

func (c *blobCall) mayWritePages(o *blobObject) error {
	if o.base != nil && o.base.kind != blobPageType {
		return blobErr(409, "InvalidBlobType")
	}
	if err := c.mayWrite(o); err != nil {
		return err
	}
	return c.sequence(o.base)
}

// setProperties is Set Blob Properties, by which a page blob is resized and
// numbered too.
func (c *blobCall) setProperties() error {
	size, action := c.header("x-ms-blob-content-length"), c.header("x-ms-sequence-number-action")
	o, err := c.object(false)
	if err != nil {
		return err
	}
	defer o.unlock()
	if err := c.mayWrite(o); err != nil {
		return err
	}
	s := c.changed(o.base)
	if (size != "" || action != "") && s.kind != blobPageType {
		return blobErr(409, "InvalidBlobType")
	}
	if action != "" {
		n, err := strconv.ParseInt(c.header("x-ms-blob-sequence-number"), 10, 64)
		given := err == nil && n >= 0
		switch {
		case action == "increment" && c.header("x-ms-blob-sequence-number") == "":
			s.seq++
		case action == "max" && given:
			s.seq = max(s.seq, n)
		case action == "update" && given:
			s.seq = n
		default:
			return blobBadHeader("x-ms-sequence-number-action")
		}
	}
	if size != "" {
		n, err := c.sizeHeader()
		if err != nil {
			return err
		}
		if err := s.pages.resize(n); err != nil {
			return err
		}
	}
	if size == "" && action == "" {
		s.head = c.head()
	}
	o.base = s
	return c.written(200, s)
}

func (c *blobCall) getPageRanges() error {
	previous := c.q.Get("prevsnapshot")
	if v := c.header("x-ms-previous-snapshot-url"); v != "" {
		if previous != "" {
			return blobErr(400, "MutuallyExclusiveRequestParameters")
		}
		var err error
		if previous, err = c.ownSnapshot(v); err != nil {
			return err
		}
	}
	o, s, err := c.view()
	if err != nil {
		return err
	}
	since := o.at(previous)
	o.mu.RUnlock() // a client that reads slowly doesn't keep writers waiting
	c.w.Header().Set("ETag", s.etag)
	c.w.Header().Set("Last-Modified", s.modified.Format(http.TimeFormat))
	switch {
	case s.kind != blobPageType:
		return blobErr(409, "InvalidBlobType")
	case previous == "":
		return c.pageList(s.pages, nil)
	case since == nil:
		return blobErr(409, "PreviousSnapshotNotFound")
	case s.snapshot != "" && s.snapshot < since.snapshot:
		return blobErr(400, "PreviousSnapshotCannotBeNewer")
	case since.kind != blobPageType || since.pages.line != s.pages.line:
		return blobErr(409, "BlobOverwritten")
	}
	return c.pageList(s.pages, since.pages)
}

// ownSnapshot returns the time of the snapshot that a URL names, which must be
// of the same blob.
func (c *blobCall) ownSnapshot(given string) (string, error) {
	n, err := c.b.parseURL(given)
	if err != nil || n.account != c.account.name || n.container != c.container || n.blob != c.blob || n.snapshot == "" {
		return "", blobBadHeader("x-ms-previous-snapshot-url")
	}
	return n.snapshot, nil
}

type blobXMLRange struct {
	XMLName    xml.Name
	Start, End int64
}

// pageList answers with what is written, or with what changed.
func (c *blobCall) pageList(p, since *pages) error {
	size := p.length()
	c.w.Header().Set("x-ms-blob-content-length", strconv.FormatInt(size, 10))
	off, end := int64(0), size
	v := c.header("x-ms-range")
	if v == "" {
		v = c.header("Range")
	}
	if v != "" {
		var ok bool
		if off, end, ok = blobRange(v); !ok {
			return blobBadHeader("x-ms-range")
		}
		if off >= size {
			return blobErr(416, "InvalidPageRange")
		}
		off = off / pageSize * pageSize
		end = min(size, (end+pageSize-1)/pageSize*pageSize)
	}
	limit := blobMaxRanges
	if v := c.q.Get("maxresults"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return blobBadQuery("maxresults")
		}
		if n <= 0 {
			return blobErr(400, "OutOfRangeQueryParameterValue")
		}
		limit = min(limit, n)
	}
	if v := c.q.Get("marker"); v != "" {
		n, err := strconv.ParseInt(v, 36, 64)
		if err != nil || n < off || n >= end || n%pageSize != 0 {
			return blobBadQuery("marker")
		}
		off = n
	}
	var changed, cleared []span
	if since == nil {
		changed = p.ranges(off, end-off)
	} else {
		var err error
		if changed, cleared, err = p.diff(since, off, end-off); err != nil {
			return &blobError{409, "BlobOverwritten", err.Error()}
		}
	}
	var x struct {
		XMLName    xml.Name `xml:"PageList"`
		Ranges     []blobXMLRange
		NextMarker string
	}
	for len(changed)+len(cleared) > 0 {
		list, name := &changed, "PageRange"
		if len(changed) == 0 || len(cleared) > 0 && cleared[0].off < changed[0].off {
			list, name = &cleared, "ClearRange"
		}
		s := (*list)[0]
		*list = (*list)[1:]
		if len(x.Ranges) == limit {
			x.NextMarker = strconv.FormatInt(s.off, 36)
			break
		}
		x.Ranges = append(x.Ranges, blobXMLRange{xml.Name{Local: name}, s.off, s.off + s.n - 1})
	}
	return c.answerXML(200, x)
}

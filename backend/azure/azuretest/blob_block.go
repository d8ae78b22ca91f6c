package azuretest

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

const (
	blobMaxBlock     = 4000 << 20
	blobMaxUpload    = 5000 << 20
	blobMaxCommitted = 50000
	blobMaxStaged    = 100000
)

// body reads what a call uploads, at most limit bytes, and checks it against
// the sums that come with it.
func (c *blobCall) body(limit int64) ([]byte, error) {
	n := c.r.ContentLength
	if n < 0 {
		return nil, blobErr(411, "MissingContentLengthHeader")
	}
	if n > limit {
		return nil, blobErr(413, "RequestBodyTooLarge")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r.Body, b); err != nil {
		return nil, &blobError{400, "IncompleteBody", err.Error()}
	}
	return b, c.checkSums(b, "Content-MD5", "x-ms-content-crc64")
}

// checkSums compares bytes with the sums that headers claim, and tells the sum.
func (c *blobCall) checkSums(b []byte, md5Header, crcHeader string) error {
	h := c.w.Header()
	if c.header(md5Header) != "" && c.header(crcHeader) != "" {
		return blobErr(400, "BothCrc64AndMd5HeaderPresent")
	}
	if v := c.header(md5Header); v != "" {
		if sum, err := base64.StdEncoding.DecodeString(v); err != nil || len(sum) != 16 {
			return blobErr(400, "InvalidMd5")
		}
		got := blobMD5(b)
		if v != got {
			return &blobError{400, "Md5Mismatch", "the bytes have " + got}
		}
		h.Set("Content-MD5", got)
	}
	if v := c.header(crcHeader); v != "" {
		got := blobCRC(b)
		if v != got {
			return &blobError{400, "Crc64Mismatch", "the bytes have " + got}
		}
		h.Set("x-ms-content-crc64", got)
	}
	return nil
}

// head reads the headers that a blob keeps.
func (c *blobCall) head() blobHead {
	h := blobHead{c.header("x-ms-blob-content-type"), c.header("x-ms-blob-content-encoding"), c.header("x-ms-blob-content-language"),
		c.header("x-ms-blob-content-disposition"), c.header("x-ms-blob-cache-control"), c.header("x-ms-blob-content-md5")}
	if h.typ == "" {
		h.typ = "application/octet-stream"
	}
	return h
}

// putBlob makes a block blob of one upload, or of a source in this service.
func (c *blobCall) putBlob() error {
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	tags, err := blobTagsOf(c.header("x-ms-tags"))
	if err != nil {
		return err
	}
	head := c.head()
	var data []byte
	if c.header("x-ms-copy-source") == "" {
		data, err = c.body(blobMaxUpload)
	} else {
		var from *blobState
		if data, from, err = c.fetchSource(blobMaxUpload); err == nil && c.header("x-ms-copy-source-blob-properties") != "false" {
			own := head
			head = from.head
			if c.header("x-ms-blob-content-type") != "" {
				head.typ = own.typ
			}
			if len(meta) == 0 {
				meta = from.meta
			}
		}
	}
	if err != nil {
		return err
	}
	sum := blobMD5(data)
	if v := c.header("x-ms-blob-content-md5"); v != "" && v != sum {
		return blobErr(400, "Md5Mismatch")
	}
	head.md5 = sum
	c.w.Header().Set("Content-MD5", sum)
	o, err := c.object(true)
	if err != nil {
		return err
	}
	defer o.unlock()
	if err := c.mayCreate(o); err != nil {
		return err
	}
	s := c.created(o, blobBlockType)
	s.head, s.meta, s.tags = head, meta, tags
	if len(data) > 0 {
		s.blocks = []blobBlock{{data: data}}
	}
	o.base = s
	clear(o.uncommitted)
	return c.written(201, s)
}

// blockID returns the ID of a block, which is base64 of at most 64 bytes.
func (c *blobCall) blockID() (string, error) {
	id := c.q.Get("blockid")
	b, err := base64.StdEncoding.DecodeString(id)
	if err != nil || len(b) == 0 || len(b) > 64 {
		return "", blobBadQuery("blockid")
	}
	return id, nil
}

func (c *blobCall) putBlock() error {
	id, err := c.blockID()
	if err != nil {
		return err
	}
	var data []byte
	if c.header("x-ms-copy-source") == "" {
		data, err = c.body(blobMaxBlock)
	} else {
		data, _, err = c.fetchSource(blobMaxBlock)
	}
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return blobBadHeader("Content-Length")
	}
	o, err := c.object(true)
	if err != nil {
		return err
	}
	defer o.unlock()
	if o.base != nil {
		if o.base.kind != blobBlockType {
			return blobErr(409, "InvalidBlobType")
		}
		if err := o.lease.write(c.now, c.header("x-ms-lease-id"), "Blob"); err != nil {
			return err
		}
	}
	for other := range o.uncommitted {
		if len(other) != len(id) {
			return blobErr(400, "InvalidBlobOrBlock")
		}
		break
	}
	if len(o.uncommitted) >= blobMaxStaged {
		return blobErr(409, "BlockCountExceedsLimit")
	}
	o.uncommitted[id] = data
	h := c.w.Header()
	h.Set("x-ms-request-server-encrypted", "true")
	if h.Get("x-ms-content-crc64") == "" && h.Get("Content-MD5") == "" {
		h.Set("x-ms-content-crc64", blobCRC(data))
	}
	return c.answer(201)
}

// blobBlockRef names a block, and the list where it is looked for.
type blobBlockRef struct{ list, id string }

// blobBlockList reads the body of Put Block List.
func blobBlockList(body []byte) ([]blobBlockRef, error) {
	d := xml.NewDecoder(bytes.NewReader(body))
	var list []blobBlockRef
	depth, in, text, done := 0, "", "", false
	bad := func(why string) ([]blobBlockRef, error) { return nil, &blobError{400, "InvalidXmlDocument", why} }
	for {
		t, err := d.Token()
		if err == io.EOF {
			if !done {
				return bad("no BlockList")
			}
			return list, nil
		}
		if err != nil {
			return bad(err.Error())
		}
		switch t := t.(type) {
		case xml.StartElement:
			depth++
			switch {
			case depth == 1 && (done || t.Name.Local != "BlockList"):
				return bad("not a BlockList")
			case depth == 2:
				in, text = t.Name.Local, ""
				if in != "Committed" && in != "Uncommitted" && in != "Latest" {
					return bad("element " + in)
				}
			case depth > 2:
				return bad("element " + t.Name.Local)
			}
		case xml.CharData:
			if depth == 2 {
				text += string(t)
			}
		case xml.EndElement:
			if depth == 2 {
				list = append(list, blobBlockRef{in, strings.TrimSpace(text)})
			}
			depth--
			done = depth == 0
		}
	}
}

func (c *blobCall) putBlockList() error {
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	tags, err := blobTagsOf(c.header("x-ms-tags"))
	if err != nil {
		return err
	}
	body, err := c.body(16 << 20)
	if err != nil {
		return err
	}
	refs, err := blobBlockList(body)
	if err != nil {
		return err
	}
	if len(refs) > blobMaxCommitted {
		return blobErr(400, "BlockListTooLong")
	}
	o, err := c.object(true)
	if err != nil {
		return err
	}
	defer o.unlock()
	if o.base != nil && o.base.kind != blobBlockType {
		return blobErr(409, "InvalidBlobType")
	}
	if err := c.mayCreate(o); err != nil {
		return err
	}
	committed := map[string][]byte{}
	if o.base != nil {
		for _, b := range o.base.blocks {
			if b.id != "" {
				committed[b.id] = b.data
			}
		}
	}
	s := c.created(o, blobBlockType)
	s.head, s.meta, s.tags = c.head(), meta, tags
	for _, ref := range refs {
		data, ok := o.uncommitted[ref.id]
		if ref.list == "Committed" || ref.list == "Latest" && !ok {
			data, ok = committed[ref.id]
		}
		if !ok {
			return &blobError{400, "InvalidBlockList", fmt.Sprintf("no block %.100q", ref.id)}
		}
		s.blocks = append(s.blocks, blobBlock{ref.id, data})
	}
	o.base = s
	clear(o.uncommitted)
	return c.written(201, s)
}

type blobXMLBlock struct {
	Name string
	Size int
}

type blobXMLBlocks struct{ Block []blobXMLBlock }

type blobXMLBlockLists struct {
	XMLName     xml.Name       `xml:"BlockList"`
	Committed   *blobXMLBlocks `xml:"CommittedBlocks"`
	Uncommitted *blobXMLBlocks `xml:"UncommittedBlocks"`
}

func (c *blobCall) getBlockList() error {
	which := c.q.Get("blocklisttype")
	switch which {
	case "", "committed", "uncommitted", "all":
	default:
		return blobBadQuery("blocklisttype")
	}
	t, err := c.account.container(c.container)
	if err != nil {
		return err
	}
	o := t.find(c.blob)
	if o == nil {
		return blobErr(404, "BlobNotFound")
	}
	lists, err := c.blockLists(o, which)
	if err != nil {
		return err
	}
	return c.answerXML(200, lists)
}

// blockLists describes a blob and its blocks, or blocks that make no blob yet.
func (c *blobCall) blockLists(o *blobObject, which string) (x blobXMLBlockLists, err error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	s := o.at(c.q.Get("snapshot"))
	h := c.w.Header()
	switch {
	case s == nil && (c.q.Get("snapshot") != "" || len(o.uncommitted) == 0):
		return x, blobErr(404, "BlobNotFound")
	case s == nil:
		s = &blobState{kind: blobBlockType}
	case s.kind != blobBlockType:
		return x, blobErr(409, "InvalidBlobType")
	default:
		if err := c.mayRead(o, s); err != nil {
			return x, err
		}
		h.Set("ETag", s.etag)
		h.Set("Last-Modified", s.modified.Format(http.TimeFormat))
	}
	h.Set("x-ms-blob-content-length", fmt.Sprint(s.size()))
	if which != "uncommitted" {
		x.Committed = &blobXMLBlocks{}
		for _, b := range s.blocks {
			if b.id != "" {
				x.Committed.Block = append(x.Committed.Block, blobXMLBlock{b.id, len(b.data)})
			}
		}
	}
	if which == "uncommitted" || which == "all" {
		x.Uncommitted = &blobXMLBlocks{}
		for _, id := range slices.Sorted(maps.Keys(o.uncommitted)) {
			x.Uncommitted.Block = append(x.Uncommitted.Block, blobXMLBlock{id, len(o.uncommitted[id])})
		}
	}
	return x, nil
}

package azuretest

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// object returns the object that the call is about with its lock held, made if
// need be; it fails if there is none, or no container.
func (c *blobCall) object(create bool) (*blobObject, error) {
	t, err := c.account.container(c.container)
	if err != nil {
		return nil, err
	}
	if o := t.lock(c.blob, create); o != nil {
		return o, nil
	}
	return nil, blobErr(404, "BlobNotFound")
}

// view returns the object that the call is about, locked for reading, and the
// state of the blob or snapshot, which is there and may be read.
func (c *blobCall) view() (*blobObject, *blobState, error) {
	t, err := c.account.container(c.container)
	if err != nil {
		return nil, nil, err
	}
	o := t.find(c.blob)
	if o == nil {
		return nil, nil, blobErr(404, "BlobNotFound")
	}
	o.mu.RLock()
	s := o.at(c.q.Get("snapshot"))
	if s == nil {
		err = blobErr(404, "BlobNotFound")
	} else {
		err = c.mayRead(o, s)
	}
	if err != nil {
		o.mu.RUnlock()
		return nil, nil, err
	}
	return o, s, nil
}

// describe tells a blob in the headers of an answer.
func (c *blobCall) describe(o *blobObject, s *blobState) {
	h := c.w.Header()
	for name, v := range map[string]string{
		"ETag": s.etag, "Last-Modified": s.modified.Format(http.TimeFormat), "x-ms-creation-time": s.created.Format(http.TimeFormat),
		"x-ms-blob-type": s.kind, "Content-Type": s.head.typ, "Content-Encoding": s.head.encoding, "Content-Language": s.head.language,
		"Content-Disposition": s.head.disposition, "Cache-Control": s.head.cache,
		"x-ms-server-encrypted": "true", "Accept-Ranges": "bytes",
	} {
		if v != "" {
			h.Set(name, v)
		}
	}
	if s.kind == blobPageType {
		h.Set("x-ms-blob-sequence-number", strconv.FormatInt(s.seq, 10))
	}
	for k, v := range s.meta {
		h.Set("x-ms-meta-"+k, v)
	}
	if len(s.tags) > 0 {
		h.Set("x-ms-tag-count", strconv.Itoa(len(s.tags)))
	}
	if s.snapshot == "" {
		o.lease.describe(c.now, h)
	}
	if s.copied != nil {
		s.copied.describe(h)
	}
}

func (c *blobCall) readBlob() error {
	c.poll()
	o, s, err := c.view()
	if err != nil {
		return err
	}
	unlocked := false
	unlock := func() {
		if !unlocked {
			unlocked = true
			o.mu.RUnlock()
		}
	}
	defer unlock()
	c.describe(o, s)
	return c.content(s, unlock)
}

// content answers with the bytes, or their number to HEAD. unlock is called
// before a read that is too long to keep writers waiting.
func (c *blobCall) content(s *blobState, unlock func()) error {
	h := c.w.Header()
	size := s.size()
	if c.q.Get("comp") == "metadata" {
		return c.answer(200)
	}
	if c.r.Method == http.MethodHead {
		if s.head.md5 != "" {
			h.Set("Content-MD5", s.head.md5)
		}
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		c.w.WriteHeader(200)
		return nil
	}
	off, n, ranged, err := c.byteRange(size)
	if err != nil {
		return err
	}
	status := 200
	if ranged {
		status = 206
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, size))
		if s.head.md5 != "" {
			h.Set("x-ms-blob-content-md5", s.head.md5)
		}
	} else if s.head.md5 != "" {
		h.Set("Content-MD5", s.head.md5)
	}
	sums := [2]bool{c.header("x-ms-range-get-content-md5") == "true", c.header("x-ms-range-get-content-crc64") == "true"}
	if sums[0] || sums[1] {
		if !ranged || n > 4<<20 {
			return blobBadHeader("x-ms-range-get-content-md5")
		}
	}
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	buf := make([]byte, min(n, 8<<20))
	s.readAt(buf, off)
	unlock()
	if sums[0] {
		h.Set("Content-MD5", blobMD5(buf))
	}
	if sums[1] {
		h.Set("x-ms-content-crc64", blobCRC(buf))
	}
	c.w.WriteHeader(status)
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		if _, err := c.w.Write(part); err != nil {
			return nil // the client is gone
		}
		off, n = off+int64(len(part)), n-int64(len(part))
		if n > 0 {
			part = buf[:min(n, int64(len(buf)))]
			s.readAt(part, off)
		}
	}
	return nil
}

// byteRange is the range of bytes that is asked for, all if none is.
func (c *blobCall) byteRange(size int64) (off, n int64, ranged bool, err error) {
	v := c.header("x-ms-range")
	if v == "" {
		v = c.header("Range")
	}
	if v == "" {
		return 0, size, false, nil
	}
	off, end, ok := blobRange(v)
	if !ok {
		return 0, size, false, nil // as RFC 7233 has it
	}
	if off >= size {
		c.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return 0, 0, false, blobErr(416, "InvalidRange")
	}
	return off, min(end, size) - off, true, nil
}

// blobRange reads bytes=from-to or bytes=from-, and returns the first byte and
// what is behind the last.
func blobRange(v string) (off, end int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes=")
	first, last, dash := strings.Cut(v, "-")
	if !ok || !dash {
		return 0, 0, false
	}
	a, err := strconv.ParseUint(first, 10, 62)
	if err != nil {
		return 0, 0, false
	}
	if last == "" {
		return int64(a), 1 << 62, true
	}
	b, err := strconv.ParseUint(last, 10, 62)
	if err != nil || b < a {
		return 0, 0, false
	}
	return int64(a), int64(b) + 1, true
}

var blobCRCTable = crc64.MakeTable(0x9A6C9329AC4BC9B5)

func blobCRC(b []byte) string {
	var sum [8]byte
	binary.LittleEndian.PutUint64(sum[:], crc64.Checksum(b, blobCRCTable))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func blobMD5(b []byte) string {
	sum := md5.Sum(b)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// poll counts that the state of a copy was asked for.
func (c *blobCall) poll() {
	t, err := c.account.container(c.container)
	if err != nil || c.q.Get("snapshot") != "" {
		return
	}
	o := t.find(c.blob)
	if o == nil {
		return
	}
	o.mu.RLock()
	pending := o.pending != nil
	o.mu.RUnlock()
	if !pending {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pending == nil {
		return
	}
	if o.pending.left > 0 {
		o.pending.left--
		return
	}
	o.base, o.pending = o.pending.done(c.now.Truncate(time.Second)), nil
}

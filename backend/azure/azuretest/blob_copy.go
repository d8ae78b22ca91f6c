package azuretest

import (
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// blobCopy is what a blob tells of the copy that made it.
type blobCopy struct {
	id, source, status, progress string
	done                         time.Time
}

func (k *blobCopy) describe(h http.Header) {
	h.Set("x-ms-copy-id", k.id)
	h.Set("x-ms-copy-source", k.source)
	h.Set("x-ms-copy-status", k.status)
	h.Set("x-ms-copy-progress", k.progress)
	if !k.done.IsZero() {
		h.Set("x-ms-copy-completion-time", k.done.Format(http.TimeFormat))
	}
}

// blobPending is a copy that isn't done.
type blobPending struct {
	id   string
	left int // how often it is still seen pending
	done func(now time.Time) *blobState
}

// copyBlob puts a copy of a source in the place of the blob. Other snapshots of
// the blob stay, and can no longer be compared with it.
func (c *blobCall) copyBlob() error {
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	tags, err := blobTagsOf(c.header("x-ms-tags"))
	if err != nil {
		return err
	}
	from, err := c.sourceState()
	if err != nil {
		return err
	}
	sync := c.header("x-ms-requires-sync") == "true"
	if sync && (from.kind != blobBlockType || from.size() > 256<<20) {
		return blobErr(409, "InvalidBlobType")
	}
	if len(meta) == 0 {
		meta = maps.Clone(from.meta)
	}
	o, err := c.object(true)
	if err != nil {
		return err
	}
	defer o.unlock()
	if err := c.mayCreate(o); err != nil {
		return err
	}
	if o.base != nil && o.base.kind != from.kind {
		return blobErr(409, "InvalidBlobType")
	}
	size := from.size()
	s := c.created(o, from.kind)
	s.head, s.meta, s.tags, s.seq = from.head, meta, tags, from.seq
	s.copied = &blobCopy{id: uuid.NewString(), source: c.header("x-ms-copy-source"), status: "success",
		progress: fmt.Sprintf("%d/%d", size, size), done: c.now}
	if from.pages != nil {
		s.pages = from.pages.copy()
	} else {
		s.blocks = from.blocks
	}
	o.base = s
	clear(o.uncommitted)
	if c.b.opts.CopyPolls > 0 && !sync {
		o.start(c, s)
	}
	h := c.w.Header()
	h.Set("x-ms-copy-id", s.copied.id)
	h.Set("x-ms-copy-status", o.base.copied.status)
	return c.written(202, o.base)
}

// start makes a copy that would be done a pending one: until then the blob has
// its size, and zeros.
func (o *blobObject) start(c *blobCall, done *blobState) {
	s := *done
	s.copied = &blobCopy{id: done.copied.id, source: done.copied.source, status: "pending", progress: fmt.Sprintf("0/%d", done.size())}
	s.blocks = nil
	if done.pages != nil {
		s.pages = newPages(done.pages.length())
	}
	o.base = &s
	o.pending = &blobPending{id: s.copied.id, left: c.b.opts.CopyPolls, done: func(now time.Time) *blobState {
		d := *done
		k := *done.copied
		k.done = now
		d.copied, d.etag, d.modified = &k, c.b.newETag(), now
		return &d
	}}
}

// abortCopy leaves a blob of no bytes.
func (c *blobCall) abortCopy() error {
	if c.header("x-ms-copy-action") != "abort" {
		return blobBadHeader("x-ms-copy-action")
	}
	o, err := c.object(false)
	if err != nil {
		return err
	}
	defer o.unlock()
	if o.base == nil {
		return blobErr(404, "BlobNotFound")
	}
	if err := o.lease.write(c.now, c.header("x-ms-lease-id"), "Blob"); err != nil {
		return err
	}
	if o.pending == nil {
		return blobErr(409, "NoPendingCopyOperation")
	}
	if o.pending.id != c.q.Get("copyid") {
		return blobErr(409, "CopyIdMismatch")
	}
	s := c.changed(o.base)
	k := *s.copied
	k.status, k.done = "aborted", c.now
	s.copied = &k
	if s.pages != nil {
		s.pages = newPages(0)
	}
	o.base, o.pending = s, nil
	return c.answer(204)
}

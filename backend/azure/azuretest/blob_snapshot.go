package azuretest

import "net/http"

// createSnapshot keeps what a blob is now. It needs no lease.
func (c *blobCall) createSnapshot() error {
	o, err := c.object(false)
	if err != nil {
		return err
	}
	defer o.unlock()
	if o.base == nil {
		return blobErr(404, "BlobNotFound")
	}
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	if err := o.lease.read(c.now, c.header("x-ms-lease-id"), "Blob"); err != nil {
		return err
	}
	if err := k.write(o.base.etag, o.base.modified); err != nil {
		return err
	}
	if o.pending != nil {
		return blobErr(409, "PendingCopyOperation")
	}
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	s := *o.base
	if len(meta) > 0 {
		s.meta, s.etag, s.modified = meta, c.b.newETag(), c.now
	}
	if s.pages != nil {
		s.pages = s.pages.freeze()
	}
	s.snapshot = o.nextSnapshot(c.now)
	o.snapshots = append(o.snapshots, &s)
	h := c.w.Header()
	h.Set("ETag", s.etag)
	h.Set("Last-Modified", s.modified.Format(http.TimeFormat))
	h.Set("x-ms-snapshot", s.snapshot)
	h.Set("x-ms-request-server-encrypted", "true")
	return c.answer(201)
}

// deleteBlob deletes a blob, its snapshots, or one of them.
func (c *blobCall) deleteBlob() error {
	o, err := c.object(false)
	if err != nil {
		return err
	}
	defer o.unlock()
	snapshot, which := c.q.Get("snapshot"), c.header("x-ms-delete-snapshots")
	if which != "" && which != "include" && which != "only" {
		return blobBadHeader("x-ms-delete-snapshots")
	}
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	if snapshot != "" {
		if which != "" {
			return &blobError{400, "InvalidQueryParameterValue", "x-ms-delete-snapshots goes with no snapshot"}
		}
		for i, s := range o.snapshots {
			if s.snapshot != snapshot {
				continue
			}
			if err := k.write(s.etag, s.modified); err != nil {
				return err
			}
			o.snapshots = append(o.snapshots[:i:i], o.snapshots[i+1:]...)
			return c.answer(202)
		}
		return blobErr(404, "BlobNotFound")
	}
	if o.base == nil {
		return blobErr(404, "BlobNotFound")
	}
	if err := o.lease.write(c.now, c.header("x-ms-lease-id"), "Blob"); err != nil {
		return err
	}
	if err := k.write(o.base.etag, o.base.modified); err != nil {
		return err
	}
	switch {
	case which == "only":
		o.snapshots = nil
		return c.answer(202)
	case which == "" && len(o.snapshots) > 0:
		return blobErr(409, "SnapshotsPresent")
	case o.pending != nil:
		return blobErr(409, "PendingCopyOperation")
	}
	o.base, o.snapshots, o.lease = nil, nil, blobLease{}
	clear(o.uncommitted)
	return c.answer(202)
}

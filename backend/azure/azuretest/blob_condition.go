package azuretest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// blobConditions are the conditional headers of a request. Times have whole
// seconds, as the headers do.
type blobConditions struct {
	match, noneMatch     string
	modified, unmodified time.Time
}

// conditions reads the conditional headers, of the source of a copy with the
// prefix x-ms-source-.
func (c *blobCall) conditions(prefix string) (blobConditions, error) {
	k := blobConditions{match: c.header(prefix + "If-Match"), noneMatch: c.header(prefix + "If-None-Match")}
	for name, t := range map[string]*time.Time{"If-Modified-Since": &k.modified, "If-Unmodified-Since": &k.unmodified} {
		v := c.header(prefix + name)
		if v == "" {
			continue
		}
		at, err := http.ParseTime(v)
		if err != nil {
			return k, blobBadHeader(name)
		}
		*t = at
	}
	if strings.Contains(k.match, ",") || strings.Contains(k.noneMatch, ",") {
		return k, blobErr(400, "MultipleConditionHeadersNotSupported")
	}
	return k, nil
}

func blobSameETag(given, etag string) bool {
	return given == "*" || strings.Trim(given, `"`) == strings.Trim(etag, `"`)
}

var errBlobCondition = &blobError{412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met."}

// read checks the conditions of a read of what is there.
func (k blobConditions) read(etag string, modified time.Time) error {
	modified = modified.Truncate(time.Second)
	switch {
	case k.noneMatch == "*":
		return blobErr(400, "UnsatisfiableCondition")
	case k.match != "" && !blobSameETag(k.match, etag),
		!k.unmodified.IsZero() && modified.After(k.unmodified):
		return errBlobCondition
	}
	same := k.noneMatch != "" && blobSameETag(k.noneMatch, etag)
	old := !k.modified.IsZero() && !modified.After(k.modified)
	if same && (k.modified.IsZero() || old) || old && (k.noneMatch == "" || same) {
		return blobErr(http.StatusNotModified, "ConditionNotMet")
	}
	return nil
}

// write checks the conditions of a write, of what isn't there if etag is empty.
func (k blobConditions) write(etag string, modified time.Time) error {
	modified = modified.Truncate(time.Second)
	failed := false
	switch {
	case etag == "":
		failed = k.match != ""
	case k.noneMatch != "":
		failed = blobSameETag(k.noneMatch, etag)
	case k.match != "":
		failed = !blobSameETag(k.match, etag)
	case !k.modified.IsZero():
		failed = !modified.After(k.modified)
	case !k.unmodified.IsZero():
		failed = modified.After(k.unmodified)
	}
	if failed {
		return errBlobCondition
	}
	return nil
}

// mayWrite checks the conditions and the lease of a write to a blob that must
// be there.
func (c *blobCall) mayWrite(o *blobObject) error {
	if o == nil || o.base == nil {
		return blobErr(404, "BlobNotFound")
	}
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	if err := o.lease.write(c.now, c.header("x-ms-lease-id"), "Blob"); err != nil {
		return err
	}
	if err := k.write(o.base.etag, o.base.modified); err != nil {
		return err
	}
	if o.pending != nil {
		return blobErr(409, "PendingCopyOperation")
	}
	o.lease.written(c.now)
	return nil
}

// mayCreate checks the conditions and the lease of a call that makes a blob, or
// puts a new one in the place of another.
func (c *blobCall) mayCreate(o *blobObject) error {
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	if o.base == nil {
		if c.header("x-ms-lease-id") != "" {
			return blobErr(412, "LeaseNotPresentWithBlobOperation")
		}
		return k.write("", time.Time{})
	}
	if k.noneMatch == "*" {
		return blobErr(409, "BlobAlreadyExists")
	}
	return c.mayWrite(o)
}

// mayRead checks the conditions and, if it is given, the lease of a read.
func (c *blobCall) mayRead(o *blobObject, s *blobState) error {
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	if s.snapshot == "" {
		if err := o.lease.read(c.now, c.header("x-ms-lease-id"), "Blob"); err != nil {
			return err
		}
	}
	return k.read(s.etag, s.modified)
}

// sequence checks the conditions on a page blob's sequence number.
func (c *blobCall) sequence(s *blobState) error {
	for name, ok := range map[string]func(n int64) bool{
		"x-ms-if-sequence-number-le": func(n int64) bool { return s.seq <= n },
		"x-ms-if-sequence-number-lt": func(n int64) bool { return s.seq < n },
		"x-ms-if-sequence-number-eq": func(n int64) bool { return s.seq == n },
	} {
		v := c.header(name)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return blobBadHeader(name)
		}
		if !ok(n) {
			return blobErr(412, "SequenceNumberConditionNotMet")
		}
	}
	return nil
}

package azuretest

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// blobCall is one request.
type blobCall struct {
	b               *Blobs
	w               http.ResponseWriter
	r               *http.Request
	q               url.Values
	now             time.Time
	account         *blobAccount
	container, blob string
	part            bool // of a batch
}

func (c *blobCall) header(name string) string { return c.r.Header.Get(name) }

// ServeHTTP answers one request of a client.
func (b *Blobs) ServeHTTP(w http.ResponseWriter, r *http.Request) { b.serve(w, r, false) }

func (b *Blobs) serve(w http.ResponseWriter, r *http.Request, part bool) {
	c := &blobCall{b: b, w: w, r: r, now: b.now(), part: part}
	h := w.Header()
	h.Set("x-ms-request-id", fmt.Sprintf("%08x-0000-0000-0000-%012x", c.now.Unix()&0xffffffff, b.requests.Add(1)))
	h.Set("Server", "azuretest")
	h.Set("Date", c.now.Format(http.TimeFormat))
	if v := c.header("x-ms-version"); v != "" {
		h.Set("x-ms-version", v)
	}
	if id := c.header("x-ms-client-request-id"); id != "" {
		h.Set("x-ms-client-request-id", id)
	}
	if err := c.do(); err != nil {
		c.refuse(err)
	}
}

var (
	blobVersion       = regexp.MustCompile(`^\d{4}-\d\d-\d\d$`)
	blobContainerName = regexp.MustCompile(`^(\$root|\$web|\$logs|[a-z0-9](-?[a-z0-9])*)$`)
)

func (c *blobCall) do() error {
	var err error
	if c.q, err = url.ParseQuery(c.r.URL.RawQuery); err != nil {
		return blobErr(400, "InvalidUri")
	}
	path := strings.SplitN(strings.TrimPrefix(c.r.URL.Path, "/"), "/", 3)
	path = append(path, "", "")
	version := c.header("x-ms-version")
	if version == "" {
		version = c.q.Get("sv") // a signed URL tells its own
	}
	switch {
	case c.part: // the batch told it
	case version == "":
		return &blobError{400, "MissingRequiredHeader", "x-ms-version"}
	case !blobVersion.MatchString(version):
		return blobBadHeader("x-ms-version")
	}
	if path[0] == "md" {
		return c.grant()
	}
	c.account = c.b.account(path[0])
	c.container, c.blob = path[1], path[2]
	if err := c.authenticate(path[0]); err != nil {
		return err
	}
	if c.container != "" && !blobContainerName.MatchString(c.container) {
		return blobErr(400, "InvalidResourceName")
	}
	if n := len(c.container); n != 0 && (n < 3 || n > 63) {
		return blobErr(400, "OutOfRangeInput")
	}
	if n := utf8.RuneCountInString(c.blob); n > 1024 {
		return blobErr(400, "OutOfRangeInput")
	}
	for _, h := range []string{"x-ms-if-tags", "x-ms-source-if-tags", "x-ms-encryption-key", "x-ms-encryption-scope", "x-ms-structured-body"} {
		if c.header(h) != "" {
			return blobNotImplemented("the header " + h)
		}
	}
	for _, name := range []string{"versionid", "deletetype"} {
		if c.q.Has(name) {
			return blobNotImplemented("the query parameter " + name)
		}
	}
	do := c.route()
	if do == nil {
		return blobNotImplemented(c.r.Method + " comp=" + c.q.Get("comp"))
	}
	return do()
}

func blobNotImplemented(what string) error {
	return &blobError{501, "NotImplemented", what + " is not simulated"}
}

func (c *blobCall) route() func() error {
	op := c.r.Method + " " + c.q.Get("comp")
	switch {
	case c.container == "":
		switch op {
		case "GET list":
			return c.listContainers
		case "POST batch":
			return c.batch
		case "GET properties", "HEAD properties":
			return c.accountProperties
		}
	case c.blob == "" && c.q.Get("restype") == "container":
		return c.routeContainer(op)
	case c.blob != "":
		return c.routeBlob(op)
	}
	return nil
}

func (c *blobCall) routeContainer(op string) func() error {
	switch op {
	case "PUT ":
		return c.createContainer
	case "GET ", "HEAD ", "GET metadata", "HEAD metadata":
		return c.containerProperties
	case "PUT metadata":
		return c.setContainerMetadata
	case "DELETE ":
		return c.deleteContainer
	case "GET list":
		return c.listBlobs
	case "PUT lease":
		return c.leaseContainer
	case "POST batch":
		return c.batch
	case "GET acl", "HEAD acl":
		return c.containerACL
	}
	return nil
}

func (c *blobCall) routeBlob(op string) func() error {
	if snapshot := c.q.Get("snapshot"); snapshot != "" {
		if _, err := time.Parse(blobSnapshotTime, snapshot); err != nil {
			return func() error { return blobBadQuery("snapshot") }
		}
		if c.r.Method == http.MethodPut {
			return func() error {
				return &blobError{400, "InvalidQueryParameterValue", "a snapshot can't be written"}
			}
		}
	}
	switch op {
	case "GET ", "HEAD ", "GET metadata", "HEAD metadata":
		return c.readBlob
	case "DELETE ":
		return c.deleteBlob
	case "PUT metadata":
		return c.setMetadata
	case "PUT properties":
		return c.setProperties
	case "PUT tags":
		return c.setTags
	case "GET tags":
		return c.getTags
	case "PUT snapshot":
		return c.createSnapshot
	case "PUT lease":
		return c.leaseBlob
	case "PUT block":
		return c.putBlock
	case "PUT blocklist":
		return c.putBlockList
	case "GET blocklist":
		return c.getBlockList
	case "PUT page":
		return c.putPage
	case "GET pagelist":
		return c.getPageRanges
	case "PUT copy":
		return c.abortCopy
	case "PUT ":
		switch kind := c.header("x-ms-blob-type"); {
		case kind == blobBlockType:
			return c.putBlob
		case kind == blobPageType:
			return c.createPageBlob
		case kind == "" && c.header("x-ms-copy-source") != "":
			return c.copyBlob
		case kind == "":
			return func() error { return &blobError{400, "MissingRequiredHeader", "x-ms-blob-type"} }
		}
	}
	return nil
}

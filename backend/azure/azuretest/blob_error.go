package azuretest

import (
	"encoding/xml"
	"io"
	"net/http"
	"strconv"
)

// blobError is an answer that refuses.
type blobError struct {
	status int
	code   string
	detail string
}

func (e *blobError) Error() string { return e.code + ": " + e.detail }

func blobErr(status int, code string) error { return &blobError{status: status, code: code} }

func blobBadHeader(name string) error {
	return &blobError{400, "InvalidHeaderValue", "the value of the header " + name + " is not in the correct format"}
}

func blobBadQuery(name string) error {
	return &blobError{400, "InvalidQueryParameterValue", "the value of the query parameter " + name + " is invalid"}
}

// refuse answers with an error. It reads what the client still sends, because
// a client that is cut off in the middle of a body doesn't see the answer.
func (c *blobCall) refuse(err error) {
	e, ok := err.(*blobError)
	if !ok {
		e = &blobError{500, "InternalError", err.Error()}
	}
	io.Copy(io.Discard, c.r.Body) // the answer is what matters
	h := c.w.Header()
	h.Set("x-ms-error-code", e.code)
	if e.status == http.StatusNotModified || c.r.Method == http.MethodHead {
		c.w.WriteHeader(e.status)
		return
	}
	body, _ := xml.Marshal(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: e.code, Message: e.detail + "\nRequestId:" + h.Get("x-ms-request-id")})
	body = append([]byte(xml.Header), body...)
	h.Set("Content-Type", "application/xml")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(e.status)
	c.w.Write(body) // the client may be gone
}

// answer ends a call that succeeded and has no body.
func (c *blobCall) answer(status int) error {
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(status)
	return nil
}

func (c *blobCall) answerXML(status int, v any) error {
	body, err := xml.Marshal(v)
	if err != nil {
		return err
	}
	body = append([]byte(xml.Header), body...)
	h := c.w.Header()
	h.Set("Content-Type", "application/xml")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	c.w.Write(body) // the client may be gone
	return nil
}

// written answers a write, with what the blob is now.
func (c *blobCall) written(status int, s *blobState) error {
	h := c.w.Header()
	h.Set("ETag", s.etag)
	h.Set("Last-Modified", s.modified.Format(http.TimeFormat))
	h.Set("x-ms-request-server-encrypted", "true")
	if s.kind == blobPageType {
		h.Set("x-ms-blob-sequence-number", strconv.FormatInt(s.seq, 10))
	}
	return c.answer(status)
}

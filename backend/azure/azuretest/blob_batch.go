package azuretest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
)

// batch does up to 256 deletions, each of which succeeds or fails by itself.
func (c *blobCall) batch() error {
	if c.container != "" {
		if _, err := c.account.container(c.container); err != nil {
			return err
		}
	}
	body, err := c.body(4 << 20)
	if err != nil {
		return err
	}
	_, params, err := mime.ParseMediaType(c.header("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return blobBadHeader("Content-Type")
	}
	var out bytes.Buffer
	w := multipart.NewWriter(&out)
	r := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for n := 0; ; n++ {
		part, err := r.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil || n == 256 {
			return &blobError{400, "InvalidInput", "the batch is malformed, or has more than 256 parts"}
		}
		req, err := http.ReadRequest(bufio.NewReader(part))
		if err != nil {
			return &blobError{400, "InvalidInput", err.Error()}
		}
		answer := httptest.NewRecorder()
		c.subrequest(answer, req)
		p, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/http"}, "Content-ID": {part.Header.Get("Content-ID")}})
		if err != nil {
			return err
		}
		fmt.Fprintf(p, "HTTP/1.1 %d %s\r\n", answer.Code, http.StatusText(answer.Code))
		answer.Header().Write(p) // a buffer
		fmt.Fprintf(p, "\r\n%s", answer.Body)
	}
	if err := w.Close(); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "multipart/mixed; boundary="+w.Boundary())
	h.Set("Content-Length", fmt.Sprint(out.Len()))
	c.w.WriteHeader(202)
	c.w.Write(out.Bytes()) // the client may be gone
	return nil
}

func (c *blobCall) subrequest(w http.ResponseWriter, r *http.Request) {
	within := "/" + c.account.name + "/"
	if c.container != "" {
		within += c.container + "/"
	}
	if r.Method != http.MethodDelete || !strings.HasPrefix(r.URL.Path, within) {
		s := &blobCall{b: c.b, w: w, r: r}
		s.refuse(&blobError{400, "InvalidInput", "not a deletion of a blob of this account or container"})
		return
	}
	c.b.serve(w, r.WithContext(c.r.Context()), true)
}

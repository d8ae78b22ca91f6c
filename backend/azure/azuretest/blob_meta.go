package azuretest

import (
	"encoding/xml"
	"net/url"
	"regexp"
)

func (c *blobCall) setMetadata() error {
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	o, err := c.object(false)
	if err != nil {
		return err
	}
	defer o.unlock()
	if err := c.mayWrite(o); err != nil {
		return err
	}
	s := c.changed(o.base)
	s.meta = meta
	o.base = s
	return c.written(200, s)
}

var blobTagText = regexp.MustCompile(`^[A-Za-z0-9 +\-./:=_]*$`)

func blobCheckTags(tags map[string]string) error {
	if len(tags) > 10 {
		return blobErr(400, "TagsTooLarge")
	}
	for k, v := range tags {
		switch {
		case k == "":
			return blobErr(400, "EmptyTagName")
		case len(k) > 128 || len(v) > 256:
			return blobErr(400, "TagsTooLarge")
		case !blobTagText.MatchString(k) || !blobTagText.MatchString(v):
			return blobErr(400, "InvalidTag")
		}
	}
	return nil
}

// blobTagsOf reads the header x-ms-tags, which is like a query.
func blobTagsOf(header string) (map[string]string, error) {
	q, err := url.ParseQuery(header)
	if err != nil {
		return nil, blobBadHeader("x-ms-tags")
	}
	tags := map[string]string{}
	for k, v := range q {
		if len(v) > 1 {
			return nil, blobErr(400, "DuplicateTagNames")
		}
		tags[k] = v[0]
	}
	return tags, blobCheckTags(tags)
}

// setTags changes neither the ETag nor the time of a blob.
func (c *blobCall) setTags() error {
	body, err := c.body(64 << 10)
	if err != nil {
		return err
	}
	var x blobXMLTags
	if err := xml.Unmarshal(body, &x); err != nil {
		return &blobError{400, "InvalidXmlDocument", err.Error()}
	}
	tags := map[string]string{}
	for _, t := range x.Set {
		if _, ok := tags[t.Key]; ok {
			return blobErr(400, "DuplicateTagNames")
		}
		tags[t.Key] = t.Value
	}
	if err := blobCheckTags(tags); err != nil {
		return err
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
	s := *o.base
	s.tags = tags
	o.base = &s
	return c.answer(204)
}

func (c *blobCall) getTags() error {
	o, s, err := c.view()
	if err != nil {
		return err
	}
	o.mu.RUnlock()
	return c.answerXML(200, blobTagsXML(s.tags))
}

package azuretest

import (
	"encoding/xml"
	"net/http"
	"regexp"
	"strings"
)

func (c *blobCall) createContainer() error {
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	c.account.mu.Lock()
	defer c.account.mu.Unlock()
	if c.account.containers[c.container] != nil {
		return blobErr(409, "ContainerAlreadyExists")
	}
	t := &blobContainer{name: c.container, modified: c.now, etag: c.b.newETag(), meta: meta, blobs: map[string]*blobObject{}}
	c.account.containers[c.container] = t
	c.describeContainer(t)
	return c.answer(201)
}

// describeContainer tells a container, whose lock is held, in the headers of an
// answer.
func (c *blobCall) describeContainer(t *blobContainer) {
	h := c.w.Header()
	h.Set("ETag", t.etag)
	h.Set("Last-Modified", t.modified.Format(http.TimeFormat))
}

func (c *blobCall) containerProperties() error {
	t, err := c.account.container(c.container)
	if err != nil {
		return err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if err := t.lease.read(c.now, c.header("x-ms-lease-id"), "Container"); err != nil {
		return err
	}
	c.describeContainer(t)
	h := c.w.Header()
	for k, v := range t.meta {
		h.Set("x-ms-meta-"+k, v)
	}
	t.lease.describe(c.now, h)
	h.Set("x-ms-has-immutability-policy", "false")
	h.Set("x-ms-has-legal-hold", "false")
	return c.answer(200)
}

func (c *blobCall) containerACL() error {
	t, err := c.account.container(c.container)
	if err != nil {
		return err
	}
	t.mu.RLock()
	c.describeContainer(t)
	t.mu.RUnlock()
	return c.answerXML(200, struct {
		XMLName xml.Name `xml:"SignedIdentifiers"`
	}{})
}

func (c *blobCall) setContainerMetadata() error {
	meta, err := c.metadata()
	if err != nil {
		return err
	}
	t, err := c.account.container(c.container)
	if err != nil {
		return err
	}
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.lease.read(c.now, c.header("x-ms-lease-id"), "Container"); err != nil {
		return err
	}
	if err := k.write(t.etag, t.modified); err != nil {
		return err
	}
	t.meta, t.modified, t.etag = meta, c.now, c.b.newETag()
	c.describeContainer(t)
	return c.answer(200)
}

func (c *blobCall) deleteContainer() error {
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	c.account.mu.Lock()
	defer c.account.mu.Unlock()
	t := c.account.containers[c.container]
	if t == nil {
		return blobErr(404, "ContainerNotFound")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.lease.write(c.now, c.header("x-ms-lease-id"), "Container"); err != nil {
		return err
	}
	if err := k.write(t.etag, t.modified); err != nil {
		return err
	}
	delete(c.account.containers, c.container)
	return c.answer(202)
}

func (c *blobCall) accountProperties() error {
	if c.q.Get("restype") != "account" {
		return blobNotImplemented("service properties")
	}
	c.w.Header().Set("x-ms-sku-name", "Standard_LRS")
	c.w.Header().Set("x-ms-account-kind", "StorageV2")
	c.w.Header().Set("x-ms-is-hns-enabled", "false")
	return c.answer(200)
}

var blobMetaName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// metadata reads the metadata of a request. Names are kept in small letters:
// what HTTP libraries make of their case can't be relied on.
func (c *blobCall) metadata() (map[string]string, error) {
	meta, size := map[string]string{}, 0
	for name, values := range c.r.Header {
		name, ok := strings.CutPrefix(strings.ToLower(name), "x-ms-meta-")
		if !ok {
			continue
		}
		if name == "" {
			return nil, blobErr(400, "EmptyMetadataKey")
		}
		if !blobMetaName.MatchString(name) {
			return nil, blobErr(400, "InvalidMetadata")
		}
		meta[name] = strings.Join(values, ",")
		size += len(name) + len(meta[name])
	}
	if size > 8<<10 {
		return nil, blobErr(400, "MetadataTooLarge")
	}
	return meta, nil
}

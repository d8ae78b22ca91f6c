package azuretest

import (
	"encoding/base64"
	"encoding/xml"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// blobXMLMap is a map written as elements.
type blobXMLMap map[string]string

// MarshalXML writes one element for each name.
func (m blobXMLMap) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if err := e.EncodeElement(m[k], xml.StartElement{Name: xml.Name{Local: k}}); err != nil {
			return err
		}
	}
	return e.EncodeToken(start.End())
}

type blobXMLTag struct{ Key, Value string }

type blobXMLProperties struct {
	Created            string `xml:"Creation-Time,omitempty"`
	Modified           string `xml:"Last-Modified"`
	Etag               string
	ContentLength      *int64 `xml:"Content-Length"`
	ContentType        string `xml:"Content-Type,omitempty"`
	ContentEncoding    string `xml:"Content-Encoding,omitempty"`
	ContentLanguage    string `xml:"Content-Language,omitempty"`
	ContentMD5         string `xml:"Content-MD5,omitempty"`
	CacheControl       string `xml:"Cache-Control,omitempty"`
	ContentDisposition string `xml:"Content-Disposition,omitempty"`
	Sequence           *int64 `xml:"x-ms-blob-sequence-number"`
	BlobType           string `xml:",omitempty"`
	LeaseStatus        string `xml:",omitempty"`
	LeaseState         string `xml:",omitempty"`
	LeaseDuration      string `xml:",omitempty"`
	CopyID             string `xml:"CopyId,omitempty"`
	CopyStatus         string `xml:",omitempty"`
	CopySource         string `xml:",omitempty"`
	CopyProgress       string `xml:",omitempty"`
	CopyCompletionTime string `xml:",omitempty"`
	ServerEncrypted    string `xml:",omitempty"`
	TagCount           int    `xml:",omitempty"`
}

type blobXMLItem struct {
	Name       string
	Snapshot   string `xml:",omitempty"`
	Properties blobXMLProperties
	Metadata   blobXMLMap `xml:",omitempty"`
	Tags       *blobXMLTags
}

type blobXMLTags struct {
	XMLName xml.Name     `xml:"Tags"`
	Set     []blobXMLTag `xml:"TagSet>Tag"`
}

type blobXMLPrefix struct{ Name string }

type blobXMLList struct {
	XMLName    xml.Name `xml:"EnumerationResults"`
	Service    string   `xml:"ServiceEndpoint,attr"`
	Container  string   `xml:"ContainerName,attr,omitempty"`
	Prefix     string   `xml:",omitempty"`
	Marker     string   `xml:",omitempty"`
	MaxResults int      `xml:",omitempty"`
	Delimiter  string   `xml:",omitempty"`
	Blobs      *struct {
		Blob       []blobXMLItem
		BlobPrefix []blobXMLPrefix
	}
	Containers *struct{ Container []blobXMLItem }
	NextMarker string
}

// page reads how much of a list is asked for: what begins at a key, and how
// many entries.
func (c *blobCall) page(limit int) (from string, n int, err error) {
	n = limit
	if v := c.q.Get("maxresults"); v != "" {
		m, err := strconv.Atoi(v)
		if err != nil {
			return "", 0, blobBadQuery("maxresults")
		}
		if m <= 0 {
			return "", 0, blobErr(400, "OutOfRangeQueryParameterValue")
		}
		n = min(n, m)
	}
	key, err := base64.RawURLEncoding.DecodeString(c.q.Get("marker"))
	if err != nil {
		return "", 0, blobBadQuery("marker")
	}
	return string(key), n, nil
}

func blobMarker(key string) string { return base64.RawURLEncoding.EncodeToString([]byte(key)) }

func (c *blobCall) listing(limit int) (blobXMLList, string, int, error) {
	from, n, err := c.page(limit)
	l := blobXMLList{Service: c.b.URL() + "/" + c.account.name + "/", Container: c.container, Prefix: c.q.Get("prefix"),
		Marker: c.q.Get("marker"), Delimiter: c.q.Get("delimiter")}
	if c.q.Has("maxresults") {
		l.MaxResults = n
	}
	return l, from, n, err
}

func (c *blobCall) listContainers() error {
	l, from, n, err := c.listing(5000)
	if err != nil {
		return err
	}
	l.Containers = &struct{ Container []blobXMLItem }{}
	c.account.mu.RLock()
	all := maps.Clone(c.account.containers)
	c.account.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(name, l.Prefix) || name < from {
			continue
		}
		if len(l.Containers.Container) == n {
			l.NextMarker = blobMarker(name)
			break
		}
		t := all[name]
		t.mu.RLock()
		item := blobXMLItem{Name: name, Properties: blobXMLProperties{Modified: t.modified.Format(http.TimeFormat), Etag: strings.Trim(t.etag, `"`)}}
		p := &item.Properties
		p.LeaseState, p.LeaseStatus, p.LeaseDuration = t.lease.names(c.now)
		if strings.Contains(c.q.Get("include"), "metadata") {
			item.Metadata = t.meta
		}
		t.mu.RUnlock()
		l.Containers.Container = append(l.Containers.Container, item)
	}
	return c.answerXML(200, l)
}

func (c *blobCall) listBlobs() error {
	l, from, n, err := c.listing(5000)
	if err != nil {
		return err
	}
	include := map[string]bool{}
	for _, what := range strings.Split(c.q.Get("include"), ",") {
		switch what {
		case "", "snapshots", "metadata", "copy", "uncommittedblobs", "tags":
			include[what] = true
		case "deleted", "deletedwithversions", "versions", "immutabilitypolicy", "legalhold":
			return blobNotImplemented("include=" + what)
		default:
			return blobBadQuery("include")
		}
	}
	if include["snapshots"] && l.Delimiter != "" {
		return blobBadQuery("include")
	}
	t, err := c.account.container(c.container)
	if err != nil {
		return err
	}
	l.Blobs = &struct {
		Blob       []blobXMLItem
		BlobPrefix []blobXMLPrefix
	}{}
	count, prefix := 0, ""
	for _, o := range t.objects() {
		if !strings.HasPrefix(o.name, l.Prefix) || prefix != "" && strings.HasPrefix(o.name, prefix) {
			continue
		}
		if l.Delimiter != "" {
			if i := strings.Index(o.name[len(l.Prefix):], l.Delimiter); i >= 0 {
				if !o.shown(include) {
					continue
				}
				prefix = o.name[:len(l.Prefix)+i+len(l.Delimiter)]
				if prefix < from {
					continue
				}
				if count == n {
					l.NextMarker = blobMarker(prefix)
					break
				}
				l.Blobs.BlobPrefix = append(l.Blobs.BlobPrefix, blobXMLPrefix{prefix})
				count++
				continue
			}
		}
		if o.name+"\x00\xff" < from {
			continue
		}
		for _, item := range o.items(c, include) {
			key := o.name + "\x00" + item.Snapshot
			if item.Snapshot == "" {
				key = o.name + "\x00\xff" // after its snapshots
			}
			if key < from {
				continue
			}
			if count == n {
				l.NextMarker = blobMarker(key)
				break
			}
			l.Blobs.Blob = append(l.Blobs.Blob, item)
			count++
		}
		if l.NextMarker != "" {
			break
		}
	}
	return c.answerXML(200, l)
}

// shown tells whether a list has anything of the object.
func (o *blobObject) shown(include map[string]bool) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.base != nil || include["uncommittedblobs"] && len(o.uncommitted) > 0
}

// items are the snapshots, oldest first, and the blob, as far as a list
// includes them.
func (o *blobObject) items(c *blobCall, include map[string]bool) []blobXMLItem {
	o.mu.RLock()
	defer o.mu.RUnlock()
	var list []blobXMLItem
	if include["snapshots"] {
		for _, s := range o.snapshots {
			list = append(list, s.item(c, o, include))
		}
	}
	if o.base != nil {
		list = append(list, o.base.item(c, o, include))
	} else if include["uncommittedblobs"] && len(o.uncommitted) > 0 {
		list = append(list, (&blobState{kind: blobBlockType, created: c.now, modified: c.now}).item(c, o, include))
	}
	return list
}

func (s *blobState) item(c *blobCall, o *blobObject, include map[string]bool) blobXMLItem {
	size := s.size()
	i := blobXMLItem{Name: o.name, Snapshot: s.snapshot}
	p := &i.Properties
	*p = blobXMLProperties{Created: s.created.Format(http.TimeFormat), Modified: s.modified.Format(http.TimeFormat),
		Etag: strings.Trim(s.etag, `"`), ContentLength: &size, BlobType: s.kind, ServerEncrypted: "true",
		ContentType: s.head.typ, ContentEncoding: s.head.encoding, ContentLanguage: s.head.language,
		ContentMD5: s.head.md5, CacheControl: s.head.cache, ContentDisposition: s.head.disposition, TagCount: len(s.tags)}
	if s.kind == blobPageType {
		p.Sequence = &s.seq
	}
	if s.snapshot == "" {
		p.LeaseState, p.LeaseStatus, p.LeaseDuration = o.lease.names(c.now)
	}
	if include["copy"] && s.copied != nil {
		p.CopyID, p.CopyStatus, p.CopySource, p.CopyProgress = s.copied.id, s.copied.status, s.copied.source, s.copied.progress
		if !s.copied.done.IsZero() {
			p.CopyCompletionTime = s.copied.done.Format(http.TimeFormat)
		}
	}
	if include["metadata"] {
		i.Metadata = s.meta
	}
	if include["tags"] && len(s.tags) > 0 {
		i.Tags = blobTagsXML(s.tags)
	}
	return i
}

func blobTagsXML(tags map[string]string) *blobXMLTags {
	x := &blobXMLTags{}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		x.Set = append(x.Set, blobXMLTag{k, tags[k]})
	}
	return x
}

// blobSnapshotTime is how a snapshot is named: by 100 ns, always with seven digits.
const blobSnapshotTime = "2006-01-02T15:04:05.0000000Z"

// nextSnapshot returns a time for a snapshot that no other of the blob has had.
func (o *blobObject) nextSnapshot(now time.Time) string {
	t := now.Truncate(100 * time.Nanosecond)
	if !t.After(o.lastSnapshot) {
		t = o.lastSnapshot.Add(100 * time.Nanosecond)
	}
	o.lastSnapshot = t
	return t.Format(blobSnapshotTime)
}

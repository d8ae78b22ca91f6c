package azuretest

import (
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	blobBlockType = "BlockBlob"
	blobPageType  = "PageBlob"
)

type blobAccount struct {
	name string
	key  []byte

	mu         sync.RWMutex
	containers map[string]*blobContainer
}

// blobContainer is locked by itself for what is said of it, and by each blob
// for the blob. Whoever holds a blob's lock may take the container's, never the
// other way round.
type blobContainer struct {
	name string

	mu       sync.RWMutex
	modified time.Time
	etag     string
	meta     map[string]string
	lease    blobLease
	blobs    map[string]*blobObject
}

// blobObject is what has one name: a blob, its snapshots, and blocks that
// aren't committed.
type blobObject struct {
	container *blobContainer
	name      string

	mu           sync.RWMutex
	dead         bool       // no longer in its container
	base         *blobState // nil if there is none
	snapshots    []*blobState
	lastSnapshot time.Time
	uncommitted  map[string][]byte // by block ID
	lease        blobLease
	pending      *blobPending
}

// blobState is a blob at a moment. It is replaced, never changed, but for the
// pages of a base blob.
type blobState struct {
	kind              string
	created, modified time.Time
	etag              string
	snapshot          string // its time, if it is one
	meta, tags        map[string]string
	head              blobHead
	seq               int64
	pages             *pages
	blocks            []blobBlock
	copied            *blobCopy
}

// blobBlock is a part of a block blob. What was uploaded in one call has no ID.
type blobBlock struct {
	id   string
	data []byte
}

// blobHead are the headers that a blob keeps for its readers.
type blobHead struct{ typ, encoding, language, disposition, cache, md5 string }

func (s *blobState) size() int64 {
	if s.pages != nil {
		return s.pages.length()
	}
	var n int64
	for _, b := range s.blocks {
		n += int64(len(b.data))
	}
	return n
}

// readAt fills b, which must be within the size. A blob that shrinks meanwhile
// reads as zeros.
func (s *blobState) readAt(b []byte, off int64) {
	if s.pages != nil {
		n, _ := s.pages.readAt(b, off)
		clear(b[n:])
		return
	}
	for _, block := range s.blocks {
		n := int64(len(block.data))
		if off < n {
			copied := copy(b, block.data[off:])
			if b = b[copied:]; len(b) == 0 {
				return
			}
			off = n
		}
		off -= n
	}
}

// changed returns the state after a write.
func (c *blobCall) changed(s *blobState) *blobState {
	n := *s
	n.etag, n.modified = c.b.newETag(), c.now
	return &n
}

// created returns a new blob's state.
func (c *blobCall) created(o *blobObject, kind string) *blobState {
	s := &blobState{kind: kind, created: c.now, modified: c.now, etag: c.b.newETag()}
	if o.base != nil {
		s.created = o.base.created
	}
	return s
}

func (o *blobObject) empty() bool {
	return o.base == nil && len(o.snapshots) == 0 && len(o.uncommitted) == 0
}

// at returns the blob or a snapshot of it.
func (o *blobObject) at(snapshot string) *blobState {
	if snapshot == "" {
		return o.base
	}
	for _, s := range o.snapshots {
		if s.snapshot == snapshot {
			return s
		}
	}
	return nil
}

func (b *Blobs) account(name string) *blobAccount {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.accounts[name]
}

func (a *blobAccount) container(name string) (*blobContainer, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if c := a.containers[name]; c != nil {
		return c, nil
	}
	return nil, blobErr(404, "ContainerNotFound")
}

// lock returns the object of a name with its lock held; unlock gives it back.
// If there is none, it is made, or nil with create false.
func (c *blobContainer) lock(name string, create bool) *blobObject {
	for {
		c.mu.Lock()
		o := c.blobs[name]
		if o == nil && create {
			o = &blobObject{container: c, name: name, uncommitted: map[string][]byte{}}
			c.blobs[name] = o
		}
		c.mu.Unlock()
		if o == nil {
			return nil
		}
		o.mu.Lock()
		if !o.dead {
			return o
		}
		o.mu.Unlock()
	}
}

func (o *blobObject) unlock() {
	if o.empty() {
		o.dead = true
		o.container.mu.Lock()
		delete(o.container.blobs, o.name)
		o.container.mu.Unlock()
	}
	o.mu.Unlock()
}

// find returns the object of a name for reading, or nil.
func (c *blobContainer) find(name string) *blobObject {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.blobs[name]
}

// objects lists what is in the container now, by name.
func (c *blobContainer) objects() []*blobObject {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]*blobObject, 0, len(c.blobs))
	for _, name := range slices.Sorted(maps.Keys(c.blobs)) {
		list = append(list, c.blobs[name])
	}
	return list
}

package vault

import (
	"container/list"
	"os"
	"sync"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// openHandles bounds the files that a directory bucket keeps open for reading.
const openHandles = 64

// handleCache keeps files open between bulk reads, past the page cache: opening
// costs as much as reading a chunk. The zero value with fs set is ready. A file
// that was removed stays readable through its handle, which is right, because
// objects that are read in bulk never come again under their name.
type handleCache struct {
	fs fsys.FS

	mu    sync.Mutex
	files map[string]*list.Element // of *handle
	used  list.List                // most recently used first
}

type handle struct {
	fsys.File
	cache *handleCache
	name  string
	users int
	gone  bool // out of the cache; the last user closes it
}

func (c *handleCache) get(name string) (*handle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.files[name]; ok {
		c.used.MoveToFront(e)
		h := e.Value.(*handle)
		h.users++
		return h, nil
	}
	f, err := c.fs.OpenFile(name, os.O_RDONLY|fsys.Direct, 0)
	if err != nil {
		return nil, err
	}
	h := &handle{File: f, cache: c, name: name, users: 1}
	if c.files == nil {
		c.files = map[string]*list.Element{}
	}
	c.files[name] = c.used.PushFront(h)
	for c.used.Len() > openHandles {
		c.drop(c.used.Back())
	}
	return h, nil
}

func (h *handle) release() {
	h.cache.mu.Lock()
	defer h.cache.mu.Unlock()
	if h.users--; h.users == 0 && h.gone {
		h.Close()
	}
}

// forget drops a file's handles, so that its room can be given back.
func (c *handleCache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.files[name]; ok {
		c.drop(e)
	}
}

func (c *handleCache) drop(e *list.Element) {
	h := c.used.Remove(e).(*handle)
	delete(c.files, h.name)
	h.gone = true
	if h.users == 0 {
		h.Close()
	}
}

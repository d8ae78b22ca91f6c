package vault

import (
	"container/list"
	"os"
	"sync"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// openHandles bounds the files that a directory bucket keeps open for reading.
const openHandles = 64

// handleCache keeps files open between reads: opening costs as much as reading
// a chunk. The zero value with fs set is ready. A file that was removed stays
// readable through its handle, which is right, because objects never change.
type handleCache struct {
	fs fsys.FS

	mu    sync.Mutex
	files map[handleKey]*list.Element // of *handle
	used  list.List                   // most recently used first
}

type handleKey struct {
	name   string
	direct bool
}

type handle struct {
	fsys.File
	cache *handleCache
	key   handleKey
	users int
	gone  bool // out of the cache; the last user closes it
}

func (c *handleCache) get(name string, direct bool) (*handle, error) {
	key := handleKey{name, direct}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.files[key]; ok {
		c.used.MoveToFront(e)
		h := e.Value.(*handle)
		h.users++
		return h, nil
	}
	flag := os.O_RDONLY
	if direct {
		flag |= fsys.Direct
	}
	f, err := c.fs.OpenFile(name, flag, 0)
	if err != nil {
		return nil, err
	}
	h := &handle{File: f, cache: c, key: key, users: 1}
	if c.files == nil {
		c.files = map[handleKey]*list.Element{}
	}
	c.files[key] = c.used.PushFront(h)
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
	for _, direct := range []bool{false, true} {
		if e, ok := c.files[handleKey{name, direct}]; ok {
			c.drop(e)
		}
	}
}

func (c *handleCache) drop(e *list.Element) {
	h := c.used.Remove(e).(*handle)
	delete(c.files, h.key)
	h.gone = true
	if h.users == 0 {
		h.Close()
	}
}

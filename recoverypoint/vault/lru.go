package vault

import (
	"container/list"
	"sync"
)

// lru keeps the values used last, up to a number of bytes. What it lends stays
// good after it was dropped: values don't change. Safe for concurrent use.
type lru[K comparable, V any] struct {
	max int64

	mu   sync.Mutex
	size int64
	at   map[K]*list.Element
	used list.List // of *cached[K, V], most recently used first
}

type cached[K comparable, V any] struct {
	key   K
	value V
	size  int64
}

func newLRU[K comparable, V any](maxBytes int64) *lru[K, V] {
	return &lru[K, V]{max: maxBytes, at: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.at[k]
	if !ok {
		return v, false
	}
	c.used.MoveToFront(e)
	return e.Value.(*cached[K, V]).value, true
}

func (c *lru[K, V]) put(k K, v V, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.at[k]; ok {
		c.remove(e)
	}
	c.at[k] = c.used.PushFront(&cached[K, V]{k, v, size})
	c.size += size
	for c.size > c.max && c.used.Len() > 1 {
		c.remove(c.used.Back())
	}
}

func (c *lru[K, V]) drop(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.at[k]; ok {
		c.remove(e)
	}
}

func (c *lru[K, V]) remove(e *list.Element) {
	v := c.used.Remove(e).(*cached[K, V])
	delete(c.at, v.key)
	c.size -= v.size
}

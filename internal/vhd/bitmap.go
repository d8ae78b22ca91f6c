package vhd

import (
	"bytes"
	"container/list"
	"math/bits"
	"sync"
)

// bitmap tells which sectors of a block the image holds: the first one is the
// highest bit of the first byte.
type bitmap []byte

func (m bitmap) has(i int64) bool { return m[i/8]&(0x80>>(i%8)) != 0 }

// set marks [from, to) as held, and reports whether that changed anything.
func (m bitmap) set(from, to int64) (changed bool) {
	for i := from; i < to; {
		if i%8 == 0 && to-i >= 8 {
			changed = changed || m[i/8] != 0xff
			m[i/8] = 0xff
			i += 8
			continue
		}
		changed = changed || !m.has(i)
		m[i/8] |= 0x80 >> (i % 8)
		i++
	}
	return changed
}

// run is how far, up to to, sectors from i on are as that one.
func (m bitmap) run(i, to int64) (end int64, held bool) {
	held = m.has(i)
	other := byte(0)
	if held {
		other = 0xff
	}
	for i++; i < to; {
		if i%8 == 0 {
			// Whole bytes that are alike go fast.
			if x := m[i/8] ^ other; x == 0 {
				i += 8
				continue
			} else {
				return min(to, i+int64(bits.LeadingZeros8(x))), held
			}
		}
		if m.has(i) != held {
			return i, held
		}
		i++
	}
	return min(i, to), held
}

// filled is a bitmap of n bytes of which all sectors are held.
func filled(n int64) bitmap { return bytes.Repeat([]byte{0xff}, int(n)) }

// maxCached bounds the bitmaps kept to be read again, in bytes: those of 8 GiB of
// disk in blocks of 2 MiB.
const maxCached = 2 << 20

// cache keeps the bitmaps that were used last. Those that differ from the file
// are not in it.
type cache struct {
	mu   sync.Mutex
	maps map[int64]*list.Element
	used list.List // of cached, the last used in front
	size int
}

type cached struct {
	block int64
	m     bitmap
}

func (c *cache) get(block int64) bitmap {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.maps[block]
	if e == nil {
		return nil
	}
	c.used.MoveToFront(e)
	return e.Value.(cached).m
}

func (c *cache) put(block int64, m bitmap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maps == nil {
		c.maps = map[int64]*list.Element{}
	}
	if c.maps[block] != nil {
		return
	}
	c.maps[block] = c.used.PushFront(cached{block, m})
	c.size += len(m)
	for c.size > maxCached && c.used.Len() > 1 {
		c.remove(c.used.Back())
	}
}

func (c *cache) drop(block int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.maps[block]; e != nil {
		c.remove(e)
	}
}

func (c *cache) remove(e *list.Element) {
	old := c.used.Remove(e).(cached)
	delete(c.maps, old.block)
	c.size -= len(old.m)
}

package agentwire

import (
	"sync"
	"unsafe"
)

// page is the alignment that direct I/O wants of memory.
const page = 4 << 10

// Buffer is memory for one bulk body. It lies so that a backend which splits off
// unaligned ends can do the rest by direct I/O.
type Buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any {
	b := make([]byte, MaxBulk+2*page)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % page
	return &Buffer{b[skip : int(skip)+MaxBulk+page]}
}}

// NewBuffer takes one from the pool.
func NewBuffer() *Buffer { return buffers.Get().(*Buffer) }

// At returns n bytes, MaxBulk at most, that lie in their page as the bytes at
// off do in the disk's.
func (b *Buffer) At(off int64, n int) []byte {
	pad := int(off & (page - 1))
	return b.b[pad : pad+n : pad+n]
}

// Free gives the buffer back. A nil one is no matter.
func (b *Buffer) Free() {
	if b != nil {
		buffers.Put(b)
	}
}

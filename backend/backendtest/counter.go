package backendtest

import (
	"context"
	"errors"
	"io"
	"sync"
)

// Counter counts calls and bytes. Its Intercept is the Interceptor; the zero
// value counts from zero. All methods are safe for concurrent use.
type Counter struct {
	mu    sync.Mutex
	calls map[Op]int
	bytes map[Op]int64
}

// Intercept is an Interceptor.
func (k *Counter) Intercept(_ context.Context, c Call, do func() error) error {
	err := do()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.calls == nil {
		k.calls, k.bytes = map[Op]int{}, map[Op]int64{}
	}
	k.calls[c.Op]++
	if err == nil || c.Op == OpReadAt && errors.Is(err, io.EOF) {
		k.bytes[c.Op] += c.Len
	}
	return err
}

// Calls returns how often the method was called, failures included.
func (k *Counter) Calls(op Op) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[op]
}

// Bytes returns how many bytes successful calls of the method were for. A read
// that reaches beyond the end of a disk counts as long as it was asked for.
func (k *Counter) Bytes(op Op) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bytes[op]
}

// Read returns the bytes read from images.
func (k *Counter) Read() int64 { return k.Bytes(OpReadAt) }

// Written returns the bytes written to drafts; those zeroed are not counted.
func (k *Counter) Written() int64 { return k.Bytes(OpWriteAt) }

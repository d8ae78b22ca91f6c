package bucket

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// writer gathers an object in memory until its commit.
type writer struct {
	put func(ctx context.Context, data []byte) error

	mu   sync.Mutex
	data []byte
	done bool
}

var errDone = errors.New("the object was committed or aborted")

// WriteAt implements io.WriterAt.
func (w *writer) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return 0, errDone
	}
	if off < 0 || off > largest-int64(len(p)) {
		return 0, fmt.Errorf("%w: object of %d bytes", dr.ErrInvalid, off+int64(len(p)))
	}
	end := int(off) + len(p)
	if end > len(w.data) {
		w.data = append(w.data, make([]byte, end-len(w.data))...)
	}
	return copy(w.data[off:], p), nil
}

// Commit implements vault.Writer.
func (w *writer) Commit(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return errDone
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.done = true
	data := w.data
	w.data = nil
	return w.put(ctx, data)
}

// Abort implements vault.Writer.
func (w *writer) Abort() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done, w.data = true, nil
	return nil
}

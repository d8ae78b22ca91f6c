package bucket

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// largest is the longest object or head in bytes: a vault's segment and room to
// spare. What the far end says is bounded by it.
const largest = 64 << 20

// Memory is a vault.Bucket and vault.Locker in this process. It is safe for
// concurrent use. Make one with New.
type Memory struct {
	mu      sync.RWMutex
	objects map[string][]byte // never changed once they are here
	heads   map[string]head
	// names are those of objects and heads by their first two folders: a bucket
	// of thousands of vaults is listed by the vault.
	names map[string]map[string]struct{}
	swaps uint64
	locks map[string]int // shared holders, or -1
	bytes int64
}

type head struct {
	data    []byte
	version vault.Version
}

// New returns an empty bucket.
func New() *Memory {
	return &Memory{objects: map[string][]byte{}, heads: map[string]head{}, names: map[string]map[string]struct{}{}, locks: map[string]int{}}
}

// Size returns how many objects and heads there are, and their bytes.
func (m *Memory) Size() (n int, bytes int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.objects) + len(m.heads), m.bytes
}

// Create implements vault.Bucket.
func (m *Memory) Create(ctx context.Context, name string) (vault.Writer, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return &writer{put: func(_ context.Context, data []byte) error { return m.put(name, data) }}, ctx.Err()
}

func (m *Memory) put(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, dup := m.objects[name]; dup {
		return fmt.Errorf("%w: object %s", dr.ErrExists, name)
	}
	m.objects[name] = data
	m.note(name)
	m.bytes += int64(len(data))
	return nil
}

// folder is the part of a name up to its second '/', or "".
func folder(name string) string {
	if i := strings.IndexByte(name, '/'); i >= 0 {
		if j := strings.IndexByte(name[i+1:], '/'); j >= 0 {
			return name[:i+1+j+1]
		}
	}
	return ""
}

func (m *Memory) note(name string) {
	f := m.names[folder(name)]
	if f == nil {
		f = map[string]struct{}{}
		m.names[folder(name)] = f
	}
	f[name] = struct{}{}
}

// ReadAt implements vault.Bucket.
func (m *Memory) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := checkName(name); err != nil {
		return 0, err
	}
	m.mu.RLock()
	data, ok := m.objects[name]
	m.mu.RUnlock()
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: object %s", dr.ErrNotFound, name)
	case off < 0:
		return 0, fmt.Errorf("%w: read of object %s at %d", dr.ErrInvalid, name, off)
	}
	n := copy(p, data[min(off, int64(len(data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// List implements vault.Bucket.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[vault.Object, error] {
	return func(yield func(vault.Object, error) bool) {
		var all []vault.Object
		m.mu.RLock()
		add := func(names map[string]struct{}) {
			for name := range names {
				if strings.HasPrefix(name, prefix) {
					all = append(all, vault.Object{Name: name, Size: int64(len(m.objects[name]) + len(m.heads[name].data))})
				}
			}
		}
		if strings.Count(prefix, "/") >= 2 {
			add(m.names[folder(prefix)])
		} else {
			for _, names := range m.names {
				add(names)
			}
		}
		m.mu.RUnlock()
		slices.SortFunc(all, func(a, b vault.Object) int { return strings.Compare(a.Name, b.Name) })
		for _, o := range all {
			if err := ctx.Err(); err != nil {
				yield(vault.Object{}, err)
				return
			}
			if !yield(o, nil) {
				return
			}
		}
	}
}

// Delete implements vault.Bucket.
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes -= int64(len(m.objects[name]))
	delete(m.objects, name)
	if _, there := m.heads[name]; !there {
		if f := m.names[folder(name)]; f != nil {
			if delete(f, name); len(f) == 0 {
				delete(m.names, folder(name))
			}
		}
	}
	return nil
}

// ReadHead implements vault.Bucket.
func (m *Memory) ReadHead(ctx context.Context, name string) ([]byte, vault.Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	if err := checkName(name); err != nil {
		return nil, "", err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := m.heads[name]
	return slices.Clone(h.data), h.version, nil
}

// SwapHead implements vault.Bucket.
func (m *Memory) SwapHead(ctx context.Context, name string, old vault.Version, data []byte) (vault.Version, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.heads[name]
	if before.version != old {
		return "", fmt.Errorf("%w: head %s", dr.ErrConflict, name)
	}
	m.swaps++
	h := head{slices.Clone(data), vault.Version(strconv.FormatUint(m.swaps, 10))}
	m.heads[name] = h
	m.note(name)
	m.bytes += int64(len(h.data) - len(before.data))
	return h.version, nil
}

// Lock implements vault.Locker.
func (m *Memory) Lock(ctx context.Context, name string, exclusive bool) (io.Closer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.locks[name]
	if n < 0 || exclusive && n > 0 {
		return nil, fmt.Errorf("%w: lock %s", dr.ErrBusy, name)
	}
	if exclusive {
		m.locks[name] = -1
	} else {
		m.locks[name] = n + 1
	}
	return closer(sync.OnceValue(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.locks[name] > 1 {
			m.locks[name]--
		} else {
			delete(m.locks, name)
		}
		return nil
	})), nil
}

type closer func() error

func (c closer) Close() error { return c() }

// checkName refuses what the contract of vault.Bucket doesn't call a name.
func checkName(name string) error {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 217 || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			return fmt.Errorf("%w: %q is no name of an object", dr.ErrInvalid, name)
		}
	}
	return nil
}

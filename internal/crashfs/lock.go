package crashfs

import (
	"io"
	"io/fs"
	"os"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// Lock implements fsys.FS.
func (f *FS) Lock(name string, exclusive bool) (io.Closer, error) {
	op := Op{Kind: Lock, Path: rooted(name)}
	var held *lock
	err := f.do(op, func() error {
		n, err := f.open(op.Path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		if n.owners > 0 || exclusive && n.sharers > 0 {
			return fsys.ErrLocked
		}
		held = &lock{fs: f, node: n, name: name, exclusive: exclusive}
		held.count(1)
		return nil
	})
	if err != nil {
		if held != nil {
			// A torn operation took it and nobody was told: it dies with the
			// handle that wasn't returned.
			_ = held.Close()
		}
		return nil, pathError(op.Kind, name, err)
	}
	return held, nil
}

type lock struct {
	fs        *FS
	node      *node
	name      string
	exclusive bool
	closed    bool
}

func (l *lock) count(by int) {
	l.node.handles += by
	if l.exclusive {
		l.node.owners += by
	} else {
		l.node.sharers += by
	}
}

func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	switch {
	case l.fs.off:
		return pathError(Close, l.name, ErrPowerLost)
	case l.closed:
		return pathError(Close, l.name, fs.ErrClosed)
	}
	l.closed = true
	l.count(-1)
	l.fs.release(l.node)
	return nil
}

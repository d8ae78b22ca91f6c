package crashfs

import (
	"io/fs"
	"math"
	"os"
	"syscall"
)

// file is a handle; its fields but closed don't change, and closed is under the
// lock of fs.
type file struct {
	fs         *FS
	node       *node
	name, path string
	flag       int
	closed     bool
}

// do runs one operation on the handle.
func (h *file) do(o Op, effect func() error) error {
	o.Path = h.path
	return pathError(o.Kind, h.name, h.fs.do(o, func() error {
		if h.closed {
			return fs.ErrClosed
		}
		return effect()
	}))
}

// access tells whether the handle was opened for what o does.
func (h *file) access(o Op) error {
	mode := h.flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
	switch o.Kind {
	case Read:
		if mode == os.O_WRONLY {
			return syscall.EBADF
		}
	case Write:
		if mode == os.O_RDONLY {
			return syscall.EBADF
		}
	case Truncate:
		if mode == os.O_RDONLY {
			return syscall.EINVAL
		}
	case Punch:
		if mode == os.O_RDONLY {
			return syscall.EBADF
		}
	}
	return nil
}

func (h *file) ReadAt(p []byte, off int64) (n int, err error) {
	op := Op{Kind: Read, Off: off, Len: int64(len(p))}
	var eof error // not to be wrapped, as callers compare it
	err = h.do(op, func() error {
		if off < 0 {
			return errNegative
		}
		if len(p) == 0 {
			return nil
		}
		if err := h.access(op); err != nil {
			return err
		}
		n, eof = h.node.readAt(p, off)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, eof
}

func (h *file) WriteAt(p []byte, off int64) (n int, err error) {
	op := Op{Kind: Write, Path: h.path, Off: off, Len: int64(len(p))}
	f := h.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	fault, err := f.begin(op)
	if err == nil && h.closed {
		err = fs.ErrClosed
	}
	if err == nil && off < 0 {
		err = errNegative
	}
	if err == nil && int64(len(p)) > maxSize-off {
		err = syscall.EFBIG
	}
	if err == nil && len(p) > 0 {
		err = h.access(op)
	}
	if err != nil {
		return 0, pathError(Write, h.name, err)
	}
	if fault != nil {
		if fault.Torn && len(p) > 0 {
			n = h.write(p[:h.tear(off, len(p))], off)
		}
		if err = f.fail(fault); f.off {
			n = 0
		}
		return n, pathError(Write, h.name, err)
	}
	if n = h.write(p, off); n < len(p) {
		err = syscall.ENOSPC
	}
	return n, pathError(Write, h.name, err)
}

// tear draws how much of a write of n bytes at off is done when it is torn: it
// ends at a sector, before the last one.
func (h *file) tear(off int64, n int) int {
	const sector = 512
	first := int(sector - off%sector)
	if n <= first {
		return 0
	}
	sectors := (n - first + sector - 1) / sector
	if keep := h.fs.rng.IntN(sectors + 1); keep > 0 {
		return first + (keep-1)*sector
	}
	return 0
}

// write does as much of a write as there is room for.
func (h *file) write(p []byte, off int64) int {
	p = p[:h.fs.fit(h.node, len(p), off)]
	if len(p) == 0 {
		return 0
	}
	h.fs.resize(h.node, func() { h.node.change(writing(p, off)) })
	if h.flag&os.O_SYNC != 0 {
		h.node.sync()
	}
	return len(p)
}

// fit is how many of n bytes at off the disk takes.
func (f *FS) fit(n *node, length int, off int64) int {
	if f.budget == 0 {
		return length
	}
	free := (f.budget - f.used) / pageSize
	for done := 0; done < length; {
		i, in := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		if n.page(i) == nil {
			if free--; free < 0 {
				return done
			}
		}
		done += pageSize - int(in)
	}
	return length
}

// Sync that fails by an injected error loses data: see the package comment.
func (h *file) Sync() error {
	op := Op{Kind: Sync, Path: h.path}
	f := h.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	fault, err := f.begin(op)
	if err == nil && h.closed {
		err = fs.ErrClosed
	}
	switch {
	case err != nil:
	case fault == nil:
		h.node.sync()
	default:
		if err = f.fail(fault); !f.off {
			h.node.failSync(f.rng)
		} else if fault.Torn && f.rng.IntN(2) == 0 {
			h.node.sync()
		}
	}
	return pathError(Sync, h.name, err)
}

func (h *file) Truncate(size int64) error {
	op := Op{Kind: Truncate, Off: size}
	return h.do(op, func() error {
		if size < 0 {
			return syscall.EINVAL
		}
		if size > maxSize {
			return syscall.EFBIG
		}
		if err := h.access(op); err != nil {
			return err
		}
		if size != h.node.size {
			h.fs.resize(h.node, func() { h.node.change(change{off: size, n: -1}) })
		}
		return nil
	})
}

func (h *file) Size() (size int64, err error) {
	err = h.do(Op{Kind: Size}, func() error {
		size = h.node.size
		return nil
	})
	return size, err
}

func (h *file) Data(off int64) (start, end int64, err error) {
	var eof error
	err = h.do(Op{Kind: Data, Off: off}, func() error {
		if off < 0 {
			return fs.ErrInvalid
		}
		start, end, eof = h.node.data(off)
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return start, end, eof
}

func (h *file) Punch(off, n int64) error {
	op := Op{Kind: Punch, Off: off, Len: n}
	return h.do(op, func() error {
		if off < 0 || n < 0 || off > math.MaxInt64-n {
			return fs.ErrInvalid
		}
		if err := h.access(op); err != nil {
			return err
		}
		if off < h.node.size && n > 0 {
			h.fs.resize(h.node, func() { h.node.change(change{off: off, n: min(n, h.node.size-off)}) })
		}
		return nil
	})
}

// Close releases the handle also when an injected fault makes it fail.
func (h *file) Close() error {
	f := h.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	fault, err := f.begin(Op{Kind: Close, Path: h.path})
	if err == nil && h.closed {
		err = fs.ErrClosed
	}
	if err == nil {
		h.closed = true
		h.node.handles--
		f.release(h.node)
		if fault != nil {
			err = f.fail(fault)
		}
	}
	return pathError(Close, h.name, err)
}

package crashfs

import (
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// nameChange is one atomic change of names, in one folder or, of a rename
// across folders, two.
type nameChange struct {
	edits   []nameEdit
	barrier bool // survives only with everything before it: a folder moved, and might else end up inside itself
}

// nameEdit makes name in dir stand for node, or for nothing.
type nameEdit struct {
	dir  *node
	name string
	node *node
}

// change changes names as they are seen, and remembers it until SyncDir.
func (f *FS) change(c nameChange) {
	for _, e := range c.edits {
		old := e.dir.names[e.name]
		if e.node != nil {
			e.dir.names[e.name] = e.node
			e.node.links++
		} else {
			delete(e.dir.names, e.name)
		}
		if old != nil {
			old.links--
		}
		e.dir.mtime = f.now()
	}
	f.names = append(f.names, c)
}

// OpenFile implements fsys.FS. [fsys.Direct] changes nothing.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (fsys.File, error) {
	flag &^= fsys.Direct
	op := Op{Kind: Open, Path: rooted(name)}
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		op.Kind = Create
	}
	var opened *file
	err := f.do(op, func() error {
		n, err := f.open(op.Path, flag, perm)
		if err == nil {
			n.handles++
			opened = &file{fs: f, node: n, name: name, path: op.Path, flag: flag}
		}
		return err
	})
	if err != nil {
		f.abandon(opened)
		return nil, pathError(op.Kind, name, err)
	}
	return opened, nil
}

// abandon drops a handle that was made by an open that failed afterwards.
func (f *FS) abandon(h *file) {
	if h == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h.node.handles--
	f.release(h.node)
}

func (f *FS) open(name string, flag int, perm fs.FileMode) (*node, error) {
	if name == "/" {
		return nil, syscall.EISDIR
	}
	dir, base, n, err := f.place(name)
	switch {
	case err != nil:
		return nil, err
	case n == nil && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case n == nil:
		n = newFile(perm)
		n.mtime = f.now()
		f.change(nameChange{edits: []nameEdit{{dir, base, n}}})
		return n, nil
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case n.isDir():
		return nil, syscall.EISDIR
	}
	if flag&os.O_TRUNC != 0 && n.size > 0 {
		f.resize(n, func() { n.change(change{n: -1}) })
	}
	return n, nil
}

// Rename implements fsys.FS.
func (f *FS) Rename(oldname, newname string) error {
	op := Op{Kind: Rename, Path: rooted(oldname), To: rooted(newname)}
	err := f.do(op, func() error {
		from, oldbase, n, err := f.place(op.Path)
		if err != nil {
			return err
		}
		to, newbase, there, err := f.place(op.To)
		switch {
		case err != nil:
			return err
		case n == nil:
			return fs.ErrNotExist
		case there != nil && there.isDir():
			return fs.ErrExist // as package os has it
		case there == n:
			return nil
		case n.isDir() && strings.HasPrefix(op.To, op.Path+"/"):
			return syscall.EINVAL
		case n.isDir() && there != nil:
			return syscall.ENOTDIR
		}
		f.change(nameChange{
			edits:   []nameEdit{{to, newbase, n}, {from, oldbase, nil}},
			barrier: n.isDir(),
		})
		if there != nil {
			f.release(there)
		}
		return nil
	})
	return linkError(op.Kind, oldname, newname, err)
}

// Link implements fsys.FS.
func (f *FS) Link(oldname, newname string) error {
	op := Op{Kind: Link, Path: rooted(oldname), To: rooted(newname)}
	err := f.do(op, func() error {
		n, err := f.find(op.Path)
		if err != nil {
			return err
		}
		dir, base, there, err := f.place(op.To)
		switch {
		case err != nil:
			return err
		case there != nil:
			return fs.ErrExist
		case n.isDir():
			return syscall.EPERM
		}
		f.change(nameChange{edits: []nameEdit{{dir, base, n}}})
		return nil
	})
	return linkError(op.Kind, oldname, newname, err)
}

func linkError(k Kind, oldname, newname string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: k.String(), Old: oldname, New: newname, Err: err}
}

// Remove implements fsys.FS.
func (f *FS) Remove(name string) error {
	op := Op{Kind: Remove, Path: rooted(name)}
	return pathError(op.Kind, name, f.do(op, func() error {
		dir, base, n, err := f.place(op.Path)
		switch {
		case err != nil:
			return err
		case n == nil:
			return fs.ErrNotExist
		case len(n.names) > 0:
			return syscall.ENOTEMPTY
		}
		f.change(nameChange{edits: []nameEdit{{dir, base, nil}}})
		f.release(n)
		return nil
	}))
}

// MkdirAll implements fsys.FS.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error {
	op := Op{Kind: Mkdir, Path: rooted(name)}
	return pathError(op.Kind, name, f.do(op, func() error {
		at := f.root
		for part := range strings.SplitSeq(op.Path[1:], "/") {
			next := at.names[part]
			switch {
			case part == "":
				next = at
			case next == nil:
				next = newDir(perm)
				next.mtime = f.now()
				f.change(nameChange{edits: []nameEdit{{at, part, next}}})
			case !next.isDir():
				return syscall.ENOTDIR
			}
			at = next
		}
		return nil
	}))
}

// ReadDir implements fsys.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	op := Op{Kind: ReadDir, Path: rooted(name)}
	var list []fs.DirEntry
	err := f.do(op, func() error {
		dir, err := f.find(op.Path)
		if err != nil {
			return err
		}
		if !dir.isDir() {
			return syscall.ENOTDIR
		}
		for _, base := range slices.Sorted(maps.Keys(dir.names)) {
			list = append(list, fs.FileInfoToDirEntry(dir.names[base].info(base)))
		}
		return nil
	})
	if err != nil {
		return nil, pathError(op.Kind, name, err)
	}
	return list, nil
}

// Stat implements fsys.FS. Times count operations, in microseconds.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	op := Op{Kind: Stat, Path: rooted(name)}
	var found fs.FileInfo
	err := f.do(op, func() error {
		n, err := f.find(op.Path)
		if err == nil {
			found = n.info(op.Path[strings.LastIndexByte(op.Path, '/')+1:])
		}
		return err
	})
	if err != nil {
		return nil, pathError(op.Kind, name, err)
	}
	return found, nil
}

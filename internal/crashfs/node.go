package crashfs

import (
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// node is a file or a folder, whatever its names.
type node struct {
	mode  fs.FileMode
	mtime time.Time

	// Of a folder: its names as they are seen, and those that are durable.
	names, durable map[string]*node

	// Of a file.
	content
	links, handles  int
	sharers, owners int   // of its lock
	origin          *node // of a file that a restart found: where its content comes from, until it is known
}

func newDir(perm fs.FileMode) *node {
	return &node{mode: fs.ModeDir | perm.Perm(), names: map[string]*node{}, durable: map[string]*node{}}
}

func newFile(perm fs.FileMode) *node {
	return &node{mode: perm.Perm(), content: newContent(nil, 0)}
}

func (n *node) isDir() bool { return n.names != nil }

// info describes a node at one moment.
type info struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
}

func (n *node) info(name string) info {
	return info{name: name, size: n.size, mode: n.mode, mtime: n.mtime}
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.mtime }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

// rooted is the one form of a name: with slashes, from the root.
func rooted(name string) string { return path.Clean("/" + filepath.ToSlash(name)) }

// find walks to a rooted name.
func (f *FS) find(name string) (*node, error) {
	at := f.root
	for rest := name[1:]; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		if !at.isDir() {
			return nil, syscall.ENOTDIR
		}
		next := at.names[part]
		if next == nil {
			return nil, fs.ErrNotExist
		}
		at = next
	}
	return at, nil
}

// place finds the folder of a rooted name, and what the name stands for there,
// nil if nothing.
func (f *FS) place(name string) (dir *node, base string, there *node, err error) {
	if name == "/" {
		return nil, "", nil, syscall.EBUSY
	}
	folder, base := path.Split(name)
	dir, err = f.find(path.Clean(folder))
	if err == nil && !dir.isDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, "", nil, err
	}
	return dir, base, dir.names[base], nil
}

// release gives back the room of a file that nothing refers to any more.
func (f *FS) release(n *node) {
	if !n.isDir() && n.links == 0 && n.handles == 0 {
		f.used -= n.pages * pageSize
	}
}

// resize keeps count of the room that a file takes while change changes it.
func (f *FS) resize(n *node, change func()) {
	before := n.pages
	change()
	f.used += (n.pages - before) * pageSize
	n.mtime = f.now()
}

func pathError(k Kind, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: k.String(), Path: name, Err: err}
}

var errNegative = errors.New("negative offset")

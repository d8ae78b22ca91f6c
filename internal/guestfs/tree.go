package guestfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"
)

// MaxLinks is how many symbolic links one path may lead over, as on Linux.
const MaxLinks = 40

// MaxWhole is the size in bytes up to which ReadFile reads a file whole.
const MaxWhole = 256 << 20

// Tree is a file system as an io/fs.FS, with others mounted into it. It
// follows symbolic links as the guest would: an absolute one begins at the
// tree's root, and none leads out of it.
//
// It is safe for concurrent use once everything is mounted. A panic in a
// reader becomes an error: foreign bytes must not end the process.
type Tree struct {
	vol    Volume
	mounts map[string]Volume
}

var (
	_ fs.ReadDirFS  = (*Tree)(nil)
	_ fs.StatFS     = (*Tree)(nil)
	_ fs.ReadFileFS = (*Tree)(nil)
	_ fs.ReadLinkFS = (*Tree)(nil)
)

// NewTree makes a tree of one volume.
func NewTree(v Volume) *Tree { return &Tree{vol: v, mounts: map[string]Volume{}} }

// Mount lays a volume over the folder at a path such as "boot/efi".
func (t *Tree) Mount(at string, v Volume) {
	if at = strings.Trim(path.Clean("/"+at), "/"); at != "" {
		t.mounts[at] = v
	}
}

type place struct {
	path string // "" at the root
	node Node
	vol  Volume
}

// walk finds the node of a path. Without follow a link at its end is the node.
func (t *Tree) walk(name string, follow bool) (place, error) {
	root, err := t.vol.Root()
	if err != nil {
		return place{}, err
	}
	stack := []place{{"", root, t.vol}}
	todo := split(name)
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		if c == ".." {
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		here := stack[len(stack)-1]
		next, err := t.child(here, c)
		if err != nil {
			return place{}, err
		}
		if next.node.Info().Mode&fs.ModeSymlink != 0 && (follow || len(todo) > 0) {
			if links++; links > MaxLinks {
				return place{}, fmt.Errorf("more than %d symbolic links", MaxLinks)
			}
			to, err := next.node.Link()
			if err != nil {
				return place{}, err
			}
			if strings.HasPrefix(to, "/") {
				stack = stack[:1]
			}
			todo = append(split(to), todo...)
			continue
		}
		stack = append(stack, next)
	}
	return stack[len(stack)-1], nil
}

func split(name string) []string {
	var parts []string
	for c := range strings.SplitSeq(name, "/") {
		if c != "" && c != "." {
			parts = append(parts, c)
		}
	}
	return parts
}

func (t *Tree) child(dir place, name string) (place, error) {
	at := path.Join(dir.path, name)
	if v, ok := t.mounts[at]; ok {
		root, err := v.Root()
		return place{at, root, v}, err
	}
	if !dir.node.Info().Mode.IsDir() {
		return place{}, fs.ErrNotExist
	}
	for e, err := range dir.node.Entries() {
		if err != nil {
			return place{}, err
		}
		if e.Name == name || dir.vol.FoldsCase() && strings.EqualFold(e.Name, name) {
			n, err := dir.vol.Node(e.ID)
			return place{at, n, dir.vol}, err
		}
	}
	return place{}, fs.ErrNotExist
}

// op runs f for an operation on a path; what goes wrong is a *fs.PathError.
func op[T any](what, name string, f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = Corrupt("reader failed: %v", r)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			err = &fs.PathError{Op: what, Path: name, Err: err}
		}
	}()
	if !fs.ValidPath(name) {
		return v, fs.ErrInvalid
	}
	return f()
}

// Open opens a file or folder, over symbolic links.
func (t *Tree) Open(name string) (fs.File, error) {
	return op("open", name, func() (fs.File, error) {
		p, err := t.walk(name, true)
		if err != nil {
			return nil, err
		}
		return &file{tree: t, name: name, node: p.node}, nil
	})
}

// Stat describes what a path leads to.
func (t *Tree) Stat(name string) (fs.FileInfo, error) { return t.stat("stat", name, true) }

// Lstat describes a path; of a symbolic link, the link.
func (t *Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat("lstat", name, false) }

func (t *Tree) stat(what, name string, follow bool) (fs.FileInfo, error) {
	return op(what, name, func() (fs.FileInfo, error) {
		p, err := t.walk(name, follow)
		if err != nil {
			return nil, err
		}
		return info{path.Base(name), p.node.Info()}, nil
	})
}

// ReadLink is where the link at a path points to.
func (t *Tree) ReadLink(name string) (string, error) {
	return op("readlink", name, func() (string, error) {
		p, err := t.walk(name, false)
		if err != nil {
			return "", err
		}
		if p.node.Info().Mode&fs.ModeSymlink == 0 {
			return "", fs.ErrInvalid
		}
		return p.node.Link()
	})
}

// ReadFile reads a file of up to MaxWhole bytes.
func (t *Tree) ReadFile(name string) ([]byte, error) {
	return op("read", name, func() ([]byte, error) {
		p, err := t.walk(name, true)
		if err != nil {
			return nil, err
		}
		in := p.node.Info()
		switch {
		case !in.Mode.IsRegular():
			return nil, fs.ErrInvalid
		case in.Size < 0 || in.Size > MaxWhole:
			return nil, fmt.Errorf("%d bytes are too many to read at once", in.Size)
		}
		b := make([]byte, in.Size)
		n, err := p.node.ReadAt(b, 0)
		if err == io.EOF && int64(n) == in.Size {
			err = nil
		}
		return b[:n], err
	})
}

// ReadDir lists a folder in the order of the names.
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	return op("readdir", name, func() ([]fs.DirEntry, error) {
		p, err := t.walk(name, true)
		if err != nil {
			return nil, err
		}
		return t.list(p)
	})
}

func (t *Tree) list(p place) ([]fs.DirEntry, error) {
	if !p.node.Info().Mode.IsDir() {
		return nil, errors.New("not a folder")
	}
	var list []fs.DirEntry
	for e, err := range p.node.Entries() {
		if err != nil {
			return list, err
		}
		// A name that can't be one would lead a walker astray.
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
			return list, Corrupt("a file is named %q", e.Name)
		}
		if len(list) >= MaxEntries {
			return list, Corrupt("more than %d names in a folder", MaxEntries)
		}
		list = append(list, entry{t, path.Join(p.path, e.Name), e, p.vol})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name() < list[j].Name() })
	return list, nil
}

type entry struct {
	tree *Tree
	path string
	e    Entry
	vol  Volume
}

func (e entry) Name() string { return e.e.Name }
func (e entry) IsDir() bool  { return e.Type().IsDir() }
func (e entry) Type() fs.FileMode {
	if e.e.Type != fs.ModeIrregular {
		return e.e.Type
	}
	in, err := e.Info()
	if err != nil {
		return fs.ModeIrregular
	}
	return in.Mode().Type()
}

func (e entry) Info() (fs.FileInfo, error) {
	return op("lstat", e.path, func() (fs.FileInfo, error) {
		v, ok := e.tree.mounts[e.path]
		n, err := Node(nil), error(nil)
		if ok {
			n, err = v.Root()
		} else {
			n, err = e.vol.Node(e.e.ID)
		}
		if err != nil {
			return nil, err
		}
		return info{e.e.Name, n.Info()}, nil
	})
}

type info struct {
	name string
	in   Info
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.in.Size }
func (i info) Mode() fs.FileMode  { return i.in.Mode }
func (i info) ModTime() time.Time { return i.in.ModTime }
func (i info) IsDir() bool        { return i.in.Mode.IsDir() }
func (i info) Sys() any           { return nil }

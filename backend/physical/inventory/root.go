package inventory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Bounds of what is read: the largest real ones are far below.
const (
	maxAttribute = 64 << 10  // a file of sysfs: the kernel gives a page
	maxText      = 16 << 20  // mountinfo of a host with thousands of containers
	maxFile      = 256 << 20 // a file that readiness reads, such as dpkg's status
	maxEntries   = 1 << 16   // names in a folder
	maxLinks     = 40        // as Linux
)

// root is a machine's files below a folder. Symbolic links are followed as that
// machine would: an absolute one begins at the root, and none leads out of it.
// It is a boundary against mistakes, not against a process that exchanges links
// meanwhile. It implements io/fs.FS for readers of configuration files.
type root string

var (
	_ fs.StatFS     = root("")
	_ fs.ReadFileFS = root("")
	_ fs.ReadDirFS  = root("")
	_ fs.ReadLinkFS = root("")
)

// resolve finds where a path of the machine leads, as a path of the machine
// without links. Without last the last name isn't followed.
func (r root) resolve(name string, last bool) (string, error) {
	todo := parts(name)
	var at []string
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		if c == ".." {
			at = at[:max(0, len(at)-1)]
			continue
		}
		next := append(slices.Clone(at), c)
		info, err := os.Lstat(r.host(next))
		if err != nil {
			return "", notThere(name, err)
		}
		if info.Mode()&fs.ModeSymlink == 0 || !last && len(todo) == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: fmt.Errorf("more than %d symbolic links", maxLinks)}
		}
		to, err := os.Readlink(r.host(next))
		if err != nil {
			return "", notThere(name, err)
		}
		if strings.HasPrefix(to, "/") {
			at = nil
		}
		todo = append(parts(to), todo...)
	}
	return strings.Join(at, "/"), nil
}

// notThere keeps the folder that the root is out of errors, and takes a file in
// a path's middle for what it means: that there is nothing.
func notThere(name string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist
	}
	return &fs.PathError{Op: "read", Path: "/" + strings.TrimPrefix(name, "/"), Err: err}
}

func parts(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(c string) bool { return c == "" || c == "." })
}

func (r root) host(at []string) string {
	return filepath.Join(append([]string{string(r)}, at...)...)
}

// open opens what a path leads to. It doesn't wait for the writer of a pipe.
func (r root) open(name string) (*os.File, error) {
	at, err := r.resolve(name, true)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(r.host(parts(at)), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, notThere(name, err)
	}
	return f, nil
}

// Open implements io/fs.FS.
func (r root) Open(name string) (fs.File, error) {
	f, err := r.open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Stat implements io/fs.StatFS.
func (r root) Stat(name string) (fs.FileInfo, error) { return r.stat(name, true) }

// Lstat implements io/fs.ReadLinkFS.
func (r root) Lstat(name string) (fs.FileInfo, error) { return r.stat(name, false) }

func (r root) stat(name string, last bool) (fs.FileInfo, error) {
	at, err := r.resolve(name, last)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(r.host(parts(at)))
	if err != nil {
		return nil, notThere(name, err)
	}
	return info, nil
}

// ReadLink implements io/fs.ReadLinkFS.
func (r root) ReadLink(name string) (string, error) {
	at, err := r.resolve(name, false)
	if err != nil {
		return "", err
	}
	to, err := os.Readlink(r.host(parts(at)))
	if err != nil {
		return "", notThere(name, err)
	}
	return to, nil
}

// ReadFile implements io/fs.ReadFileFS, up to 256 MiB.
func (r root) ReadFile(name string) ([]byte, error) { return r.read(name, maxFile) }

// read reads a regular file of at most limit bytes, whatever size it says that
// it has: those of proc and sysfs say nothing.
func (r root) read(name string, limit int64) ([]byte, error) {
	f, err := r.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, notThere(name, errors.Join(err, fs.ErrInvalid))
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, notThere(name, err)
	}
	if int64(len(b)) > limit {
		return nil, notThere(name, fmt.Errorf("more than %d bytes", limit))
	}
	return b, nil
}

// ReadDir implements io/fs.ReadDirFS, up to 65,536 names.
func (r root) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := r.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(maxEntries + 1)
	if err != nil && err != io.EOF {
		return nil, notThere(name, err)
	}
	if len(list) > maxEntries {
		return nil, notThere(name, fmt.Errorf("more than %d names", maxEntries))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// attr reads an attribute of sysfs, one line; "" if it isn't there or can't be
// read.
func (r root) attr(elem ...string) string {
	b, err := r.read(path.Join(elem...), maxAttribute)
	if err != nil {
		return ""
	}
	return printable(strings.TrimSpace(string(b)))
}

// names lists a folder; none if it can't be read.
func (r root) names(elem ...string) []string {
	list, err := r.ReadDir(path.Join(elem...))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// exists tells whether a path leads to something.
func (r root) exists(elem ...string) bool {
	_, err := r.Stat(path.Join(elem...))
	return err == nil
}

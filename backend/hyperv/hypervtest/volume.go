package hypervtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// storage is the files of a host, or of all nodes of a cluster: each has a
// drive C of its own, and C:\ClusterStorage is everyone's. It is a folder of this
// machine's, in lower case as Windows doesn't care, and what this process knows
// about the disks in it.
//
// mu guards all of the simulation: the hosts and their machines, too.
type storage struct {
	mu          sync.RWMutex
	dir         string
	granularity int64
	block       uint32 // of dynamic disks
	capacity    int64
	full        bool
	files       map[string]*file // disks by key
	later       []func()         // to run when mu is free
	macs        int              // addresses of cards given out
}

// file is one disk file.
type file struct {
	key    string // lower-case local path
	path   string // as Windows has it
	parent *file
	image  image
	vhd    bool
	fixed  bool

	readers int    // open handles, also those of running machines
	writer  string // who may write, "" for nobody

	tracker  *tracker // nil: changes aren't tracked
	segments []segment
	closed   string // the moment at which a checkpoint froze the file
}

// unlock releases mu, and runs what has waited for that.
func (s *storage) unlock() {
	later := s.later
	s.later = nil
	s.mu.Unlock()
	for _, f := range later {
		f()
	}
}

// key is where a node's path lies on this machine.
func (s *storage) key(node, path string) (string, error) {
	lower := strings.ToLower(path)
	if len(path) < 3 || lower[0] < 'a' || lower[0] > 'z' || path[1:3] != `:\` {
		return "", wmiError("path", winInvalidName, path)
	}
	parts := strings.Split(strings.TrimRight(lower, `\`), `\`)
	for _, p := range parts[1:] {
		// Windows drops dots and spaces at the end of names.
		if p == "" || strings.ContainsAny(p, "<>:\"/|?*\x00\r\n\t") || strings.HasSuffix(p, ".") || strings.HasSuffix(p, " ") {
			return "", wmiError("path", winInvalidName, path)
		}
	}
	owner := strings.ToLower(node)
	if len(parts) > 1 && parts[0] == "c:" && parts[1] == "clusterstorage" {
		owner = "cluster"
	}
	parts[0] = strings.TrimSuffix(parts[0], ":")
	return filepath.Join(append([]string{s.dir, owner}, parts...)...), nil
}

// find returns the disk at path, opening the file if it is new to us.
func (s *storage) find(node, path string) (*file, error) {
	key, err := s.key(node, path)
	if err != nil {
		return nil, err
	}
	if f := s.files[key]; f != nil {
		return f, nil
	}
	if _, err := os.Stat(key); err != nil {
		if _, err := os.Stat(filepath.Dir(key)); err != nil {
			return nil, wmiError("OpenVirtualDisk", winPathNotFound, path)
		}
		return nil, wmiError("OpenVirtualDisk", winFileNotFound, path)
	}
	img, err := openImage(key)
	if err != nil {
		return nil, wmiError("OpenVirtualDisk", winFileCorrupt, path+": "+err.Error())
	}
	f := &file{key: key, path: path, image: img, fixed: img.Fixed()}
	s.files[key] = f
	return f, nil
}

// create makes a disk, differencing if there is a parent.
func (s *storage) create(node, path string, spec imageSpec, parent *file) (*file, error) {
	key, err := s.key(node, path)
	if err != nil {
		return nil, err
	}
	if s.full {
		return nil, wmiError("CreateVirtualDisk", winDiskFull, path)
	}
	if st, err := os.Stat(filepath.Dir(key)); err != nil || !st.IsDir() {
		return nil, wmiError("CreateVirtualDisk", winPathNotFound, path)
	}
	if _, err := os.Stat(key); err == nil {
		return nil, wmiError("CreateVirtualDisk", winFileExists, path)
	}
	f := &file{key: key, path: path, parent: parent, vhd: spec.vhd, fixed: spec.fixed}
	if spec.block == 0 {
		spec.block = s.block
	}
	if parent != nil {
		spec.parent, spec.parentPath, spec.vhd = parent.image, parent.path, parent.vhd
		f.vhd = parent.vhd
	}
	if f.image, err = createImage(key, spec); err != nil {
		return nil, wmiError("CreateVirtualDisk", winInvalidParameter, err.Error())
	}
	if parent != nil && parent.tracker != nil {
		f.tracker = parent.tracker
		if parent.closed == "" {
			parent.closed = parent.tracker.next()
		}
		f.segments = []segment{{id: parent.closed}}
		f.accompany()
	}
	s.files[key] = f
	return f, nil
}

// mkdir makes a folder and those above it.
func (s *storage) mkdir(node, path string) error {
	key, err := s.key(node, path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(key, 0o755); err != nil {
		return wmiError("CreateDirectory", winAlreadyExists, path)
	}
	return nil
}

// touch makes an empty file.
func (s *storage) touch(node, path string) error {
	key, err := s.key(node, path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		return wmiError("CreateFile", winPathNotFound, path)
	}
	return nil
}

// move gives a disk's file another place.
func (s *storage) move(f *file, key, path string) error {
	if err := os.Rename(f.key, key); err != nil {
		return err
	}
	for _, c := range companions {
		if err := os.Rename(f.key+c, key+c); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	delete(s.files, f.key)
	f.key, f.path = key, path
	s.files[key] = f
	return nil
}

// remove deletes a disk's file, and no other.
func (s *storage) remove(f *file) error {
	delete(s.files, f.key)
	return errors.Join(f.image.Close(), os.Remove(f.key))
}

// removeAll deletes a disk's file with its companions, as Hyper-V itself does.
func (s *storage) removeAll(f *file) error {
	for _, c := range companions {
		if err := os.Remove(f.key + c); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return s.remove(f)
}

// write writes to a disk and records it. Nothing is written past the end.
func (s *storage) write(f *file, p []byte, off int64) (int, error) {
	if off < 0 || off > f.image.Size()-int64(len(p)) {
		return 0, wmiError("WriteFile", winBeyondEnd, f.path)
	}
	if s.full {
		return 0, wmiError("WriteFile", winDiskFull, f.path)
	}
	f.checked()
	// What was begun is recorded: who can tell how far it got.
	f.wrote(off, int64(len(p)), s.granularity)
	return f.image.WriteAt(p, off)
}

// grow enlarges a disk. The new part counts as changed.
func (s *storage) grow(f *file, size int64) error {
	old := f.image.Size()
	if err := f.image.Grow(size); err != nil {
		return wmiError("ExpandVirtualDisk", winInvalidParameter, err.Error())
	}
	f.wrote(old, size-old, s.granularity)
	return nil
}

// chain is the file and those below it, the file first.
func (f *file) chain() []*file {
	var out []*file
	for ; f != nil; f = f.parent {
		out = append(out, f)
	}
	return out
}

func (s *storage) children(f *file) int {
	n := 0
	for _, g := range s.files {
		if g.parent == f {
			n++
		}
	}
	return n
}

// hold opens the file for somebody: with write nobody else may have it, and
// those below must have nobody who writes.
func (f *file) hold(who string, write bool) error {
	for i, g := range f.chain() {
		if g.writer != "" || i == 0 && write && g.readers > 0 {
			return wmiError("OpenVirtualDisk", winSharingViolation, g.path+" is open elsewhere")
		}
	}
	for i, g := range f.chain() {
		if i == 0 && write {
			g.writer = who
		} else {
			g.readers++
		}
	}
	return nil
}

// release undoes hold.
func (f *file) release(write bool) {
	for i, g := range f.chain() {
		if i == 0 && write {
			g.writer = ""
		} else {
			g.readers--
		}
	}
}

// list returns the paths of all files, with the node that they lie on.
func (s *storage) list() ([]string, error) {
	var out []string
	err := filepath.WalkDir(s.dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		// What belongs to a disk is no file of its own.
		for _, c := range companions {
			if disk, ok := strings.CutSuffix(name, c); ok && s.files[disk] != nil {
				return nil
			}
		}
		rel, err := filepath.Rel(s.dir, name)
		out = append(out, filepath.ToSlash(rel))
		return err
	})
	slices.Sort(out)
	return out, err
}

// close closes all images.
func (s *storage) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	// Children before their parents: these stay open until then.
	for len(s.files) > 0 {
		for key, f := range s.files {
			if s.children(f) == 0 {
				errs = append(errs, f.image.Close())
				delete(s.files, key)
			}
		}
	}
	return errors.Join(errs...)
}

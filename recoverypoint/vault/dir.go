package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// Folders of a directory bucket that hold no objects.
const (
	tempFolder = ".tmp"
	lockFolder = ".lock"
)

// dirBucket keeps objects as files below a folder. A new file is written in
// the temporary folder, synced, and linked to its name.
type dirBucket struct {
	fs   fsys.FS
	root string

	mu    sync.Mutex
	made  map[string]bool    // folders known to exist, durably
	heads map[string]Version // heads known to be durable
	temps int
	swap  sync.Mutex // heads, within the process

	handles handleCache
}

// NewDir returns a bucket on the folder root of a file system; the folder is
// made when the first object is written, with the folders above it that are
// missing. It is a [Locker], a [Cleaner] and a [Syncer].
//
// On a file system that is mounted read-only, shared locks are granted without
// being taken, so that points can be read from rescue media: see to it that no
// other host prunes the vault at that time.
func NewDir(fsys fsys.FS, root string) Bucket {
	root = filepath.Clean(root)
	return &dirBucket{fs: fsys, root: root, made: map[string]bool{}, heads: map[string]Version{}, handles: handleCache{fs: fsys}}
}

func (b *dirBucket) file(name string) string { return filepath.Join(b.root, filepath.FromSlash(name)) }

// nameBytes are what names are made of, and maxPart is how long the parts between
// their slashes may be: a manifest's, which is a point's ID of 200 bytes and its
// number.
const (
	nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	maxPart   = 217
)

// validObject keeps names inside the root, and off the bucket's own folders.
func validObject(name string) error {
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "", len(part) > maxPart, strings.Trim(part, nameBytes) != "", part == ".", part == "..", part == tempFolder, part == lockFolder:
			return fmt.Errorf("%w: object name %q", dr.ErrInvalid, name)
		}
	}
	return nil
}

// folder makes a folder below the root, or the root, and every new name on the
// way durable.
func (b *dirBucket) folder(dir string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.folderLocked(dir)
}

func (b *dirBucket) folderLocked(dir string) error {
	if b.made[dir] {
		return nil
	}
	parent := filepath.Dir(dir)
	needed := len(dir) > len(b.root)
	if !needed {
		// The root or above it: what was there before is not ours.
		_, err := b.fs.Stat(parent)
		needed = errors.Is(err, fs.ErrNotExist)
	}
	if needed {
		if err := b.folderLocked(parent); err != nil {
			return err
		}
	}
	if err := b.fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := b.fs.SyncDir(parent); err != nil {
		return err
	}
	b.made[dir] = true
	return nil
}

// temp opens a new file in the temporary folder.
func (b *dirBucket) temp() (string, fsys.File, error) {
	if err := b.folder(filepath.Join(b.root, tempFolder)); err != nil {
		return "", nil, err
	}
	for {
		b.mu.Lock()
		n := b.temps
		b.temps++
		b.mu.Unlock()
		name := filepath.Join(b.root, tempFolder, strconv.Itoa(n))
		f, err := b.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|fsys.Direct, 0o600)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return name, f, err
		}
	}
}

func (b *dirBucket) Create(ctx context.Context, name string) (Writer, error) {
	if err := errors.Join(ctx.Err(), validObject(name)); err != nil {
		return nil, err
	}
	temp, f, err := b.temp()
	if err != nil {
		return nil, fmt.Errorf("create object %s: %w", name, err)
	}
	return &dirWriter{File: f, b: b, name: name, temp: temp}, nil
}

type dirWriter struct {
	fsys.File
	b          *dirBucket
	name, temp string
	done       bool
}

func (w *dirWriter) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.done {
		return fmt.Errorf("%w: object %s was ended before", dr.ErrInvalid, w.name)
	}
	w.done = true
	err := errors.Join(w.File.Sync(), w.File.Close())
	if err == nil {
		err = w.b.publish(w.temp, w.b.file(w.name))
	}
	if err != nil {
		// What can't be removed now, Clean removes later.
		_ = w.b.fs.Remove(w.temp)
		return fmt.Errorf("commit object %s: %w", w.name, err)
	}
	return nil
}

// publish gives a synced temporary file its name unless that is taken.
func (b *dirBucket) publish(temp, final string) error {
	if err := b.folder(filepath.Dir(final)); err != nil {
		return err
	}
	err := b.fs.Link(temp, final)
	switch {
	case errors.Is(err, fs.ErrExist):
		return dr.ErrExists
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission):
		// No hard links here: FAT says EPERM (link(2)). One process writes at a time, so that within it
		// looking and renaming can be made one step.
		b.swap.Lock()
		defer b.swap.Unlock()
		if _, serr := b.fs.Stat(final); serr == nil {
			return dr.ErrExists
		}
		if err := b.fs.Rename(temp, final); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := b.fs.Remove(temp); err != nil {
			return err
		}
	}
	return b.fs.SyncDir(filepath.Dir(final))
}

func (w *dirWriter) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	return errors.Join(w.File.Close(), w.b.fs.Remove(w.temp))
}

func (b *dirBucket) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := errors.Join(ctx.Err(), validObject(name)); err != nil {
		return 0, err
	}
	f, done, err := b.openRead(b.file(name), len(p) > 0 && len(p)%fsys.Alignment == 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: object %s", dr.ErrNotFound, name)
	}
	if err != nil {
		return 0, fmt.Errorf("read object %s: %w", name, err)
	}
	defer done()
	n, err := f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read object %s: %w", name, err)
	}
	return n, err
}

// openRead opens a file, which bulk reads keep open between them.
func (b *dirBucket) openRead(file string, bulk bool) (fsys.File, func(), error) {
	if bulk {
		h, err := b.handles.get(file)
		if err != nil {
			return nil, nil, err
		}
		return h, h.release, nil
	}
	f, err := b.fs.OpenFile(file, os.O_RDONLY, 0)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { f.Close() }, nil
}

func (b *dirBucket) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		dir := path.Dir(prefix + "x")
		if dir == "." {
			dir = ""
		}
		b.list(ctx, dir, prefix, yield)
	}
}

// list walks a folder in the order of object names; false ends the walk.
func (b *dirBucket) list(ctx context.Context, dir, prefix string, yield func(Object, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield(Object{}, err)
		return false
	}
	entries, err := b.fs.ReadDir(b.file(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		yield(Object{}, fmt.Errorf("list objects %s: %w", prefix, err))
		return false
	}
	for _, e := range entries {
		if dir == "" && (e.Name() == tempFolder || e.Name() == lockFolder) {
			continue
		}
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			if strings.HasPrefix(name+"/", prefix) || strings.HasPrefix(prefix, name+"/") {
				if !b.list(ctx, name, prefix, yield) {
					return false
				}
			}
			continue
		}
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			yield(Object{}, fmt.Errorf("list object %s: %w", name, err))
			return false
		}
		if !yield(Object{Name: name, Size: info.Size()}, nil) {
			return false
		}
	}
	return true
}

func (b *dirBucket) Delete(ctx context.Context, name string) error {
	if err := errors.Join(ctx.Err(), validObject(name)); err != nil {
		return err
	}
	file := b.file(name)
	b.handles.forget(file)
	err := b.fs.Remove(file)
	b.handles.forget(file) // opened again just before
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		// One that is gone may be so only until the next power cut.
		err = b.fs.SyncDir(filepath.Dir(file))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete object %s: %w", name, err)
	}
	return nil
}

func (b *dirBucket) ReadHead(ctx context.Context, name string) ([]byte, Version, error) {
	if err := errors.Join(ctx.Err(), validObject(name)); err != nil {
		return nil, "", err
	}
	f, err := b.fs.OpenFile(b.file(name), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read head %s: %w", name, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, "", fmt.Errorf("read head %s: %w", name, err)
	}
	if size > maxEnvelope {
		return nil, "", fmt.Errorf("%w: object %s: %d bytes long, and at most %d are expected", dr.ErrCorrupt, name, size, maxEnvelope)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), data); err != nil {
		return nil, "", fmt.Errorf("read head %s: %w", name, err)
	}
	v := headVersion(data)
	if err := b.settle(name, v); err != nil {
		return nil, "", fmt.Errorf("read head %s: %w", name, err)
	}
	return data, v, nil
}

// settle makes sure that a head which was read is durable: who swapped it may
// have been killed before it was, and what is told from it, or deleted because
// of it, must not come back.
func (b *dirBucket) settle(name string, v Version) error {
	b.mu.Lock()
	known := b.heads[name] == v
	b.mu.Unlock()
	if known {
		return nil
	}
	err := b.fs.SyncDir(filepath.Dir(b.file(name)))
	if err != nil && !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	b.durable(name, v)
	return nil
}

func (b *dirBucket) durable(name string, v Version) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heads[name] = v
}

// headVersion is the content's hash; contents never repeat. It is not the zero
// sum even for zeros, because a head that is there has a version.
func headVersion(data []byte) Version { return Version("b" + blocksum.Sum(data).String()) }

func (b *dirBucket) SwapHead(ctx context.Context, name string, old Version, data []byte) (Version, error) {
	if err := validObject(name); err != nil {
		return "", err
	}
	b.swap.Lock()
	defer b.swap.Unlock()
	lock, err := b.Lock(ctx, "swap", true)
	if errors.Is(err, dr.ErrBusy) {
		return "", fmt.Errorf("%w: head %s is being swapped by another process", dr.ErrConflict, name)
	}
	if err != nil {
		return "", err
	}
	defer lock.Close()
	_, now, err := b.ReadHead(ctx, name)
	if err != nil {
		return "", err
	}
	if now != old {
		return "", fmt.Errorf("%w: head %s", dr.ErrConflict, name)
	}
	if err := b.replace(b.file(name), data); err != nil {
		return "", fmt.Errorf("swap head %s: %w", name, err)
	}
	v := headVersion(data)
	b.durable(name, v)
	return v, nil
}

// replace is fsys.WriteFileAtomic with the bucket's own temporary folder.
func (b *dirBucket) replace(final string, data []byte) error {
	if err := b.folder(filepath.Dir(final)); err != nil {
		return err
	}
	temp, f, err := b.temp()
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = b.fs.Rename(temp, final)
	}
	if err != nil {
		return errors.Join(err, b.fs.Remove(temp))
	}
	return b.fs.SyncDir(filepath.Dir(final))
}

func (b *dirBucket) Lock(ctx context.Context, name string, exclusive bool) (io.Closer, error) {
	if err := errors.Join(ctx.Err(), validObject(name)); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.root, lockFolder)
	err := b.folder(dir)
	var l io.Closer
	if err == nil || errors.Is(err, fs.ErrPermission) {
		l, err = b.fs.Lock(filepath.Join(dir, name), exclusive)
	}
	if !exclusive && errors.Is(err, syscall.EROFS) {
		return closeFunc(func() error { return nil }), nil
	}
	if errors.Is(err, fsys.ErrLocked) {
		return nil, fmt.Errorf("%w: lock %s of %s", dr.ErrBusy, name, b.root)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return l, nil
}

func (b *dirBucket) Clean(ctx context.Context) error {
	dir := filepath.Join(b.root, tempFolder)
	entries, err := b.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.fs.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean: %w", err)
		}
	}
	return nil
}

// Sync implements [Syncer]: the names of a folder are durable together.
func (b *dirBucket) Sync(ctx context.Context, prefix string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.fs.SyncDir(b.file(path.Dir(prefix + "x"))); err != nil {
		return fmt.Errorf("sync objects %s: %w", prefix, err)
	}
	return nil
}

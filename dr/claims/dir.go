package claims

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// NewDir returns claims in a directory, which is made when the first resource is
// claimed. It should have nothing else in it. Options.Prefix is not used.
//
// The folder that it is in must be there: dr.ErrNotFound. So on a share, make one
// by hand and name one below that, as /mnt/share/lifeboat/claims: where the share
// isn't mounted, nothing is claimed, given back or listed then, instead of
// everything anew.
//
// Who makes claims there, from whatever host, must be able to make, link and
// remove files in it. Its folders and files are for their owner only: processes
// of other users need a directory whose rights are inherited.
func NewDir(path string, o Options) *Claims { return newDir(fsys.OS(), path, o) }

func newDir(f fsys.FS, path string, o Options) *Claims {
	o.Prefix = "claims/"
	return New(dirAt(f, path), o)
}

func dirAt(f fsys.FS, path string) *dir {
	return &dir{fs: f, root: filepath.Clean(path), hands: make(chan struct{}, hands), durable: map[string]string{}, made: map[string]bool{}}
}

// hands is how many calls of the file system may be under way. On a share whose
// server is gone each of them keeps a thread until it is back, and a process that
// has too many is ended.
const hands = 64

// dir is a bucket of numbered files: below a folder for each object, each
// content is a file of its own, and that with the highest number counts. A
// content is linked to the next number, once it is whole and synced under
// another name. The file with the highest number is never removed; so who has
// linked to a number that others have passed, and removed, sees theirs.
type dir struct {
	fs    fsys.FS
	root  string
	hands chan struct{}

	mu      sync.Mutex
	durable map[string]string // by object: the version known to be durable
	made    map[string]bool   // folders known to be durable; the root stands for all above it, too
}

// entry is what a bucket lists.
type entry = struct {
	Name string
	Size int64
}

// Names of the files in an object's folder.
const (
	digits     = 20 // of a number, so that names sort
	numbered   = ".json"
	tempPrefix = "new-"
)

func fileName(n uint64) string { return fmt.Sprintf("%0*d%s", digits, n, numbered) }

// number is the inverse of fileName.
func number(name string) (uint64, bool) {
	digit, ok := strings.CutSuffix(name, numbered)
	if !ok || len(digit) != digits {
		return 0, false
	}
	n, err := strconv.ParseUint(digit, 10, 64)
	return n, err == nil && n > 0
}

func (d *dir) folder(name string) string {
	return filepath.Join(d.root, filepath.FromSlash(strings.TrimPrefix(name, "claims/")))
}

// newest is the highest number in an object's folder, 0 if there is none, and
// what else is there.
func (d *dir) newest(folder string) (n uint64, others []string, err error) {
	entries, err := d.fs.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	for _, e := range entries { // by name, and so by number
		m, ok := number(e.Name())
		if !ok {
			if strings.HasPrefix(e.Name(), tempPrefix) {
				others = append(others, e.Name())
			}
			continue
		}
		if n != 0 {
			others = append(others, fileName(n))
		}
		n = m
	}
	return n, others, nil
}

// reads is how often the newest content is looked for while others replace it.
const reads = 100

// await does what may hang for as long as a share does, and doesn't keep the caller
// for longer than ctx lasts. What is given up so may be done later, or half of it,
// as by a process that stood still.
func await[T any](ctx context.Context, d *dir, do func() (T, error)) (T, error) {
	type outcome struct {
		v   T
		err error
	}
	var none T
	select {
	case d.hands <- struct{}{}:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	done := make(chan outcome, 1)
	go func() {
		defer func() { <-d.hands }()
		v, err := do()
		done <- outcome{v, err}
	}()
	select {
	case o := <-done:
		return o.v, o.err
	case <-ctx.Done():
		return none, fmt.Errorf("%w: %s didn't answer until then", ctx.Err(), d.root)
	}
}

// content is what is read of an object.
type content struct {
	data    []byte
	version string
}

// ReadHead implements Bucket. The version is the file's name.
func (d *dir) ReadHead(ctx context.Context, name string) ([]byte, string, error) {
	c, err := await(ctx, d, func() (content, error) {
		data, version, err := d.readHead(ctx, name)
		return content{data, version}, err
	})
	return c.data, c.version, err
}

func (d *dir) readHead(ctx context.Context, name string) ([]byte, string, error) {
	folder := d.folder(name)
	d.mu.Lock()
	known, _ := number(d.durable[name]) // 0: none
	d.mu.Unlock()
	for range reads {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		n, _, err := d.newest(folder)
		if err == nil && n < known {
			err = d.gone(folder, fmt.Errorf("%w: its content number %d is gone, and nothing as new is there", dr.ErrCorrupt, known))
		}
		if err == nil && n == 0 {
			err = d.present()
		}
		if err != nil || n == 0 {
			return nil, "", err
		}
		data, err := d.read(filepath.Join(folder, fileName(n)))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE) {
			continue // it was replaced just now, on NFS by another host while it was open
		}
		if err != nil {
			return nil, "", err
		}
		return data, fileName(n), d.settle(name, folder, fileName(n))
	}
	return nil, "", fmt.Errorf("%w: %s: others replace it all the time", dr.ErrConflict, folder)
}

func (d *dir) read(file string) ([]byte, error) {
	f, err := d.fs.OpenFile(file, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	// One byte more than any claim tells that it is none.
	data := make([]byte, min(size, maxRecord+1))
	_, err = io.ReadFull(io.NewSectionReader(f, 0, int64(len(data))), data)
	return data, err
}

// settle makes a content that was read durable: who linked it may have been
// killed before it was, and what is decided on it must not be forgotten by a
// power cut.
func (d *dir) settle(name, folder, version string) error {
	d.mu.Lock()
	known := d.durable[name] == version
	d.mu.Unlock()
	if known {
		return nil
	}
	if err := errors.Join(d.sync(folder), d.sync(d.root), d.anchor()); err != nil {
		return err
	}
	d.settled(name, version)
	return nil
}

// sync is SyncDir where that may be done. Where it may not, nothing can be
// claimed either.
func (d *dir) sync(folder string) error {
	err := d.fs.SyncDir(folder)
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// anchor makes the root's name durable, and those of the folders above it: who
// made them may have been killed before they were.
func (d *dir) anchor() error {
	d.mu.Lock()
	done := d.made[d.root]
	d.mu.Unlock()
	if done {
		return nil
	}
	for folder := d.root; folder != filepath.Dir(folder); folder = filepath.Dir(folder) {
		if err := d.sync(filepath.Dir(folder)); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made[d.root] = true
	return nil
}

func (d *dir) settled(name, version string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable[name] = version
}

// SwapHead implements Bucket.
func (d *dir) SwapHead(ctx context.Context, name, old string, data []byte) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return await(ctx, d, func() (string, error) { return d.swapHead(name, old, data) })
}

func (d *dir) swapHead(name, old string, data []byte) (string, error) {
	next := uint64(1)
	if old != "" {
		n, ok := number(old)
		if !ok || n == math.MaxUint64 {
			return "", fmt.Errorf("%w: %s has no version after %s", dr.ErrCorrupt, d.folder(name), old)
		}
		next = n + 1
	}
	folder, version := d.folder(name), fileName(next)
	if err := d.make(folder); err != nil {
		return "", err
	}
	temp := filepath.Join(folder, tempPrefix+rand.Text())
	if err := d.write(temp, data); err != nil {
		return "", d.conflictIfGone(folder, err)
	}
	err := d.fs.Link(temp, filepath.Join(folder, version))
	// Whoever comes next removes what can't be removed now.
	_ = d.fs.Remove(temp)
	switch {
	case errors.Is(err, fs.ErrExist):
		return "", fmt.Errorf("%w: %s", dr.ErrConflict, folder)
	case err != nil:
		return "", d.conflictIfGone(folder, noLinks(folder, err))
	}
	n, others, err := d.newest(folder)
	if err != nil {
		return "", err
	}
	if n != next {
		// Ours was passed before it was linked, or just after: what is there now
		// must be looked at in either case.
		return "", fmt.Errorf("%w: %s", dr.ErrConflict, folder)
	}
	if err := d.fs.SyncDir(folder); err != nil {
		return "", err
	}
	d.settled(name, version)
	for _, o := range others {
		// Temporary files of others are among them: those come too late. What
		// stays is removed by who comes next.
		_ = d.fs.Remove(filepath.Join(folder, o))
	}
	return version, nil
}

// write makes a synced file. The file is removed if that fails.
func (d *dir) write(name string, data []byte) error {
	f, err := d.fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = d.fs.Remove(name)
	}
	return err
}

// gone tells of what has to be there and isn't. To make it anew would free all
// that is held, and begin epochs at 1.
func (d *dir) gone(name string, err error) error {
	return &dr.Error{Op: "read claim", Side: dr.StoreSide, Err: fmt.Errorf("%s: %w", name, err),
		Remedy: "mount the file system that the claims are on, or, where there have never been any, make the folder; if they are lost, or were put back as they were once, give all of them epochs that were never used (Raise), and start this process again"}
}

// present refuses a place that isn't there. Nobody may take for free, or for given
// back, what is only not seen.
func (d *dir) present() error {
	d.mu.Lock()
	known := d.root
	if !d.made[d.root] { // it may never have been: then the folder that it is in
		known = filepath.Dir(d.root)
	}
	d.mu.Unlock()
	_, err := d.fs.Stat(known)
	if errors.Is(err, fs.ErrNotExist) {
		return d.gone(known, fmt.Errorf("%w: %w", dr.ErrNotFound, err))
	}
	return err
}

// make makes an object's folder, and the root, durably.
func (d *dir) make(folder string) error {
	d.mu.Lock()
	made := d.made[folder]
	d.mu.Unlock()
	if made {
		return nil
	}
	if err := d.present(); err != nil {
		return err
	}
	if err := d.fs.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	if err := errors.Join(d.fs.SyncDir(d.root), d.anchor()); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made[folder] = true
	return nil
}

// conflictIfGone tells of a file or folder that went away under the writer:
// somebody else was faster, and has tidied up.
func (d *dir) conflictIfGone(folder string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		d.mu.Lock()
		delete(d.made, folder)
		d.mu.Unlock()
		return fmt.Errorf("%w: %w", dr.ErrConflict, err)
	}
	return err
}

// noLinks says what to do where there are no hard links.
func noLinks(folder string, err error) error {
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EPERM) {
		return &dr.Error{Op: "write claim", Side: dr.StoreSide, Err: fmt.Errorf("%w: %s takes no hard links: %w", dr.ErrUnsupported, folder, err),
			Remedy: "keep the claims on a local file system, NFS or NTFS, in a bucket, or in a database"}
	}
	return err
}

// List implements Bucket.
func (d *dir) List(ctx context.Context, prefix string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		entries, err := await(ctx, d, func() ([]fs.DirEntry, error) {
			entries, err := d.fs.ReadDir(d.root)
			if errors.Is(err, fs.ErrNotExist) {
				err = d.present()
			}
			return entries, err
		})
		if err != nil {
			yield(entry{}, err)
			return
		}
		for _, e := range entries {
			if name := "claims/" + e.Name(); e.IsDir() && strings.HasPrefix(name, prefix) && !yield(entry{Name: name}, ctx.Err()) {
				return
			}
		}
	}
}

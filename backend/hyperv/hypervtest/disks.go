package hypervtest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// disks are a host's virtual disks and files.
type disks struct{ h *Host }

// call runs f as a call of the host.
func (d *disks) call(ctx context.Context, op, path string, f func(s *storage) error) error {
	call := Call{Op: "Disks." + op, Target: path}
	if err := d.h.hooks.before(ctx, &call); err != nil {
		return err
	}
	err := func() error {
		d.h.s.mu.Lock()
		defer d.h.s.unlock()
		if d.h.hooks.isDenied(call.Op) {
			return wmiError(op, winAccessDenied, path)
		}
		d.h.tick()
		return f(d.h.s)
	}()
	if hook := d.h.hooks.after(call); hook != nil {
		return hook
	}
	return err
}

func (d *disks) Create(ctx context.Context, path string, spec host.DiskSpec) error {
	return d.call(ctx, "Create", path, func(s *storage) error {
		_, err := s.create(d.h.opts.Name, path, imageSpec{size: spec.Size, sector: spec.LogicalSector}, nil)
		return err
	})
}

func (d *disks) Stat(ctx context.Context, path string) (host.DiskInfo, error) {
	var info host.DiskInfo
	err := d.call(ctx, "Stat", path, func(s *storage) error {
		f, err := s.find(d.h.opts.Name, path)
		if err != nil {
			return err
		}
		info = host.DiskInfo{Size: f.image.Size(), Allocated: f.image.Allocation(), ID: f.image.ID(), LogicalSector: f.image.LogicalSector(),
			VHD: f.vhd, Fixed: f.fixed, Tracking: f.tracker != nil, Latest: f.latest()}
		if f.parent != nil {
			info.Parent = f.parent.path
		}
		return nil
	})
	if err != nil {
		return host.DiskInfo{}, err
	}
	return info, nil
}

func (d *disks) Open(ctx context.Context, path string, write bool) (host.Disk, error) {
	o := &openDisk{h: d.h, write: write}
	err := d.call(ctx, "Open", path, func(s *storage) error {
		f, err := s.find(d.h.opts.Name, path)
		if err != nil {
			return err
		}
		if err := f.hold("handle", write); err != nil {
			return err
		}
		o.f = f
		d.h.handles[o] = true
		return nil
	})
	if err != nil {
		if o.f != nil { // a fault after the effect: nobody has it
			_ = o.Close()
		}
		return nil, err
	}
	return o, nil
}

func (d *disks) Grow(ctx context.Context, path string, size int64) error {
	return d.call(ctx, "Grow", path, func(s *storage) error {
		f, err := s.find(d.h.opts.Name, path)
		if err != nil {
			return err
		}
		if f.readers > 0 || f.writer != "" || s.children(f) > 0 {
			return wmiError("ExpandVirtualDisk", winSharingViolation, path)
		}
		if size < f.image.Size() {
			return wmiError("ExpandVirtualDisk", winInvalidParameter, path)
		}
		return s.grow(f, size)
	})
}

func (d *disks) Exists(ctx context.Context, path string) (bool, error) {
	var ok bool
	err := d.call(ctx, "Exists", path, func(s *storage) error {
		key, err := s.key(d.h.opts.Name, path)
		if err != nil {
			return err
		}
		_, err = os.Stat(key)
		ok = err == nil
		return nil
	})
	return ok && err == nil, err
}

func (d *disks) Rename(ctx context.Context, from, to string) error {
	return d.call(ctx, "Rename", from, func(s *storage) error {
		a, err := s.key(d.h.opts.Name, from)
		if err != nil {
			return err
		}
		b, err := s.key(d.h.opts.Name, to)
		if err != nil {
			return err
		}
		if filepath.Dir(a) != filepath.Dir(b) {
			return wmiError("MoveFile", winInvalidParameter, to+" is in another folder")
		}
		f := s.files[a]
		if s.inUse(a) {
			return wmiError("MoveFile", winSharingViolation, from)
		}
		if _, err := os.Stat(a); err != nil {
			return wmiError("MoveFile", winFileNotFound, from)
		}
		if _, err := os.Stat(b); err == nil && a != b {
			return wmiError("MoveFile", winAlreadyExists, to)
		}
		if err := os.Rename(a, b); err != nil {
			return wmiError("MoveFile", winAccessDenied, err.Error())
		}
		if f != nil {
			delete(s.files, a)
			f.key, f.path = b, to
			s.files[b] = f
		}
		return nil
	})
}

func (d *disks) Remove(ctx context.Context, path string) error {
	return d.call(ctx, "Remove", path, func(s *storage) error { return s.erase(d.h.opts.Name, path) })
}

// erase deletes a file or an empty folder.
func (s *storage) erase(node, path string) error {
	key, err := s.key(node, path)
	if err != nil {
		return err
	}
	if s.inUse(key) {
		return wmiError("DeleteFile", winSharingViolation, path)
	}
	if f := s.files[key]; f != nil {
		return s.remove(f)
	}
	st, err := os.Stat(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && st.IsDir() {
		if entries, err := os.ReadDir(key); err == nil && len(entries) > 0 {
			return wmiError("RemoveDirectory", winDirNotEmpty, path)
		}
	}
	return os.Remove(key)
}

// inUse tells whether a disk is open, or the one that a companion belongs to.
func (s *storage) inUse(key string) bool {
	for _, c := range append([]string{""}, companions...) {
		disk, ok := strings.CutSuffix(key, c)
		if f := s.files[disk]; ok && f != nil && (f.readers > 0 || f.writer != "") {
			return true
		}
	}
	return false
}

func (d *disks) MakeFolder(ctx context.Context, path string) error {
	return d.call(ctx, "MakeFolder", path, func(s *storage) error { return s.mkdir(d.h.opts.Name, path) })
}

func (d *disks) Free(ctx context.Context, path string) (int64, error) {
	var free int64
	err := d.call(ctx, "Free", path, func(s *storage) error {
		if _, err := s.key(d.h.opts.Name, path); err != nil {
			return err
		}
		if s.full {
			return nil
		}
		free = s.capacity
		for _, f := range s.files {
			free -= f.image.Allocation()
		}
		free = max(0, free)
		return nil
	})
	return free, err
}

// FillUp makes the volumes full, or empty again: what asks for room fails with
// ERROR_DISK_FULL, and merges wait.
func (h *Host) FillUp(full bool) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.full = full
}

// openDisk is an open disk.
type openDisk struct {
	h     *Host
	f     *file // nil: closed, or lost with the host's power
	write bool
}

// call runs g as a call of the host, with the lock for writing or for reading.
func (o *openDisk) call(ctx context.Context, op string, write bool, g func(f *file) error) error {
	call := Call{Op: "Disk." + op}
	o.h.s.mu.RLock()
	if o.f != nil {
		call.Target = o.f.path
	}
	o.h.s.mu.RUnlock()
	if err := o.h.hooks.before(ctx, &call); err != nil {
		return err
	}
	err := func() error {
		if write {
			o.h.s.mu.Lock()
			defer o.h.s.mu.Unlock()
		} else {
			o.h.s.mu.RLock()
			defer o.h.s.mu.RUnlock()
		}
		if o.f == nil {
			return wmiError(op, winInvalidHandle, "the disk is not open")
		}
		return g(o.f)
	}()
	if hook := o.h.hooks.after(call); hook != nil {
		return hook
	}
	return err
}

func (o *openDisk) Size() int64 {
	o.h.s.mu.RLock()
	defer o.h.s.mu.RUnlock()
	if o.f == nil {
		return 0
	}
	return o.f.image.Size()
}

func (o *openDisk) ReadAt(p []byte, off int64) (n int, err error) {
	err = o.call(context.Background(), "ReadAt", false, func(f *file) error {
		if off < 0 {
			return wmiError("ReadFile", winInvalidParameter, f.path)
		}
		if off >= f.image.Size() {
			return io.EOF
		}
		n, err = f.image.ReadAt(p, off)
		return err
	})
	return n, err
}

func (o *openDisk) WriteAt(p []byte, off int64) (n int, err error) {
	err = o.call(context.Background(), "WriteAt", true, func(f *file) error {
		if !o.write {
			return wmiError("WriteFile", winAccessDenied, f.path+" is open for reading")
		}
		n, err = o.h.s.write(f, p, off)
		return err
	})
	return n, err
}

func (o *openDisk) Flush() error {
	return o.call(context.Background(), "Flush", true, func(f *file) error { return f.image.Flush() })
}

func (o *openDisk) Changes(ctx context.Context, since string) iter.Seq2[host.Range, error] {
	return func(yield func(host.Range, error) bool) {
		var set blockSet
		var size int64
		err := o.call(ctx, "Changes", false, func(f *file) (err error) {
			size = f.image.Size()
			set, err = f.changes(since)
			return err
		})
		give(ctx, set.ranges(o.h.s.granularity, size), err, yield)
	}
}

func (o *openDisk) Allocated(ctx context.Context) iter.Seq2[host.Range, error] {
	return func(yield func(host.Range, error) bool) {
		var ranges []host.Range
		err := o.call(ctx, "Allocated", false, func(f *file) (err error) {
			ranges, err = f.image.Allocated()
			return err
		})
		give(ctx, ranges, err, yield)
	}
}

// give yields ranges, or the error that came instead.
func give(ctx context.Context, ranges []host.Range, err error, yield func(host.Range, error) bool) {
	for _, r := range ranges {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			break
		}
		if !yield(r, nil) {
			return
		}
	}
	if err != nil {
		yield(host.Range{}, err)
	}
}

func (o *openDisk) Close() error {
	o.h.s.mu.Lock()
	defer o.h.s.mu.Unlock()
	o.drop()
	return nil
}

// drop gives the file back.
func (o *openDisk) drop() {
	if o.f != nil {
		o.f.release(o.write)
		o.f = nil
		delete(o.h.handles, o)
	}
}

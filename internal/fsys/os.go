package fsys

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// OS is the operating system's file system.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag&^Direct, perm)
	if err != nil {
		return nil, err
	}
	plain := osFile{f}
	if flag&Direct == 0 {
		return plain, nil
	}
	return openDirect(plain, name, flag&^Direct), nil
}

func (osFS) Rename(oldname, newname string) error         { return os.Rename(oldname, newname) }
func (osFS) Link(oldname, newname string) error           { return os.Link(oldname, newname) }
func (osFS) Remove(name string) error                     { return os.Remove(name) }
func (osFS) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(name, perm) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error)   { return os.ReadDir(name) }
func (osFS) Stat(name string) (fs.FileInfo, error)        { return os.Stat(name) }
func (osFS) SyncDir(name string) error                    { return syncDir(name) }

func (osFS) Lock(name string, exclusive bool) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil && !exclusive {
		// A reader may share a lock that it could not have made.
		if readable, rerr := os.Open(name); rerr == nil {
			f, err = readable, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := lockFile(f, exclusive); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return held{f}, nil
}

// held is a lock. It is given back before its file is closed: a process that
// is just being forked has a copy of the descriptor until it runs its own
// program, and would keep the lock for that long.
type held struct{ f *os.File }

func (h held) Close() error { return errors.Join(unlockFile(h.f), h.f.Close()) }

// osFile works through the page cache.
type osFile struct{ *os.File }

// Size asks for the end and not for the status, because that also measures
// block devices; the position it moves is used by nothing.
func (f osFile) Size() (int64, error) { return f.Seek(0, io.SeekEnd) }

func (f osFile) Data(off int64) (start, end int64, err error) {
	size, err := f.Size()
	if err != nil {
		return 0, 0, err
	}
	if off < 0 {
		return 0, 0, &fs.PathError{Op: "data", Path: f.Name(), Err: fs.ErrInvalid}
	}
	if off >= size {
		return 0, 0, io.EOF
	}
	return f.seekData(off, size)
}

func (f osFile) Punch(off, n int64) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	end, err := rangeEnd(off, n, size)
	if err != nil {
		return &fs.PathError{Op: "punch", Path: f.Name(), Err: err}
	}
	if off >= end {
		return nil
	}
	if done, err := f.deallocate(off, end-off); done || err != nil {
		return err
	}
	return f.writeZeros(off, end)
}

// writeZeros is what is left where nothing can be deallocated.
func (f osFile) writeZeros(off, end int64) error {
	zeros := make([]byte, min(end-off, 1<<20))
	for off < end {
		n, err := f.WriteAt(zeros[:min(end-off, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

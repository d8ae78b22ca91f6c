package crashfs

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// ErrKilled is what every operation of a [Process] fails with once it is dead.
var ErrKilled = errors.New("killed")

// Process is a file system as one process sees it, which is killed at one of
// the changes that it makes: that one happens or not, no later one does, and
// its locks are free for others. What it had changed stays, synced or not:
// that is for [FS.Restart] to decide, if the power is cut later.
type Process struct {
	fsys.FS

	mu    sync.Mutex
	rng   *rand.Rand
	left  int
	dead  bool
	locks []io.Closer
}

var _ fsys.FS = (*Process)(nil)

// NewProcess returns a process that dies at the changes-th change it makes on f,
// from 1; 0: never.
func NewProcess(f fsys.FS, changes int, seed uint64) *Process {
	return &Process{FS: f, left: changes, rng: rand.New(rand.NewPCG(seed, 1))}
}

// Dead tells whether the process was killed.
func (p *Process) Dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// change runs a change, unless the process is dead.
func (p *Process) change(do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return ErrKilled
	}
	if p.left--; p.left != 0 {
		return do()
	}
	if p.rng.IntN(2) == 0 {
		_ = do()
	}
	p.dead = true
	for _, l := range p.locks {
		_ = l.Close()
	}
	return ErrKilled
}

// alive runs what changes nothing that counts, unless the process is dead.
func (p *Process) alive(do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return ErrKilled
	}
	return do()
}

// OpenFile implements fsys.FS.
func (p *Process) OpenFile(name string, flag int, perm fs.FileMode) (f fsys.File, err error) {
	run := p.alive
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		run = p.change
	}
	err = run(func() error {
		f, err = p.FS.OpenFile(name, flag, perm)
		return err
	})
	if err != nil {
		if f != nil {
			_ = f.Close()
		}
		return nil, err
	}
	return processFile{f, p}, nil
}

// Lock implements fsys.FS.
func (p *Process) Lock(name string, exclusive bool) (l io.Closer, err error) {
	err = p.alive(func() error {
		if l, err = p.FS.Lock(name, exclusive); err == nil {
			p.locks = append(p.locks, l)
		}
		return err
	})
	return l, err
}

// Rename implements fsys.FS.
func (p *Process) Rename(from, to string) error {
	return p.change(func() error { return p.FS.Rename(from, to) })
}

// Link implements fsys.FS.
func (p *Process) Link(from, to string) error {
	return p.change(func() error { return p.FS.Link(from, to) })
}

// Remove implements fsys.FS.
func (p *Process) Remove(name string) error {
	return p.change(func() error { return p.FS.Remove(name) })
}

// MkdirAll implements fsys.FS.
func (p *Process) MkdirAll(name string, perm fs.FileMode) error {
	return p.change(func() error { return p.FS.MkdirAll(name, perm) })
}

// SyncDir implements fsys.FS.
func (p *Process) SyncDir(name string) error {
	return p.change(func() error { return p.FS.SyncDir(name) })
}

// ReadDir implements fsys.FS.
func (p *Process) ReadDir(name string) (list []fs.DirEntry, err error) {
	err = p.alive(func() error {
		list, err = p.FS.ReadDir(name)
		return err
	})
	return list, err
}

// Stat implements fsys.FS.
func (p *Process) Stat(name string) (info fs.FileInfo, err error) {
	err = p.alive(func() error {
		info, err = p.FS.Stat(name)
		return err
	})
	return info, err
}

type processFile struct {
	fsys.File
	of *Process
}

func (f processFile) ReadAt(p []byte, off int64) (n int, err error) {
	if f.of.Dead() {
		return 0, ErrKilled
	}
	return f.File.ReadAt(p, off)
}

func (f processFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.of.change(func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f processFile) Truncate(size int64) error {
	return f.of.change(func() error { return f.File.Truncate(size) })
}

func (f processFile) Punch(off, n int64) error {
	return f.of.change(func() error { return f.File.Punch(off, n) })
}

func (f processFile) Sync() error { return f.of.change(f.File.Sync) }

package vault_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// What one operation failed to do may be seen all the same, and be gone after a
// power cut: nothing that is told to be there may rest on it.
func TestPowerCutAfterAnErrorAtEveryOperation(t *testing.T) {
	seed := newSeed(t)
	steps := story(seed)
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Err: syscall.EIO, Torn: true})
		var v *vault.Store
		for done := 0; done < len(steps); {
			var err error
			if v == nil {
				v, err = vault.Open(t.Context(), vault.NewDir(disk, "/v"), smallVault)
			}
			if err == nil {
				var more int
				more, err = play(t.Context(), v, steps[done:])
				done += more
			}
			if err != nil {
				require.ErrorIs(t, err, syscall.EIO, "error at %d", n)
			}
		}
		if disk.Fired() == 0 {
			break
		}
		found := disk.Restart()
		check(t, open(t, found, "/v", smallVault), steps, len(steps))
		if t.Failed() {
			t.Fatalf("error at %d", n)
		}
	}
}

// A process is killed, another goes on with what it sees, and then the power
// is cut: what the first had not made durable the second must have.
func TestPowerCutAfterAKillAtEveryOperation(t *testing.T) {
	seed := newSeed(t)
	steps := story(seed)
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		first := &mortal{FS: disk, left: n, rng: rand.New(rand.NewPCG(seed, uint64(n)))}
		done := 0
		v, err := vault.Open(t.Context(), vault.NewDir(first, "/v"), smallVault)
		if err == nil {
			done, err = play(t.Context(), v, steps)
		}
		if !first.dead {
			require.NoError(t, err)
			break
		}
		v = open(t, disk, "/v", smallVault)
		check(t, v, steps, done)
		_, err = play(t.Context(), v, steps[done:])
		require.NoError(t, err, "killed at %d", n)
		check(t, open(t, disk.Restart(), "/v", smallVault), steps, len(steps))
		if t.Failed() {
			t.Fatalf("killed at %d", n)
		}
	}
}

var errKilled = errors.New("killed")

// mortal is a file system as a process sees it that is killed at the left-th
// change it makes: that one happens or not, no later one does, and its locks
// are free.
type mortal struct {
	fsys.FS
	rng *rand.Rand

	mu    sync.Mutex
	left  int
	dead  bool
	locks []io.Closer
}

// change runs a change, unless the process is dead.
func (m *mortal) change(do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errKilled
	}
	if m.left--; m.left > 0 {
		return do()
	}
	if m.rng.IntN(2) == 0 {
		_ = do()
	}
	m.dead = true
	for _, l := range m.locks {
		_ = l.Close()
	}
	return errKilled
}

// alive runs what changes nothing, unless the process is dead.
func (m *mortal) alive(do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errKilled
	}
	return do()
}

func (m *mortal) OpenFile(name string, flag int, perm fs.FileMode) (f fsys.File, err error) {
	err = m.alive(func() error {
		f, err = m.FS.OpenFile(name, flag, perm)
		return err
	})
	return mortalFile{f, m}, err
}

func (m *mortal) Lock(name string, exclusive bool) (l io.Closer, err error) {
	err = m.alive(func() error {
		if l, err = m.FS.Lock(name, exclusive); err == nil {
			m.locks = append(m.locks, l)
		}
		return err
	})
	return l, err
}

func (m *mortal) ReadDir(name string) (list []fs.DirEntry, err error) {
	err = m.alive(func() error {
		list, err = m.FS.ReadDir(name)
		return err
	})
	return list, err
}

func (m *mortal) Rename(from, to string) error {
	return m.change(func() error { return m.FS.Rename(from, to) })
}

func (m *mortal) Link(from, to string) error {
	return m.change(func() error { return m.FS.Link(from, to) })
}

func (m *mortal) Remove(name string) error {
	return m.change(func() error { return m.FS.Remove(name) })
}

func (m *mortal) SyncDir(name string) error {
	return m.change(func() error { return m.FS.SyncDir(name) })
}

func (m *mortal) MkdirAll(name string, perm fs.FileMode) error {
	return m.change(func() error { return m.FS.MkdirAll(name, perm) })
}

type mortalFile struct {
	fsys.File
	of *mortal
}

func (f mortalFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.of.change(func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f mortalFile) Sync() error { return f.of.change(f.File.Sync) }

// What was done, but could not be made durable, is so when it is seen or done
// again without an error.
func TestFolderBucketMakesDurableWhatAnErrorLeft(t *testing.T) {
	for seed := range uint64(20) {
		disk := crashfs.New(seed)
		b := vault.NewDir(disk, "/v")
		ctx := t.Context()
		failing := func(do func() error) {
			disk.Inject(crashfs.Fault{Match: func(o crashfs.Op) bool { return o.Kind == crashfs.SyncDir }, Err: syscall.EIO})
			require.ErrorIs(t, do(), syscall.EIO)
		}
		require.NoError(t, putObject(ctx, b, "a/gone", "x"))
		require.NoError(t, putObject(ctx, b, "b/first", "x"))
		v, err := b.SwapHead(ctx, "head/m", "", []byte("1"))
		require.NoError(t, err)

		failing(func() error { return b.Delete(ctx, "a/gone") })
		require.NoError(t, b.Delete(ctx, "a/gone"))
		failing(func() error { return putObject(ctx, b, "b/seen", "x") })
		require.NoError(t, b.(vault.Syncer).Sync(ctx, "b/see"))
		failing(func() error { _, err := b.SwapHead(ctx, "head/m", v, []byte("2")); return err })
		data, _, err := b.ReadHead(ctx, "head/m")
		require.NoError(t, err)
		require.Equal(t, "2", string(data))

		found := vault.NewDir(disk.Restart(), "/v")
		var names []string
		for o, err := range found.List(ctx, "") {
			require.NoError(t, err)
			names = append(names, o.Name)
		}
		require.Equal(t, []string{"b/first", "b/seen", "head/m"}, names, "seed %d", seed)
		data, _, err = found.ReadHead(ctx, "head/m")
		require.NoError(t, err)
		require.Equal(t, "2", string(data), "seed %d", seed)
	}
}

func putObject(ctx context.Context, b vault.Bucket, name, data string) error {
	w, err := b.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.WriteAt([]byte(data), 0); err != nil {
		return err
	}
	return w.Commit(ctx)
}

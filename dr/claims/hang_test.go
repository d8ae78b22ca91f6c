package claims

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// hung is a share whose server is gone: what is asked of it waits until that comes
// back, as on NFS that is mounted "hard".
type hung struct {
	fsys.FS
	gone  atomic.Pointer[chan struct{}] // nil: it is there
	calls atomic.Int64                  // that wait, or have waited
}

func (h *hung) wait() {
	if gone := h.gone.Load(); gone != nil {
		h.calls.Add(1)
		<-*gone
	}
}

func (h *hung) Link(from, to string) error {
	h.wait()
	return h.FS.Link(from, to)
}

func (h *hung) Stat(name string) (fs.FileInfo, error) {
	h.wait()
	return h.FS.Stat(name)
}

func (h *hung) ReadDir(name string) ([]fs.DirEntry, error) {
	h.wait()
	return h.FS.ReadDir(name)
}

// A caller whose time is over isn't kept by a share that hangs; what was asked of it
// and comes late does nothing that was given up.
func TestHungShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &hung{FS: crashfs.New(1)}
		c := newDir(disk, "/c", Options{})
		_, err := c.Acquire(t.Context(), "other", "me")
		require.NoError(t, err)
		begun := time.Now()
		back := make(chan struct{})
		// The look comes back, and the link hangs.
		linking := &hung{FS: disk.FS}
		linking.gone.Store(&back)
		d := newDir(onlyLink{disk.FS, linking}, "/c", Options{})
		soon := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			t.Cleanup(cancel)
			return ctx
		}
		_, err = d.Acquire(soon(), "m", "first")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		disk.gone.Store(&back)
		_, err = c.Acquire(soon(), "m", "me")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, c.Release(soon(), "other", "me"), context.DeadlineExceeded)
		for _, err := range c.Claims(soon()) {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, 4*time.Second, time.Since(begun))

		disk.gone.Store(nil)
		released := make(chan error)
		linking.gone.Store(nil)
		go func() { released <- d.Release(t.Context(), "m", "first") }()
		require.NoError(t, <-released)
		close(back)
		synctest.Wait()
		_, err = c.Acquire(t.Context(), "m", "second")
		require.NoError(t, err)
	})
}

// onlyLink hangs in nothing else.
type onlyLink struct {
	fsys.FS
	hung *hung
}

func (o onlyLink) Link(from, to string) error { return o.hung.Link(from, to) }

// Each call that hangs keeps a thread of the system's, of which a process may have
// ten thousand.
func TestFewHangAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		disk := &hung{FS: crashfs.New(1)}
		disk.gone.Store(&back)
		c := newDir(disk, "/c", Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				_, err := c.Acquire(ctx, fmt.Sprint("m", i), "me")
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		all.Wait()
		require.LessOrEqual(t, disk.calls.Load(), int64(64))
		close(back)
	})
}

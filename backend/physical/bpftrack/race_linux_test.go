package bpftrack

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	fiFreeze = 0xc0045877 // linux/fs.h
	fiThaw   = 0xc0045878
)

// hanging is a write to a loop device that has been queued and can't complete
// before release, as the file system below it is frozen.
func hanging(t *testing.T, alter func(at, *watch) bool) (tr *Tracker, write func() (release func())) {
	outer := loopDevice(t, filepath.Join(memory(t), "outer"), 64<<20)
	command(t, "mkfs.ext4", "-q", "-F", outer)
	dir := mount(t, outer, "ext4")
	inner := loopDevice(t, filepath.Join(dir, "inner"), 16<<20)
	root, err := os.Open(dir)
	require.NoError(t, err)
	frozen := false
	thaw := func() {
		if frozen {
			require.NoError(t, unix.IoctlSetInt(int(root.Fd()), fiThaw, 0))
			frozen = false
		}
	}
	t.Cleanup(func() { thaw(); root.Close() })

	tr, err = Open(Options{})
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	tr.sys.(*kernel).alter = alter
	require.NoError(t, tr.Track(machineOf(inner)))
	f, b := direct(t, inner), aligned(t, 4096)
	return tr, func() func() {
		require.NoError(t, unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0))
		frozen = true
		done := make(chan error, 1)
		go func() { _, err := f.WriteAt(b, 5<<16); done <- err }()
		under := filepath.Join("/sys/block", filepath.Base(inner), "inflight")
		require.Eventually(t, func() bool {
			b, err := os.ReadFile(under)
			var reads, writes int
			return err == nil && scan(string(b), &reads, &writes) && writes == 1
		}, time.Minute, time.Millisecond, "the write is under way")
		return func() {
			select {
			case err := <-done:
				require.Fail(t, "the write didn't hang", "%v", err)
			default:
			}
			thaw()
			require.NoError(t, <-done)
		}
	}
}

// A write that is under way at a mark is noted before the disk has it, and is
// in the time after the mark too.
func TestAWriteUnderWayAtAMark(t *testing.T) {
	tr, write := hanging(t, nil)
	before := cut(t, tr)
	release := write()
	require.True(t, since(t, tr, before)[5], "noted before it can reach the disk")
	after := cut(t, tr)
	require.Empty(t, since(t, tr, after))
	release()
	require.True(t, since(t, tr, after)[5], "noted when it has")
	require.True(t, since(t, tr, before)[5])
	third := cut(t, tr)
	require.Empty(t, since(t, tr, third), "once is enough")
}

// Each half alone fails the test above: this is what it would see.
func TestHalfATrackerMissesIt(t *testing.T) {
	for _, only := range []at{atQueue, atComplete} {
		t.Run(only.String(), func(t *testing.T) {
			tr, write := hanging(t, func(a at, _ *watch) bool { return a != only })
			before := cut(t, tr)
			release := write()
			require.Equal(t, only == atQueue, since(t, tr, before)[5])
			after := cut(t, tr)
			release()
			require.Equal(t, only == atComplete, since(t, tr, after)[5])
		})
	}
}

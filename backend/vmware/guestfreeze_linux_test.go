package vmware

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// needRoot is for tests that mount and freeze.
func needRoot(t testing.TB) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "mounting needs root"
	} else if _, err := os.Stat("/dev/loop-control"); err != nil {
		why = "there are no loop devices"
	}
	if why == "" {
		return
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

// cellar is a guest that runs for real, by this machine's kernel, and sees only
// the file systems that the test has mounted for it.
type cellar struct {
	*pit
	q      backend.Quiescer
	hooks  string
	mounts []string
}

func (c *cellar) mount(kind, at string) {
	t := c.t
	t.Helper()
	image := filepath.Join(t.(*testing.T).TempDir(), "image")
	size := int64(64 * mib)
	if kind != "ext4" {
		size = 320 * mib
	}
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, size))
	out, err := exec.Command(tool(t, "mkfs."+kind), image).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.MkdirAll(at, 0o700))
	out, err = exec.Command("mount", "-o", "loop", image, at).CombinedOutput()
	require.NoError(t, err, "%s", out)
	c.mounts = append(c.mounts, at)
	// A freeze that a test could not end would hang whoever comes after it.
	late := time.AfterFunc(time.Minute, func() { _ = exec.Command("fsfreeze", "-u", at).Run() })
	t.Cleanup(func() {
		late.Stop()
		_ = exec.Command("fsfreeze", "-u", at).Run()
		out, err := exec.Command("umount", at).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	c.list()
}

// list writes the list of mounts that the guest sees: never this machine's own.
func (c *cellar) list() {
	all, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(c.t, err)
	var ours strings.Builder
	for _, line := range strings.SplitAfter(string(all), "\n") {
		for _, at := range c.mounts {
			if f := strings.Fields(line); len(f) > 4 && strings.ReplaceAll(f[4], `\040`, " ") == at {
				ours.WriteString(line)
			}
		}
	}
	require.Equal(c.t, len(c.mounts), strings.Count(ours.String(), "\n"))
	require.NoError(c.t, os.WriteFile(c.v.mounts, []byte(ours.String()), 0o600))
}

func newCellar(t *testing.T, limit time.Duration) *cellar {
	t.Helper()
	needRoot(t)
	tool(t, "fsfreeze")
	shell, err := os.MkdirTemp("/dev/shm", "guest")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(shell) })
	hooks, err := os.MkdirTemp("", "hooks")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(hooks) })
	c := &cellar{hooks: hooks}
	c.pit = newPit(t, vmwaretest.Options{}, oneDisk(mib), withGuest, func(o *Options) { o.FreezeLimit, o.FreezeHooks = limit, c.hooks })
	c.v.mounts = filepath.Join(shell, "mounts")
	c.vm.SetGuest(login(vmwaretest.Guest{Shell: shell}))
	c.q, _ = dr.As[backend.Quiescer](c.v)
	return c
}

// writer writes to every mount all the time, and counts.
func (c *cellar) writer() (counts []*atomic.Int64) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{}, len(c.mounts))
	for _, at := range c.mounts {
		n := new(atomic.Int64)
		counts = append(counts, n)
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				if os.WriteFile(filepath.Join(at, "f"), fmt.Append(nil, n.Load()), 0o600) == nil {
					n.Add(1)
				}
			}
		}()
	}
	c.t.Cleanup(func() {
		stop()
		for _, at := range c.mounts {
			_ = exec.Command("fsfreeze", "-u", at).Run() // else the writer never ends
		}
		for range c.mounts {
			<-done
		}
	})
	for _, n := range counts {
		require.Eventually(c.t, func() bool { return n.Load() > 0 }, time.Minute, time.Millisecond)
	}
	return counts
}

func (c *cellar) requireStill(counts []*atomic.Int64) {
	c.t.Helper()
	before := make([]int64, len(counts))
	time.Sleep(20 * time.Millisecond) // a write that had passed the kernel's gate may be counted yet
	for i, n := range counts {
		before[i] = n.Load()
	}
	time.Sleep(150 * time.Millisecond)
	for i, n := range counts {
		require.Equal(c.t, before[i], n.Load(), c.mounts[i])
	}
}

func (c *cellar) requireMoving(counts []*atomic.Int64) {
	c.t.Helper()
	for i, n := range counts {
		before := n.Load()
		require.Eventually(c.t, func() bool { return n.Load() > before+1 }, time.Minute, time.Millisecond, c.mounts[i])
	}
}

// requireNothingLeft says that no process and no file of the freeze is there.
func (c *cellar) requireNothingLeft() {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return len(c.processes()) == 0 }, time.Minute, 5*time.Millisecond)
	require.Eventually(c.t, func() bool { return len(c.vm.GuestFiles()) == 1 }, time.Minute, 5*time.Millisecond, "the list of mounts only")
}

// processes finds those of the script by their role, the first's is "".
func (c *cellar) processes() map[string]int {
	found := map[string]int{}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		b, _ := os.ReadFile(l)
		args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		if len(args) < 2 || !strings.HasPrefix(args[1], filepath.Dir(c.v.mounts)+"/lifeboat-") {
			continue
		}
		role := ""
		if len(args) > 2 {
			role = args[2]
		}
		var pid int
		fmt.Sscanf(l, "/proc/%d/", &pid)
		found[role] = pid
	}
	return found
}

func (c *cellar) hook(phase, name, script string) {
	dir := filepath.Join(c.hooks, phase+".d")
	require.NoError(c.t, os.MkdirAll(dir, 0o700))
	require.NoError(c.t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
}

// Real file systems stop and go on, one within a file of another too, and the
// snapshot that is made meanwhile says so.
func TestFreezeHoldsRealFileSystems(t *testing.T) {
	c := newCellar(t, 20*time.Second)
	t.Parallel() // vcsim is set up one at a time
	base := t.TempDir()
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		c.mount(kind, filepath.Join(base, "a "+kind))
	}
	inner := filepath.Join(base, "a ext4", "inner.img")
	require.NoError(t, os.WriteFile(inner, nil, 0o600))
	require.NoError(t, os.Truncate(inner, 16*mib))
	out, err := exec.Command("mkfs.ext4", "-q", inner).CombinedOutput()
	require.NoError(t, err, "%s", out)
	at := filepath.Join(base, "inner")
	require.NoError(t, os.Mkdir(at, 0o700))
	out, err = exec.Command("mount", "-o", "loop", inner, at).CombinedOutput()
	require.NoError(t, err, "%s", out)
	c.mounts = append(c.mounts, at)
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", at).Run()) })
	c.list()
	counts := c.writer()

	got, thaw, err := c.q.Quiesce(t.Context(), c.id, dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, dr.FileSystemConsistent, got, "nobody asked an application")
	c.requireStill(counts)
	_, _, err = c.q.Quiesce(t.Context(), c.id, dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrBusy)
	held, err := c.v.Capture(t.Context(), c.id, "held", dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, dr.FileSystemConsistent, held.Point().Consistency)
	require.NoError(t, held.Close())
	c.requireStill(counts)
	require.NoError(t, thaw(t.Context()))
	require.NoError(t, thaw(t.Context()), "a second thaw of a whole quiesce")
	c.requireMoving(counts)
	c.requireNothingLeft()

	again, err := c.v.Capture(t.Context(), c.id, "held", dr.ApplicationConsistent)
	require.NoError(t, err, "found again, it says the same")
	require.Equal(t, dr.FileSystemConsistent, again.Point().Consistency)
	require.NoError(t, again.Close())
}

// Whatever dies, the guest thaws, and the thaw says that the moment is lost.
func TestFreezeEndsWhoeverDies(t *testing.T) {
	for name, x := range map[string]struct {
		kill  []string
		limit time.Duration
		wait  bool // for the limit
	}{
		"nobody, the time is over": {nil, time.Second, true},
		"the first":                {[]string{""}, 20 * time.Second, false},
		"the first and its end":    {[]string{"end", ""}, time.Second, true},
		"the first and over":       {[]string{"over", ""}, 20 * time.Second, false},
		"over":                     {[]string{"over"}, time.Second, true},
		"over and end":             {[]string{"over", "end"}, time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCellar(t, x.limit)
			t.Parallel() // vcsim is set up one at a time
			c.mount("ext4", filepath.Join(t.TempDir(), "m"))
			counts := c.writer()
			_, thaw, err := c.q.Quiesce(t.Context(), c.id, dr.CrashConsistent)
			require.NoError(t, err)
			began := time.Now()
			running := c.processes()
			for _, role := range x.kill {
				require.NotZero(t, running[role], role)
				require.NoError(t, syscall.Kill(running[role], syscall.SIGKILL))
			}
			c.requireMoving(counts)
			if x.wait {
				require.Less(t, time.Since(began), x.limit+5*time.Second)
			} else {
				require.Less(t, time.Since(began), 5*time.Second)
			}
			if name == "over and end" {
				return // who would report it is dead
			}
			require.ErrorIs(t, thaw(t.Context()), dr.ErrNotConsistent)
			require.ErrorIs(t, thaw(t.Context()), dr.ErrNotConsistent)
			c.requireMoving(counts)
		})
	}
}

// A folder that somebody removes takes no knowledge of what has to thaw with it.
func TestFreezeEndsWithoutItsFolder(t *testing.T) {
	c := newCellar(t, time.Second)
	t.Parallel() // vcsim is set up one at a time
	c.mount("ext4", filepath.Join(t.TempDir(), "m"))
	counts := c.writer()
	_, _, err := c.q.Quiesce(t.Context(), c.id, dr.CrashConsistent)
	require.NoError(t, err)
	gone, err := filepath.Glob(filepath.Join(filepath.Dir(c.v.mounts), "lifeboat-*"))
	require.NoError(t, err)
	require.Len(t, gone, 1)
	require.NoError(t, os.RemoveAll(gone[0]))
	c.requireMoving(counts)
}

// Whoever asked for the freeze and gives up has it thawed.
func TestFreezeEndsWithItsContext(t *testing.T) {
	c := newCellar(t, 20*time.Second)
	t.Parallel() // vcsim is set up one at a time
	c.mount("ext4", filepath.Join(t.TempDir(), "m"))
	counts := c.writer()
	ctx, cancel := context.WithCancel(t.Context())
	_, thaw, err := c.q.Quiesce(ctx, c.id, dr.CrashConsistent)
	require.NoError(t, err)
	c.requireStill(counts)
	cancel()
	c.requireMoving(counts)
	require.ErrorIs(t, thaw(t.Context()), dr.ErrNotConsistent)
	c.requireNothingLeft()

	// The answers get lost: it is an error, or not, and never stays frozen.
	for _, call := range []string{"CreateTemporaryDirectoryInGuest", "StartProgramInGuest", "PUT /guest", "GET /guest", "TerminateProcessInGuest"} {
		for _, f := range []vmwaretest.Fault{{Drop: true}, {Drop: true, When: vmwaretest.AfterEffect}, {Err: &types.GuestPermissionDenied{}}} {
			f.Call = call
			armed := c.sim.Fault(f)
			_, thaw, err := c.q.Quiesce(t.Context(), c.id, dr.CrashConsistent)
			if err == nil {
				_ = thaw(t.Context())
			}
			armed.Remove()
			c.requireMoving(counts)
		}
	}
}

// Hooks make a point application-consistent when all were content, and are
// undone whatever happens.
func TestFreezeHooks(t *testing.T) {
	c := newCellar(t, 20*time.Second)
	t.Parallel() // vcsim is set up one at a time
	c.mount("ext4", filepath.Join(t.TempDir(), "m"))
	said := filepath.Join(filepath.Dir(c.v.mounts), "said")
	c.hook("freeze", "10-database", "echo lock >>"+said)
	c.hook("thaw", "10-database", "echo unlock >>"+said)
	c.hook("freeze", "20-editor~", "exit 1") // run-parts takes no such name
	quiesce := func(want dr.Consistency) (dr.Consistency, error) {
		t.Helper()
		got, thaw, err := c.q.Quiesce(t.Context(), c.id, want)
		if err != nil {
			return 0, err
		}
		i, err := c.v.Capture(t.Context(), c.id, "p", want)
		require.NoError(t, err)
		require.Equal(t, got, i.Point().Consistency)
		require.NoError(t, i.Close())
		require.NoError(t, thaw(t.Context()))
		require.NoError(t, c.v.Release(t.Context(), c.id, "p"))
		return got, nil
	}
	heard := func() string {
		b, err := os.ReadFile(said)
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		os.Remove(said)
		return string(b)
	}
	got, err := quiesce(dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, dr.ApplicationConsistent, got)
	require.Equal(t, "lock\nunlock\n", heard())
	got, err = quiesce(dr.CrashConsistent)
	require.NoError(t, err)
	require.Equal(t, dr.CrashConsistent, got)
	require.Empty(t, heard())

	c.hook("freeze", "20-broken", "exit 3")
	got, err = quiesce(dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, dr.FileSystemConsistent, got)
	require.Equal(t, "lock\nunlock\n", heard())

	// One that hangs is ended with who waits for it.
	c.hook("freeze", "20-broken", "exec sleep 100")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, _, err = c.q.Quiesce(ctx, c.id, dr.ApplicationConsistent)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, "lock\nunlock\n", heard())
	c.requireNothingLeft()
}

// What somebody else has frozen stays so, and what can't be frozen is refused,
// unless firmware alone reads it.
func TestFreezeRefuses(t *testing.T) {
	c := newCellar(t, 20*time.Second)
	t.Parallel() // vcsim is set up one at a time
	base := t.TempDir()
	c.mount("ext4", filepath.Join(base, "a"))
	c.mount("ext4", filepath.Join(base, "b"))
	counts := c.writer()
	require.NoError(t, exec.Command("fsfreeze", "-f", c.mounts[0]).Run())
	_, _, err := c.q.Quiesce(t.Context(), c.id, dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "/a")
	c.requireStill(counts[:1])
	c.requireMoving(counts[1:])
	require.NoError(t, exec.Command("fsfreeze", "-u", c.mounts[0]).Run())
	c.requireMoving(counts)
	c.requireNothingLeft()

	// tmpfs has no freezing either, and is there on every machine.
	list, err := os.ReadFile(c.v.mounts)
	require.NoError(t, err)
	at := filepath.Join(base, "t")
	require.NoError(t, os.Mkdir(at, 0o700))
	require.NoError(t, exec.Command("mount", "-t", "tmpfs", "none", at).Run())
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", at).Run()) })
	require.NoError(t, os.WriteFile(c.v.mounts, fmt.Appendf(list, "99 1 8:77 / %s rw - vfat /dev/sdz9 rw\n", at), fs.FileMode(0o600)))
	_, _, err = c.q.Quiesce(t.Context(), c.id, dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrUnsupported)
	require.ErrorContains(t, err, "vfat "+at)
	c.requireMoving(counts)
	c.requireNothingLeft()
}

// A root that is frozen holds nobody up who has to thaw it: the script runs from
// a root of its own here, with everything that it starts, and sees real mounts.
func TestFreezeOfTheRootItRunsFrom(t *testing.T) {
	needRoot(t)
	tool(t, "mkfs.ext4")
	for _, p := range []string{"unshare", "chroot", "dash", "fsfreeze", "setsid"} {
		tool(t, p)
	}
	for name, shell := range map[string]string{"asked": "dash", "not asked": "bash"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "freeze.sh"), []byte("dir=/run/x mounts=/proc/self/mountinfo hooks= limit=2 patience=5\n"+freezeScript), 0o600))
			cmd := exec.CommandContext(t.Context(), "unshare", "-m", "/bin/sh", "-ec", rootTrial, "trial", dir, tool(t, shell), strings.ReplaceAll(name, " ", "-"))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			f, err := parseFrozen(out)
			require.NoError(t, err, "%s", out)
			require.Equal(t, []string{"ext4 /data", "ext4 /"}, f.froze)
			require.True(t, f.done && f.thawed && f.asked, "%s", out)
			require.Equal(t, name == "not asked", f.over, "%s", out)
		})
	}
}

// rootTrial mounts a root and a disk, fills the root with what the script needs,
// freezes, and prints what the script said.
const rootTrial = `
mount --make-rprivate /
cd "$1"
truncate -s 64M root.img data.img
mkfs.ext4 -q root.img; mkfs.ext4 -q data.img
mkdir root
mount -o loop root.img root
mkdir -p root/proc root/dev root/run root/data root/bin
for p in "$2" fsfreeze sleep stat sync setsid mkfifo mkdir rm id; do
	f=$(command -v "$p")
	for l in "$f" $(ldd "$f" | grep -o '/[^ ]*'); do mkdir -p "root${l%/*}"; cp -n "$l" "root$l"; done
done
ln -sf "$2" root/bin/sh
mount -t proc proc root/proc
mount --bind /dev root/dev
mount -t tmpfs tmpfs root/run
mount -o loop data.img root/data
mkdir root/run/x
cp freeze.sh root/run/x/run.sh
chroot root /bin/sh /run/x/run.sh </dev/null >/dev/null 2>&1 &
until grep -q -e ^frozen -e ^failed root/run/x/state 2>/dev/null; do sleep 0.05; done
(echo x >root/data/f; echo x >root/f; : >wrote) &
writer=$!
sleep 0.5
if [ -e wrote ]; then echo "a write went on" >&2; exit 1; fi
[ "$3" = not-asked ] || kill $(sed -n 's/^pid //p' root/run/x/state)
wait $writer
until grep -q ^thawed root/run/x/state; do sleep 0.05; done
cat root/run/x/state
`

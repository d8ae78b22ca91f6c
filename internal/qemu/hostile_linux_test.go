package qemu

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/qemu/bootsector"
)

// A QEMU that was taken over owns the machine's folder: what it leaves there must
// not make the next start change another file.
func TestLinksInTheFolderAreNotFollowed(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o644))
	unharmed := func() {
		t.Helper()
		b, err := os.ReadFile(victim)
		require.NoError(t, err)
		require.Equal(t, "precious", string(b))
		var st unix.Stat_t
		require.NoError(t, unix.Stat(victim, &st))
		require.Equal(t, uint32(0o644), st.Mode&0o777)
		require.Equal(t, os.Geteuid(), int(st.Uid))
	}
	dir := t.TempDir()
	require.NoError(t, os.Symlink(victim, filepath.Join(dir, varsFile)))
	require.Error(t, Config{Dir: dir}.copyVars())
	unharmed()
	require.NoError(t, os.Remove(filepath.Join(dir, varsFile)))
	require.NoError(t, os.Link(victim, filepath.Join(dir, varsFile)))
	require.Error(t, Config{Dir: dir}.copyVars())
	unharmed()
	require.NoError(t, os.Remove(filepath.Join(dir, varsFile)))

	require.NoError(t, os.Symlink(victim, filepath.Join(dir, logFile)))
	_, err := Start(t.Context(), Config{Dir: dir, Outlive: true, Program: "/bin/false"})
	require.ErrorIs(t, err, ErrEnded)
	require.NotContains(t, err.Error(), "install it")
	unharmed()
}

// Root sweeps its own folders only.
func TestFoldersOfOthersAreLeftAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make another's folder")
	}
	parent := t.TempDir()
	trap := filepath.Join(parent, folderPrefix+"trap")
	require.NoError(t, os.Mkdir(trap, 0o700))
	made := filepath.Join(t.TempDir(), "made")
	require.NoError(t, os.Symlink(made, filepath.Join(trap, ownerFile)))
	require.NoError(t, os.Mkdir(filepath.Join(trap, machineFolder), 0o700))
	require.NoError(t, os.Chown(trap, nobody, nobody))
	f, err := NewFolder(parent)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoFileExists(t, made)
	require.DirExists(t, trap)
}

// That a machine can't be reached doesn't mean that it doesn't run.
func TestUnreachableIsNotGone(t *testing.T) {
	dir := t.TempDir()
	_, err := Attach(t.Context(), Config{Dir: dir})
	require.ErrorIs(t, err, dr.ErrNotFound)
	// A socket with no room for another connection.
	p, err := openPlace(dir)
	require.NoError(t, err)
	defer p.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: p.name(qmpSocket)}))
	require.NoError(t, unix.Listen(fd, 0))
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for {
		c, err := net.Dial("unix", p.name(qmpSocket))
		if err != nil {
			break
		}
		conns = append(conns, c)
	}
	_, err = Attach(within(t, 200*time.Millisecond), Config{Dir: dir})
	require.ErrorIs(t, err, unix.EAGAIN)
	require.NotErrorIs(t, err, dr.ErrNotFound)
	_, err = Start(t.Context(), Config{Dir: dir, Outlive: true, Program: "/bin/false"})
	require.ErrorIs(t, err, dr.ErrBusy, "it was not run")
	_, err = os.Lstat(filepath.Join(dir, qmpSocket))
	require.NoError(t, err, "its socket is there")

	// Who calls is let in once there is room.
	go func() {
		time.Sleep(50 * time.Millisecond)
		if taken, _, err := unix.Accept(fd); err == nil {
			unix.Close(taken)
		}
	}()
	c, err := p.dial(within(t, time.Minute), qmpSocket)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// A device that is mounted, or open for one alone, becomes no machine's disk.
func TestDevicesInUseAreRefused(t *testing.T) {
	needs(t)
	lack := func(why string) {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
		}
		t.Skip(why)
	}
	if os.Geteuid() != 0 {
		lack("loop devices need root")
	}
	out, err := exec.Command("losetup", "--show", "-f", disk(t, bootsector.New("well", bootsector.Halt))).CombinedOutput()
	if err != nil {
		lack("losetup: " + string(out))
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { require.NoError(t, exec.Command("losetup", "-d", dev).Run()) })
	one, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	require.NoError(t, err)
	defer one.Close()
	f, err := NewFolder("")
	require.NoError(t, err)
	defer f.Close()
	_, err = Start(t.Context(), Config{Dir: f.Machine, Disks: []Disk{{Path: dev}}})
	require.ErrorIs(t, err, dr.ErrBusy)
	require.NoError(t, one.Close())

	m := start(t, Config{Disks: []Disk{{Path: dev}}})
	_, err = m.Await(within(t, 30*time.Second), says("well"))
	require.NoError(t, err)
	_, err = os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	require.ErrorIs(t, err, unix.EBUSY, "and is nobody else's while it runs")
	require.NoError(t, m.Close())
}

func watched(t testing.TB, c Config) *Machine {
	c.Dir = "/"
	c, err := c.withDefaults()
	require.NoError(t, err)
	return newMachine(c)
}

// What a machine that lives on went through once is not held against it.
func TestVerdictsOfOneThatLivesOn(t *testing.T) {
	m := watched(t, Config{Resets: -1})
	_, _ = m.serial.Write([]byte("Kernel panic - not syncing: x\n"))
	require.ErrorIs(t, m.Err(), ErrPanicked)
	<-m.Failed()
	m.event(Event{"RESET", []byte(`{"guest": true, "reason": "guest-reset"}`)})
	require.NoError(t, m.Err())
	m.event(Event{"SHUTDOWN", []byte(`{"guest": true, "reason": "guest-shutdown"}`)})
	require.ErrorIs(t, m.Err(), ErrPoweredOff)
	require.True(t, m.off)
	m.fail(ErrEnded)

	m = watched(t, Config{})
	_, _ = m.serial.Write([]byte("error: no such device: 1234-5678.\nPress any key to continue...\n"))
	require.NoError(t, m.Err(), "GRUB goes on")
	_, _ = m.serial.Write([]byte("Kernel panic - not syncing: x\n"))
	m.event(Event{"RESET", []byte(`{"guest": true, "reason": "guest-reset"}`)})
	require.ErrorIs(t, m.Err(), ErrPanicked, "a proof")

	m = watched(t, Config{})
	m.event(Event{"BLOCK_IO_ERROR", []byte(`{"action": "report", "operation": "read"}`)})
	require.NoError(t, m.Err())
	m.event(Event{"BLOCK_IO_ERROR", []byte(`{"action": "stop", "operation": "write", "nospace": true}`)})
	require.ErrorIs(t, m.Err(), ErrNoRoom)
	m.event(Event{"RESUME", nil})
	require.NoError(t, m.Err())
}

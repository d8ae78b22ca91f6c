package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// place is a folder that is held open: its sockets are reached however long its
// path is, and QEMU runs in it even if it may not look into the folders above.
type place struct{ dir *os.File }

func openPlace(path string) (place, error) {
	dir, err := os.Open(path)
	return place{dir}, err
}

func (p place) Close() error { return p.dir.Close() }

// name of a file in it. A socket's address has room for about a hundred bytes.
func (p place) name(file string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(p.dir.Fd())), file)
}

// queueFull tells whether a call at a socket failed because too many wait there.
func queueFull(err error) bool { return errors.Is(err, unix.EAGAIN) }

// Listen makes a socket in the machine's folder dir, for one of its disks. Only
// the user that QEMU will run as, and root, can connect to it.
func Listen(dir, socket string, user *User) (net.Listener, error) {
	p, err := openPlace(dir)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	_ = os.Remove(p.name(socket)) // of a process that is gone
	l, err := net.Listen("unix", p.name(socket))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // its name was of this descriptor
	if err := give(p.name(socket), 0o600, user); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// giveFolder makes a folder the user's, if this process is root. The folders above
// it must be nobody else's.
func giveFolder(name string, user *User) error {
	if err := os.Chmod(name, 0o700); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	u := who(user)
	return os.Chown(name, int(u.UID), int(u.GID))
}

// give makes a file in the user's folder the user's, if this process is root. What
// lies there may be what a QEMU that was taken over put there: no link to another
// file is followed.
func give(name string, mode fs.FileMode, user *User) error {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFSOCK || st.Nlink != 1 {
		return fmt.Errorf("%s is a link, or no file: somebody else put it there", filepath.Base(name))
	}
	it := filepath.Join("/proc/self/fd", strconv.Itoa(fd))
	if err := os.Chmod(it, mode); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	u := who(user)
	return os.Chown(it, int(u.UID), int(u.GID))
}

// nobodyListens tells whether a failed call at a socket means that there is no
// process behind it.
func nobodyListens(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}

func who(user *User) User {
	if user == nil {
		return User{nobody, nobody}
	}
	return *user
}

// openOurs opens a file of the folder that QEMU wrote: never one elsewhere that it
// left a link to.
func (p place) openOurs(file string) (*os.File, error) {
	return os.OpenFile(p.name(file), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeDevice != 0
}

// mine tells whether a folder is this user's. Root leaves those of others alone,
// too: what is in them may be a trap.
func mine(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// run starts QEMU and returns a channel that gets how it ended.
func (p place) run(c Config, output *Tail) (*os.Process, <-chan error, error) {
	files := map[int]string{}
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			f.Close()
		}
	}()
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		u := who(c.User)
		attr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID}
	}
	if !c.Outlive {
		attr.Pdeathsig = syscall.SIGKILL
	}
	var fdsets []string
	for i, d := range c.Disks {
		if d.Path == "" {
			continue
		}
		flag := os.O_RDWR
		switch {
		case d.ReadOnly:
			flag = os.O_RDONLY
		case isDevice(d.Path):
			flag |= os.O_EXCL // not one that is mounted, or a part of something
		}
		f, err := os.OpenFile(d.Path, flag, 0)
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: somebody has the device open exclusively, as mounts do: %w", dr.ErrBusy, err)
		}
		if err != nil {
			return nil, nil, err
		}
		opened = append(opened, f)
		files[i] = fmt.Sprintf("/dev/fdset/%d", i)
		fdsets = append(fdsets, "-add-fd", fmt.Sprintf("fd=%d,set=%d", 2+len(opened), i))
	}
	cmd := exec.Command(c.Program, append(fdsets, c.args(files)...)...)
	cmd.Dir = p.name("")
	cmd.ExtraFiles = opened
	cmd.SysProcAttr = attr
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	if c.Outlive {
		// Its pipe would end with this process, and a complaint would then end QEMU.
		// QEMU's user may have put something else there.
		if err := os.Remove(p.name(logFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		f, err := os.OpenFile(p.name(logFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, err
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	} else {
		cmd.Stdout, cmd.Stderr = output, output
	}
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that made the process ends:
		// so this one stays.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		return nil, nil, err
	}
	return cmd.Process, ended, nil
}

// peer is the process at the other end of a connection, which is the one that made
// the socket. It is held: its number can't become another's.
type peer struct {
	mu sync.Mutex // held to close it
	fd int        // negative: closed
}

func peerOf(c net.Conn) (*peer, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if inner != nil {
		return nil, inner
	}
	if cred.Pid <= 1 {
		return nil, errors.New("the socket's process is in another namespace")
	}
	fd, err := unix.PidfdOpen(int(cred.Pid), 0)
	if err != nil {
		return nil, fmt.Errorf("the socket's process: %w", err)
	}
	return &peer{fd: fd}, nil
}

func (p *peer) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// wait returns when the process has ended, and with it its locks, or after a time.
func (p *peer) wait(limit time.Duration) {
	for end := time.Now().Add(limit); time.Until(end) > 0; {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(time.Until(end).Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	unix.Close(p.fd)
	p.fd = -1
}

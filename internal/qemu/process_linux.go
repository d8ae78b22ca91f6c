package qemu

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
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

func (p place) dial(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", p.name(socket))
}

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

// give makes a file the user's, if this process is root.
func give(name string, mode fs.FileMode, user *User) error {
	if err := os.Chmod(name, mode); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	u := who(user)
	return os.Lchown(name, int(u.UID), int(u.GID))
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

// mine tells whether a folder is this user's.
func mine(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (os.Geteuid() == 0 || int(st.Uid) == os.Geteuid())
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
		if d.ReadOnly {
			flag = os.O_RDONLY
		}
		f, err := os.OpenFile(d.Path, flag, 0)
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
		f, err := os.OpenFile(p.name("qemu.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
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

// killPeer kills the process at the other end of a connection, which is the one
// that made the socket: no number is guessed.
func killPeer(c net.Conn) error {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *syscall.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cred, inner = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if inner != nil {
		return inner
	}
	if cred.Pid <= 1 {
		return fmt.Errorf("the socket's process is in another namespace")
	}
	return syscall.Kill(int(cred.Pid), syscall.SIGKILL)
}

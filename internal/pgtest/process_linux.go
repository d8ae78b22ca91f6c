package pgtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// serverUser is who the server runs as; nil if it is this process's user.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// give makes the server's user the owner of a file.
func give(path string) error {
	u, err := serverUser()
	if u == nil || err != nil {
		return err
	}
	return os.Chown(path, int(u.Uid), int(u.Gid))
}

// asServer runs the command as the server's user.
func asServer(cmd *exec.Cmd) {
	u, err := serverUser()
	if err != nil {
		cmd.Err = err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u}
}

// startTied starts a command that is told to end when this process ends,
// however that comes about, and returns a channel that is closed when it has
// ended. The kernel watches the thread that started it: that one stays until
// then.
func startTied(cmd *exec.Cmd) (over chan struct{}, err error) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // at once, without a checkpoint
	started := make(chan error, 1)
	over = make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(over)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return over, <-started
}

// killTree kills a server and its children, which are sessions of their own.
// The server stands still meanwhile, so that none is added.
func killTree(p *os.Process) {
	if p.Signal(syscall.SIGSTOP) != nil {
		return
	}
	all := children(p.Pid)
	_ = p.Kill()
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, pid := range all {
		// What is killed goes soon; its parent, init, reaps it.
		for alive(pid) {
			runtime.Gosched()
		}
	}
}

func children(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if _, ppid := stat(pid); ppid == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(pid int) bool {
	state, _ := stat(pid)
	return state != "" && state != "Z" && state != "X"
}

// stat tells a process's state and parent; "" if there is none.
func stat(pid int) (state string, parent int) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	// The name in brackets may have spaces.
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(f[1])
	return f[0], parent
}

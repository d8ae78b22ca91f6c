//go:build unix

package vmware

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// vddkSupported: VDDK is for Linux; elsewhere nbdkit can stand in for it in tests.
const vddkSupported = true

// maxPassword is what a pipe takes without a reader, on every system.
const maxPassword = 4096

// spawn starts the process. Its password is in a pipe before it starts.
func (k *VDDK) spawn(n *nbdkit, r DiskRequest, log *slog.Logger) error {
	password := r.Password.Reveal()
	if len(password) > maxPassword || strings.ContainsAny(password, "\n\x00") {
		return errors.New("the password is longer than nbdkit can take, or has a line end in it")
	}
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = out.WriteString(password)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	stderr, words, err := os.Pipe()
	if err != nil {
		return err
	}
	defer words.Close()
	const first = 3 // the number that the first of ExtraFiles gets
	cmd := exec.Command(k.program(), k.args(n, r, first)...)
	cmd.ExtraFiles = []*os.File{in}
	cmd.Stderr = words
	cmd.Env = k.environ()
	// Ctrl-C is for this program, which then closes its disks in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	started := make(chan error)
	go func() {
		// nbdkit ends with its parent, which to Linux is this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		n.exit = cmd.Wait()
		close(n.done)
	}()
	if err := <-started; err != nil {
		stderr.Close()
		return err
	}
	pid := cmd.Process.Pid
	n.kill = func(hard bool) {
		sig := syscall.SIGTERM
		if hard {
			sig = syscall.SIGKILL
		}
		syscall.Kill(-pid, sig) // its whole group
	}
	go func() {
		defer close(n.heard)
		defer stderr.Close()
		n.listen(stderr, log)
	}()
	log.Debug("nbdkit started", "pid", pid, "arguments", fmt.Sprint(cmd.Args))
	return nil
}

// args are nbdkit's arguments. The password is on descriptor fd.
func (k *VDDK) args(n *nbdkit, r DiskRequest, fd int) []string {
	args := []string{"--foreground", "--exit-with-parent", "--unix", n.socket(), "--pidfile", n.pidFile()}
	if r.ReadOnly {
		args = append(args, "--readonly")
	}
	if k.Verbose {
		args = append(args, "--verbose")
	}
	args = append(args, "vddk")
	add := func(key, value string) {
		if value != "" {
			args = append(args, key+"="+value)
		}
	}
	add("server", r.Server)
	if r.Port != 0 {
		add("port", fmt.Sprint(r.Port))
	}
	add("user", r.User)
	add("password", fmt.Sprintf("-%d", fd))
	add("thumbprint", r.Thumbprint)
	add("vm", "moref="+r.VM)
	add("snapshot", r.Snapshot)
	add("libdir", k.libDir())
	add("transports", k.Transports)
	add("compression", k.Compression)
	add("config", k.Config)
	add("file", r.File)
	return args
}

// environ is nbdkit's environment: nothing of this program's that could be a
// secret.
func (k *VDDK) environ() []string {
	env := []string{"LC_ALL=C"} // vddkRemedy reads English
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	// With the library's folder in it the plugin needs not start nbdkit again,
	// for which it would put the password into a temporary file.
	path := os.Getenv("LD_LIBRARY_PATH")
	if dir := k.libDir(); dir != "" {
		path = strings.TrimSuffix(filepath.Join(dir, "lib64")+":"+path, ":")
	}
	if path != "" {
		env = append(env, "LD_LIBRARY_PATH="+path)
	}
	return append(env, k.Env...)
}

// listen keeps and logs what nbdkit says, without the password.
func (n *nbdkit) listen(r io.Reader, log *slog.Logger) {
	b := bufio.NewReaderSize(r, 4<<10)
	for {
		line, err := b.ReadSlice('\n') // longer lines come in parts
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			s := string(line)
			if p := n.secret.Reveal(); p != "" {
				s = strings.ReplaceAll(s, p, n.secret.String())
			}
			log.Debug("nbdkit: " + s)
			n.words.add(s)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (t *tail) add(line string) {
	if strings.Contains(line, ": debug: ") {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	line = line[:min(len(line), t.max)]
	t.lines = append(t.lines, line)
	size := 0
	for i := len(t.lines) - 1; i >= 0; i-- {
		if size += len(t.lines[i]); size > t.max {
			t.lines = slices.Delete(t.lines, 0, i+1)
			break
		}
	}
}

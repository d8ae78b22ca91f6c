//go:build unix

package physical

import (
	"os/exec"
	"syscall"
)

// killGroup gives the command a process group of its own, all of which is
// killed when its context ends.
func killGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

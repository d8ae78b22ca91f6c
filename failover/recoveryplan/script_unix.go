//go:build unix

package recoveryplan

import (
	"os/exec"
	"syscall"
)

// inGroup has the program's end take with it what it has started.
func inGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

package vmwaretest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

// ownProcess tells whether a process of this machine was started from a guest's
// folder: no other may be ended.
func (v *VM) ownProcess(pid int64, folder string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && pid > 1 && bytes.Contains(line, []byte(folder+"/"))
}

func terminatePID(pid int64) bool { return syscall.Kill(int(pid), syscall.SIGTERM) == nil }

func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killBelow ends all processes that were started from a guest's folder, and
// those of their groups: a power cut asks nobody.
func killBelow(folder string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		b, err := os.ReadFile(line)
		if err != nil || !bytes.Contains(b, []byte(folder+"/")) {
			continue
		}
		var pid int
		fmt.Sscanf(line, "/proc/%d/", &pid)
		if group, err := syscall.Getpgid(pid); err == nil && pid > 1 && group > 1 && group != syscall.Getpgrp() {
			syscall.Kill(-group, syscall.SIGKILL)
		}
	}
}

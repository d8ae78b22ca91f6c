//go:build !linux

package vmwaretest

import (
	"os"
	"os/exec"
)

func terminate(p *os.Process) error { return p.Kill() }

func (v *VM) ownProcess(int64, string) bool { return false }

func terminatePID(int64) bool { return false }

func ownGroup(*exec.Cmd) {}

func killBelow(string) {}

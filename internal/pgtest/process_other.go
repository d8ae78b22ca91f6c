//go:build !linux

package pgtest

import (
	"os"
	"os/exec"
)

// Elsewhere the server runs as this process's user, and outlives it if that is
// killed.

func give(string) error { return nil }

func asServer(*exec.Cmd) {}

func startTied(cmd *exec.Cmd) (over chan struct{}, err error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	over = make(chan struct{})
	go func() {
		defer close(over)
		_ = cmd.Wait()
	}()
	return over, nil
}

// killTree kills the server; its children see that and end.
func killTree(p *os.Process) { _ = p.Kill() }

//go:build !linux

package temporalserver

import (
	"errors"
	"os/exec"
	"time"
)

var errNotHere = errors.New("a Temporal server for tests runs on Linux only")

func startTied(*exec.Cmd) (chan struct{}, error) { return nil, errNotHere }

func lock(string) (func(), error) { return nil, errNotHere }

func cpuOf(int) time.Duration { return 0 }

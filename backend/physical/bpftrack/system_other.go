//go:build !linux

package bpftrack

import (
	"fmt"
	"os"
	"runtime"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func openSystem(Options) (system, error) {
	return nil, fmt.Errorf("%w: tracking by BPF on %s", dr.ErrUnsupported, runtime.GOOS)
}

func remedy(error) string { return "" }

func lockState(string) (*os.File, error) { return nil, dr.ErrUnsupported }

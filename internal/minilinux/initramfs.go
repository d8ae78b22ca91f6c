package minilinux

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// buildInit compiles guestd for the machine, into dir.
func (p packages) buildInit(ctx context.Context, dir string) ([]byte, error) {
	out := filepath.Join(dir, "guestd")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./internal/minilinux/guestd")
	cmd.Dir = p.repo
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build of guestd: %w: %s", err, said)
	}
	return os.ReadFile(out)
}

// initramfs holds the init and the drivers. It is not compressed: under
// emulation, unpacking costs more than reading.
func (p packages) initramfs(init []byte) ([]byte, error) {
	modules, err := p.modules()
	if err != nil {
		return nil, err
	}
	var c cpio
	c.add("dev", cpioDir, nil, 0, 0)
	c.add("dev/console", cpioChar, nil, 5, 1)
	c.add("init", cpioRun, init, 0, 0)
	c.add("drivers", cpioDir, nil, 0, 0)
	c.add("drivers/list", cpioFile, driverList(modules), 0, 0)
	for _, m := range modules {
		raw, err := os.ReadFile(m.path)
		if err != nil {
			return nil, err
		}
		c.add("drivers/"+m.name+".ko", cpioFile, raw, 0, 0)
	}
	return c.bytes(), nil
}

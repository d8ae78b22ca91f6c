package minilinux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoPackages is returned where Debian's packages are not unpacked, or a
// program that is needed is not installed.
var ErrNoPackages = errors.New("minilinux: Debian's packages are missing (run .ci/tools and .ci/minilinux)")

// packages are Debian's, unpacked by .ci/minilinux.
type packages struct {
	repo    string // the repository's root
	root    string // the packages' root
	version string // the kernel's
}

// Ready returns nil if Build has what it needs, else ErrNoPackages with what
// is missing. It is for tests that skip.
func Ready() error {
	_, err := findPackages()
	return err
}

// findPackages looks from the root of the repository, which is above the
// folder that a test runs in.
func findPackages() (packages, error) {
	dir, err := os.Getwd()
	if err != nil {
		return packages{}, err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			return packages{}, fmt.Errorf("%w: no go.mod above the working directory", ErrNoPackages)
		}
		dir = up
	}
	base := filepath.Join(dir, ".cache", "minilinux")
	p := packages{repo: dir, root: filepath.Join(base, "root")}
	if _, err := os.Stat(filepath.Join(base, "ready")); err != nil {
		return p, fmt.Errorf("%w: %w", ErrNoPackages, err)
	}
	kernels, err := filepath.Glob(filepath.Join(p.root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return p, fmt.Errorf("%w: %d kernels in %s", ErrNoPackages, len(kernels), p.root)
	}
	p.version = strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	for _, tool := range []string{"mke2fs", "debugfs", "mkfs.vfat", "mcopy", "mmd", "syslinux"} {
		if _, err := p.tool(tool); err != nil {
			return p, fmt.Errorf("%w: %w", ErrNoPackages, err)
		}
	}
	return p, nil
}

func (p packages) file(name ...string) string {
	return filepath.Join(append([]string{p.root}, name...)...)
}

// folders of programs: those of the unpacked packages first.
func (p packages) folders() []string {
	return append([]string{p.file("usr", "bin"), p.file("sbin")}, append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin")...)
}

func (p packages) tool(name string) (string, error) {
	for _, dir := range p.folders() {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s", name)
}

// run runs one of Debian's programs. They read no configuration of this
// machine, and take the time that makes two builds equal.
func (p packages) run(ctx context.Context, dir, name string, args ...string) error {
	path, err := p.tool(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+strings.Join(p.folders(), string(filepath.ListSeparator)),
		"LC_ALL=C", "TZ=UTC", "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1",
		"SOURCE_DATE_EPOCH="+epochText, "E2FSPROGS_FAKE_TIME="+epochText)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

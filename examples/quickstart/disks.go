package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// The machine's disks: one with a file system, one with raw data.
const (
	rootDisk dr.DiskID = "root"
	dataDisk dr.DiskID = "data"

	fsBlock = 4096
	odd     = 3 * 512 // so that the second disk ends in the middle of a 64 KiB block
)

// e2fs finds a program of e2fsprogs, which often is not on a user's path.
func e2fs(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s not found: install e2fsprogs", name)
}

func runTool(name string, args ...string) (string, error) {
	p, err := e2fs(name)
	if err != nil {
		return "", err
	}
	out, err := exec.Command(p, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// makeDisks makes the machine's disks in dir, if they are not there: one of
// size bytes with a file that the guest rewrites, and one of a quarter. Making
// an ext4 file system in an image file needs no root.
func makeDisks(dir string, size int64) error {
	root, data := filepath.Join(dir, "root.img"), filepath.Join(dir, "data.img")
	if _, err := os.Stat(data); err == nil {
		return nil
	}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	p := make([]byte, size*3/8>>20<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(p) // never fails
	for off := 0; off+(1<<20) <= len(p); off += 2 << 20 {
		copy(p[off:], bytes.Repeat([]byte("lifeboat takes the machine round the cycle\n"), 1<<20/43))
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(tree, "payload.bin"), p, 0o600),
		os.WriteFile(filepath.Join(tree, "etc", "hostname"), []byte("app1\n"), 0o600),
		truncate(root, size))
	if err != nil {
		return err
	}
	if _, err := runTool("mke2fs", "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(fsBlock), "-d", tree, root); err != nil {
		return err
	}
	if err := truncate(data+".part", size/4+odd); err != nil {
		return err
	}
	return os.Rename(data+".part", data)
}

func truncate(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// payloadRegions asks the file system where the file's blocks are: what the
// guest writes there changes the file's content and keeps the file system
// whole at any moment.
func payloadRegions(root string) ([]region, error) {
	out, err := runTool("debugfs", "-R", "blocks /payload.bin", root)
	if err != nil {
		return nil, err
	}
	var rs []region
	for _, f := range strings.Fields(out) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			continue // debugfs greets with its version
		}
		if last := len(rs) - 1; last >= 0 && rs[last].Off+rs[last].Len == n*fsBlock {
			rs[last].Len += fsBlock
			continue
		}
		rs = append(rs, region{n * fsBlock, fsBlock})
	}
	if len(rs) == 0 {
		return nil, fmt.Errorf("debugfs found no blocks of the payload: %s", out)
	}
	return rs, nil
}

// fsck checks a file system without changing it.
func fsck(image string) error {
	_, err := runTool("e2fsck", "-fn", image)
	return err
}

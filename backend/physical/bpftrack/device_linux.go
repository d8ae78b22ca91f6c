package bpftrack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	errNoDevice = errors.New("it is no block device, nor a file below one loop device")
	errKind     = errors.New("this kind of block device can't be tracked")
	errBeside   = errors.New("it is a file, and what is written to it beside a loop device isn't seen")
)

// find looks up the device that a path leads to: a block device, or the loop
// device over a file. What the programs see is always the whole disk, with the
// sectors of the whole disk, because the kernel adds a partition's start
// before it tells of a write.
func (s *kernel) find(path string) (d device, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return d, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	var dir string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		dir, err = filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	case unix.S_IFREG:
		// Somebody may just look into the image of a guest that runs from it.
		if err = errBeside; s.o.TrustLoops {
			dir, err = loopOver(&st)
		}
	default:
		err = errNoDevice
	}
	if err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		if d.Start, err = number(dir, "start"); err != nil {
			return d, err
		}
		if d.Len, err = number(dir, "size"); err != nil {
			return d, err
		}
		if d.Len == 0 {
			return d, fmt.Errorf("%s: %w: a partition of no sectors", path, errKind)
		}
	}
	size, err := number(dir, "size") // in 512 bytes, whatever the disk's sectors are
	if err != nil {
		return d, err
	}
	d.size = int64(size) * 512
	if d.Len > 0 {
		dir = filepath.Dir(dir)
	}
	// Devices without a queue of requests (device-mapper, md, zram, NVMe over
	// several paths) don't tell at completion where a write went.
	if _, err := os.Stat(filepath.Join(dir, "mq")); err != nil {
		return d, fmt.Errorf("%s: %w: %s has no queue of requests", path, errKind, filepath.Base(dir))
	}
	// Zoned devices choose themselves where an append goes.
	if zoned, err := os.ReadFile(filepath.Join(dir, "queue/zoned")); err == nil && strings.TrimSpace(string(zoned)) != "none" {
		return d, fmt.Errorf("%s: %w: %s is zoned", path, errKind, filepath.Base(dir))
	}
	b, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return d, err
	}
	if _, err := fmt.Sscanf(string(b), "%d:%d", &d.Major, &d.Minor); err != nil {
		return d, fmt.Errorf("%s/dev: %w", dir, err)
	}
	if d.Seq, err = number(dir, "diskseq"); err != nil {
		return d, fmt.Errorf("%s: %w: the kernel has no number that tells its media apart (Linux 5.15): %w", path, errKind, err)
	}
	return d, nil
}

func number(dir, file string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// loopOver finds the one loop device that stands on the whole of a file.
func loopOver(st *unix.Stat_t) (string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	var dirs []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		var other unix.Stat_t
		if err != nil || unix.Stat(strings.TrimSuffix(string(b), "\n"), &other) != nil {
			continue // detached meanwhile, or of another mount namespace
		}
		if other.Dev == st.Dev && other.Ino == st.Ino {
			dirs = append(dirs, filepath.Dir(filepath.Dir(file)))
		}
	}
	if len(dirs) != 1 {
		return "", fmt.Errorf("%w (%d are)", errNoDevice, len(dirs))
	}
	for _, file := range []string{"loop/offset", "loop/sizelimit"} {
		if n, err := number(dirs[0], file); err != nil || n != 0 {
			return "", fmt.Errorf("%w: %s doesn't stand on the whole file", errKind, filepath.Base(dirs[0]))
		}
	}
	return dirs[0], nil
}

package fsfreeze

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// newFinder looks at this system.
func newFinder() (*finder, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f := &finder{sys: "/sys", swaps: swaps, node: node}
	f.mounts, err = parseMounts(mounts)
	return f, err
}

// node tells what a path is, for a finder.
func node(path string) (device, bool, string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return device{}, false, "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return device{unix.Major(st.Rdev), unix.Minor(st.Rdev)}, true, "", nil
	}
	return device{}, false, fmt.Sprint(st.Dev, " ", st.Ino), nil
}

// openFolder opens a folder of the file system: one of its mounts that no other
// mount covers.
func openFolder(f *finder, s *system) (*os.File, error) {
	var errs []error
	for _, m := range s.mounts {
		if i := mountOf(f.mounts, m.at); f.mounts[i] != m {
			continue // covered
		}
		folder, err := os.OpenFile(m.at, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// One that was mounted on a folder above leads elsewhere.
		id, err := mountID(folder)
		if err == nil && id == m.id {
			return folder, nil
		}
		errs = append(errs, err, folder.Close())
	}
	return nil, errors.Join(fmt.Errorf("%w: the file system on %s, mounted on %s, can't be reached: other mounts cover it (unmount them, or mount it at a second place)",
		dr.ErrNotConsistent, s.first().source, s.first().at), errors.Join(errs...))
}

// mountID is the mount that an open file was reached by (proc_pid_fdinfo(5)).
func mountID(f *os.File) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", fmt.Errorf("%s: the kernel doesn't tell its mount", f.Name())
}

// own refuses to freeze what this process writes meanwhile.
func own(mounts []mount, systems []*system, paths []string) error {
	frozen := func(path string) (string, bool) {
		i := mountOf(mounts, path)
		for _, s := range systems {
			if s.state != Frozen {
				continue
			}
			for _, m := range s.mounts {
				if i >= 0 && m == mounts[i] {
					return m.at, true
				}
			}
		}
		return "", false
	}
	for _, p := range paths {
		path, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		// Links decide where it is written; a file that isn't there yet will
		// be made in the folder that is.
		for {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				path = real
				break
			}
			if path == filepath.Dir(path) {
				break
			}
			path = filepath.Dir(path)
		}
		if at, held := frozen(path); held {
			return &OwnError{p, at}
		}
	}
	for fd, name := range map[int]string{1: "standard output", 2: "standard error"} {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			continue
		}
		if at, held := frozen(path); held {
			return &OwnError{name + " (" + path + ")", at}
		}
	}
	return nil
}

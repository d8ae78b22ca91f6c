package fsfreeze

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// watch is a device that isn't held, and what had been written to it when
// everything else was.
type watch struct {
	dev    device
	name   string
	writes [2]uint64
}

// watchAll begins to watch what can't be frozen, and ends the freeze.
func (s *session) watchAll(bare []device) error {
	devs := slices.Clone(bare)
	for _, d := range bare {
		name := s.find.name(d)
		held, err := exclusive(name)
		if err != nil {
			s.lower(dr.CrashConsistent, fmt.Sprintf("Whether %s is in use can't be found out (%v): the point is crash-consistent.", name, err))
		}
		if held {
			s.lower(dr.CrashConsistent, fmt.Sprintf("%s is in use, by no file system that is mounted here (another mount namespace's, or a database's own): it can't be flushed, so the point is crash-consistent.", name))
		}
	}
	for _, h := range s.holds {
		s.mu.Lock()
		flushed := h.state == Flushed
		s.mu.Unlock()
		if flushed {
			devs = append(devs, h.devs...)
		}
	}
	var watches []watch
	for _, d := range devs {
		n, err := s.find.written(d)
		if err != nil {
			return fmt.Errorf("%s can't be frozen, nor watched: %w", s.find.name(d), err)
		}
		watches = append(watches, watch{d, s.find.name(d), n})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errOver
	}
	s.watches = watches
	if s.event.Reached != nil {
		s.event.Reached(s.report.Reached)
	}
	return nil
}

// moved tells what was written although it should have been still.
func (s *session) moved() error {
	s.mu.Lock()
	watches := s.watches
	s.mu.Unlock()
	var errs []error
	for _, w := range watches {
		n, err := s.find.written(w.dev)
		if err != nil {
			errs = append(errs, err)
		} else if n != w.writes {
			errs = append(errs, fmt.Errorf("%w: %s was written meanwhile, and can't be frozen (stop who writes it, let a script hold it, or have it ignored: Options.Ignore, the agent's \"ignore\")", dr.ErrNotConsistent, w.name))
		}
	}
	return errors.Join(errs...)
}

// written are the writes and the discards that a device has completed
// (https://docs.kernel.org/block/stat.html). A queue of requests that was told to
// keep no counters shows none that move. (Devices without a queue count
// whatever iostats says.)
func (f *finder) written(d device) (n [2]uint64, err error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(f.sys, "dev/block", d.String()))
	if err != nil {
		return n, err
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	counts := filepath.Join(dir, "queue/iostats")
	_, requests := os.Stat(filepath.Join(dir, "mq"))
	if b, err := os.ReadFile(counts); err == nil && requests == nil && strings.TrimSpace(string(b)) == "0" {
		return n, fmt.Errorf("its writes are not counted (echo 1 >%s)", counts)
	}
	b, err := os.ReadFile(filepath.Join(f.sys, "dev/block", d.String(), "stat"))
	if err != nil {
		return n, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 11 {
		return n, fmt.Errorf("%s/stat: %d fields", d, len(fields))
	}
	if n[0], err = strconv.ParseUint(fields[4], 10, 64); err == nil && len(fields) > 11 {
		n[1], err = strconv.ParseUint(fields[11], 10, 64)
	}
	return n, err
}

// exclusive tells whether somebody has the device open for himself, as mounts
// have. Asking writes nothing, and wakes nobody up.
func exclusive(name string) (bool, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return false, unix.Close(fd)
	case errors.Is(err, unix.EBUSY):
		return true, nil
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOMEDIUM):
		return false, nil // there is nothing in it
	}
	return false, err
}

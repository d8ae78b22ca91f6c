package fsfreeze

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// errThawed is of a file system that isn't frozen.
var errThawed = errors.New("somebody else has thawed it")

// thawLate thaws what was frozen after everything was to thaw.
func (s *session) thawLate(h *hold) error {
	err := s.h.thawOne(h)
	for last := err; last != nil && !errors.Is(last, errThawed); last = s.h.thawOne(h) {
		<-time.After(time.Second)
	}
	return err
}

func thawOne(h *hold) error {
	err := unix.IoctlSetInt(int(h.folder.Fd()), fiThaw, 0)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: %w", h.first().at, errThawed)
	}
	if err != nil {
		return fmt.Errorf("%s: thaw: %w", h.first().at, err)
	}
	return nil
}

// thawPatience is for how long a thaw may hang until scripts get theirs.
const thawPatience = 15 * time.Second

// thawAll thaws in the reverse order. One that hangs (on a loop device whose
// file's own file system is frozen still, or a disk that fails) must not keep
// the others, nor the applications; one that fails is tried again until it
// has thawed.
func (s *session) thawAll() error {
	var thawing []*hold
	s.mu.Lock()
	for i := len(s.holds) - 1; i >= 0; i-- {
		if h := s.holds[i]; h.frozen {
			h.frozen, h.free = false, make(chan struct{})
			thawing = append(thawing, h)
		}
	}
	s.mu.Unlock()
	results := make(chan error, len(thawing))
	for _, h := range thawing {
		one := make(chan struct{})
		go func() {
			err := s.h.thawOne(h)
			free := err == nil || errors.Is(err, errThawed)
			if free {
				close(h.free) // before it is told: whoever hears of it looks there
			}
			results <- err
			close(one)
			for ; !free; free = err == nil || errors.Is(err, errThawed) {
				<-time.After(time.Second)
				if err = s.h.thawOne(h); err == nil || errors.Is(err, errThawed) {
					close(h.free)
				}
			}
		}()
		select {
		case <-one:
		case <-time.After(time.Second):
		}
	}
	var errs []error
	patience := time.After(thawPatience)
	for range thawing {
		select {
		case err := <-results:
			errs = append(errs, err)
		case <-patience:
			return errors.Join(append(errs, errors.New("a file system does not thaw: see fsfreeze -u, and the kernel's log for its disk"))...)
		}
	}
	return errors.Join(errs...)
}

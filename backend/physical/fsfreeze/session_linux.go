package fsfreeze

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// The ioctls of fsfreeze(8), as linux/fs.h has them: _IOWR('X', 119, int) and
// _IOWR('X', 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// session is one freeze of a machine, from its first script to its last thaw.
type session struct {
	h     *hooks
	event physical.Event
	apps  *apps
	guard *guard
	holds []*hold
	find  *finder
	stop  context.CancelCauseFunc // of begin; set before the session is known

	mu      sync.Mutex
	over    bool // it is to thaw: nothing more may be frozen
	thaws   physical.Event
	watches []watch
	since   time.Time     // of the first freeze
	left    chan struct{} // closed when begin has returned
	done    chan struct{} // closed when everything has thawed
	report  Report
}

// hold is a file system and its open folder. Its state is guarded by the
// session's mu.
type hold struct {
	*system
	folder *os.File
	frozen bool
	free   chan struct{} // closed when it has thawed for certain; nil: it was never frozen
}

func newSession(h *hooks, e physical.Event) *session {
	if e.Out == nil {
		e.Out = io.Discard
	}
	return &session{h: h, event: e, left: make(chan struct{}), done: make(chan struct{}),
		report: Report{Machine: e.Machine.ID, Began: time.Now(), Reached: max(min(e.Want, dr.FileSystemConsistent), dr.CrashConsistent)}}
}

// errOver says that the thaw came first.
var errOver = fmt.Errorf("%w: it was to thaw before all was frozen", dr.ErrNotConsistent)

func (s *session) begin(ctx context.Context) (err error) {
	defer func() {
		s.mu.Lock()
		s.report.Err = errors.Join(s.report.Err, err)
		s.mu.Unlock()
		close(s.left)
	}()
	out, err := s.look()
	if err != nil {
		return err
	}
	if err := s.protect(); err != nil {
		return err
	}
	s.prepare(ctx)
	if err := s.flush(ctx, s.holds); err != nil {
		return err
	}
	if err := s.lookAgain(out); err != nil {
		return err
	}
	s.report.Prepared = time.Since(s.report.Began)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.freezeAll(ctx); err != nil {
		return err
	}
	return s.watchAll(out.bare)
}

// look finds what is to be held and opens it, before anything is.
func (s *session) look() (*found, error) {
	f, err := newFinder()
	if err != nil {
		return nil, err
	}
	s.find = f
	out, err := f.find(s.event.Paths, s.h.o.Ignore)
	if err != nil {
		return nil, err
	}
	if err := own(f.mounts, out.systems, s.h.o.Own); err != nil {
		return nil, err
	}
	s.note(out.notes...)
	var holds []*hold
	for _, sys := range out.systems {
		if sys.state != Frozen {
			continue
		}
		folder, err := openFolder(f, sys)
		if err != nil {
			return nil, errors.Join(err, closeAll(holds))
		}
		holds = append(holds, &hold{system: sys, folder: folder})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = holds
	for _, sys := range out.systems {
		s.report.Systems = append(s.report.Systems, System{Mount: sys.first().at, Type: sys.first().kind, Device: sys.first().source, State: sys.state})
	}
	if s.over {
		return nil, errOver
	}
	return out, nil
}

// lookAgain refuses a freeze of what isn't there any more: scripts may have taken
// minutes, in which a disk was mounted or made writable. It would not be held.
func (s *session) lookAgain(before *found) error {
	f, err := newFinder()
	if err != nil {
		return err
	}
	now, err := f.find(s.event.Paths, s.h.o.Ignore)
	if err != nil {
		return err
	}
	if !before.same(now) {
		return fmt.Errorf("%w: what is mounted from the machine's disks changed while its freeze was prepared (capture again)", dr.ErrNotConsistent)
	}
	return nil
}

func closeAll(holds []*hold) error {
	var errs []error
	for _, h := range holds {
		errs = append(errs, h.folder.Close())
	}
	return errors.Join(errs...)
}

// protect starts the guard.
func (s *session) protect() error {
	var folders []*os.File
	for _, h := range s.holds {
		folders = append(folders, h.folder)
	}
	guard, err := startGuard(s.event, folders, s.h.o.Limit, s.h.o.Scripts.Limit)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guard = guard
	s.apps = &apps{event: s.event, limit: s.h.o.Scripts.Limit, guard: guard}
	if s.over {
		return errOver
	}
	return nil
}

func (s *session) note(notes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Notes = append(s.report.Notes, notes...)
	for _, n := range notes {
		fmt.Fprintln(s.event.Out, n)
	}
}

// lower says that less was reached, and why.
func (s *session) lower(c dr.Consistency, why string) {
	s.note(why)
	s.mu.Lock()
	s.report.Reached = min(s.report.Reached, c)
	s.mu.Unlock()
}

// unprepared says that an application was perhaps not held until the thaw.
func (s *session) unprepared() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report.Reached < dr.ApplicationConsistent {
		return
	}
	s.report.Reached = dr.FileSystemConsistent
	s.report.Notes = append(s.report.Notes, "An application was not held until the thaw, or doesn't go on: its script's thaw failed.")
	if s.thaws.Reached != nil {
		s.thaws.Reached(dr.FileSystemConsistent)
	}
}

// prepare calls the scripts. That they fail costs their consistency only.
func (s *session) prepare(ctx context.Context) {
	if s.event.Want < dr.ApplicationConsistent {
		return
	}
	var recovers []string
	paths, err := s.h.o.Scripts.list()
	if err == nil && len(paths) > 0 {
		recovers, err = s.apps.freeze(ctx, paths)
	}
	switch {
	case err != nil:
		s.note("No application was prepared: " + err.Error())
	case len(paths) == 0:
		s.note("No application was prepared: there are no scripts.")
	case len(recovers) > 0:
		s.note("Applications that recover as after a crash: " + strings.Join(recovers, ", ") + ".")
	default:
		s.mu.Lock()
		s.report.Reached = dr.ApplicationConsistent
		s.mu.Unlock()
	}
}

// flush writes out file systems, so that freezing has little left to write.
func (s *session) flush(ctx context.Context, holds []*hold) error {
	var g errgroup.Group
	for _, h := range holds {
		g.Go(func() error {
			if err := unix.Syncfs(int(h.folder.Fd())); err != nil {
				return fmt.Errorf("%s: flush: %w", h.first().at, err)
			}
			return nil
		})
	}
	flushed := make(chan error, 1)
	go func() { flushed <- g.Wait() }()
	select {
	case err := <-flushed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) freezeAll(ctx context.Context) error {
	if s.event.Held != nil {
		s.event.Held(true)
	}
	s.mu.Lock()
	s.since = time.Now()
	s.mu.Unlock()
	var others []*hold
	for i, h := range s.holds {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := s.freezeOne(i, h)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			others = append(others, h)
		case err != nil:
			return err
		}
	}
	if len(others) == 0 {
		return nil
	}
	for _, h := range others {
		s.setState(h, Flushed)
		s.note(fmt.Sprintf("%s (%s) can't be frozen: flushed, and watched for writes.", h.first().at, h.first().kind))
	}
	return s.flush(ctx, others)
}

func (s *session) setState(h *hold, state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.state = state
	for i, sys := range s.report.Systems {
		if sys.Mount == h.first().at {
			s.report.Systems[i].State = state
		}
	}
}

func (s *session) freezeOne(i int, h *hold) error {
	if err := s.guard.freezing(i); err != nil {
		return err
	}
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over {
		return errOver
	}
	err := unix.IoctlSetInt(int(h.folder.Fd()), fiFreeze, 0)
	s.mu.Lock()
	over = s.over
	h.frozen = err == nil && !over
	s.mu.Unlock()
	if err == nil && over {
		// The thaw came while the kernel froze it, and passed it by.
		return errors.Join(errOver, s.thawLate(h))
	}
	if err == nil {
		return nil
	}
	if e := s.guard.notOurs(i); e != nil {
		return e
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return &FrozenError{h.first().at}
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %s: freezing needs CAP_SYS_ADMIN (run it as root, outside of containers): %w", dr.ErrUnsupported, h.first().at, err)
	}
	return fmt.Errorf("%s: freeze: %w", h.first().at, err)
}

// say takes the thaw's event, for the first thaw that comes.
func (s *session) say(e physical.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.thaws.Held == nil {
		s.thaws = e
	}
}

// end thaws everything, once. Others that call it wait.
func (s *session) end(ctx context.Context) error {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		<-s.done
		return nil // the first call has told it
	}
	s.over = true
	since := s.since
	s.mu.Unlock()
	s.stop(errOver)

	err := errors.Join(s.moved(), s.thawAll())
	s.mu.Lock()
	if s.thaws.Held != nil {
		s.thaws.Held(false)
	}
	if !since.IsZero() {
		s.report.Frozen = time.Since(since)
	}
	s.report.Err = errors.Join(s.report.Err, err)
	guard, apps := s.guard, s.apps
	s.mu.Unlock()
	if apps != nil {
		if s.free() {
			_ = guard.say("free") // else it goes on trying, too
		}
		if apps.thaw(ctx) != nil { // each failure is in the report
			s.unprepared()
		}
	}
	select {
	case <-s.left:
	default:
		go s.linger()
		close(s.done)
		return err
	}
	if s.free() {
		s.leave()
	} else {
		go s.linger()
	}
	close(s.done)
	return err
}

// free tells whether everything has thawed that was frozen.
func (s *session) free() bool {
	for _, h := range s.holds {
		if h.free == nil {
			continue
		}
		select {
		case <-h.free:
		default:
			return false
		}
	}
	return true
}

// linger leaves later: a freeze is under way in the kernel, or a thaw. Until it
// returns and is undone, its folder and the guard are needed.
func (s *session) linger() {
	<-s.left
	for _, h := range s.holds {
		if h.free != nil {
			<-h.free
		}
	}
	s.leave()
}

// leave gives up everything, after nothing is frozen any more.
func (s *session) leave() {
	if s.apps != nil {
		_ = s.apps.thaw(context.Background())
		s.report.Scripts = s.apps.results
	}
	if s.guard != nil {
		s.guard.end()
	}
	_ = closeAll(s.holds) // folders, opened for reading
	s.h.gone(s)
}

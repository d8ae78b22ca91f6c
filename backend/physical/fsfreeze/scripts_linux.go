package fsfreeze

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// scriptOutput is how much of what a script says is kept.
const scriptOutput = 1 << 10

// skipped are the ends of names that package managers, editors and
// administrators give to what is not to be run.
var skipped = []string{"~", ".bak", ".disabled", ".sample", ".md", ".txt", ".rpmnew", ".rpmorig", ".rpmsave",
	".dpkg-bak", ".dpkg-dist", ".dpkg-new", ".dpkg-old", ".dpkg-tmp", ".ucf-dist", ".ucf-new", ".ucf-old", ".swp"}

// list names the scripts in their order. It refuses what others than the
// owner of this process could have put there.
func (s Scripts) list() ([]string, error) {
	if s.Dir == "" {
		return nil, nil
	}
	// Links in the way may be of other owners; the guard needs a path that
	// holds wherever it is.
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if err == nil {
		err = trusted(dir)
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if skip(e.Name()) {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			continue
		}
		if err := trusted(path); err != nil {
			return nil, err
		}
		if info.Mode()&0o111 == 0 || strings.ContainsAny(path, "\n\r") {
			return nil, fmt.Errorf("%w: %s can't be run (chmod +x it, or end its name in .disabled)", dr.ErrInvalid, path)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func skip(name string) bool {
	if strings.HasPrefix(name, ".") {
		return true
	}
	for _, end := range skipped {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// trusted refuses what somebody else can write: it would run with our rights.
func trusted(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s can be written by others than its owner, or is not root's (chown root, chmod go-w)", dr.ErrInvalid, path)
	}
	return nil
}

// apps are the scripts of one freeze.
type apps struct {
	event physical.Event
	limit time.Duration
	guard *guard

	mu      sync.Mutex
	over    bool
	begun   []string // that need a thaw
	results []ScriptResult
}

// freeze runs them in order, and tells whether an application recovers all the
// same. When one fails, all that were begun get their
// thaw at once: half a preparation is worth nothing.
func (a *apps) freeze(ctx context.Context, paths []string) (recovers []string, err error) {
	for _, path := range paths {
		if err := a.one(ctx, path); err != nil {
			_ = a.thaw(context.WithoutCancel(ctx)) // each failure is in the results
			return nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.results {
		if r.Recovers {
			recovers = append(recovers, filepath.Base(r.Path))
		}
	}
	return recovers, nil
}

func (a *apps) one(ctx context.Context, path string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return fmt.Errorf("%w: it was to thaw already", dr.ErrNotConsistent)
	}
	a.begun = append(a.begun, path)
	if err := a.guard.say("script " + path); err != nil {
		return err
	}
	return a.run(ctx, path, "freeze")
}

// thaw gives those that were begun their thaw, last first. Each has its own
// time, and one that fails keeps none from thawing.
func (a *apps) thaw(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	var errs []error
	for i := len(a.begun) - 1; i >= 0; i-- {
		errs = append(errs, a.run(ctx, a.begun[i], "thaw"))
	}
	a.begun = nil
	return errors.Join(errs...)
}

func (a *apps) run(ctx context.Context, path, event string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.limit, fmt.Errorf("took longer than %v: %w", a.limit, context.DeadlineExceeded))
	defer cancel()
	cmd := exec.CommandContext(ctx, path, event)
	cmd.Dir, cmd.Env = "/", environment(a.event, event)
	out := &head{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// What it left running in the background must not keep us.
	cmd.WaitDelay = time.Second
	began := time.Now()
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has succeeded, and left a program behind that holds its output open
	}
	recovers := cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == Recovers && event == "freeze"
	if recovers {
		err = nil
	}
	said := strings.TrimSpace(out.buf.String())
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		err = fmt.Errorf("%s %s: %w", path, event, err)
		if said != "" {
			err = fmt.Errorf("%w; it said: %s", err, said)
		}
	}
	a.results = append(a.results, ScriptResult{Path: path, Event: event, Took: time.Since(began), Said: said, Recovers: recovers, Err: err})
	return err
}

// environment is all that scripts are given: what this process has may hold
// secrets.
func environment(e physical.Event, event string) []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LC_ALL=C",
		"LIFEBOAT_EVENT=" + event,
		"LIFEBOAT_MACHINE=" + string(e.Machine.ID),
		"LIFEBOAT_NAME=" + e.Machine.Name,
		"LIFEBOAT_DISKS=" + strings.Join(e.Paths, "\n"),
	}
}

// head keeps the beginning of what is written to it.
type head struct{ buf bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.buf.Write(p[:min(len(p), scriptOutput-h.buf.Len())])
	return len(p), nil
}

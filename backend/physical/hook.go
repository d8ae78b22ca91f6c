package physical

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Hook does something to a machine. It may be called again after it was
// interrupted, also when it had succeeded, and must then succeed again. It
// must return soon after ctx ends.
type Hook func(ctx context.Context, e Event) error

// Event is what a hook is called for.
type Event struct {
	Name string // "start", "stop", "shutdown", "freeze", "thaw" or "probe"
	// Machine has its disks' present sizes; 0 is that of a disk which isn't
	// there or can't be opened. A thaw's are those of the freeze: what is
	// frozen is not asked for anything.
	Machine dr.Machine
	Paths   []string // the paths of Machine.Disks, in their order
	// Isolated says that the machine must not reach production: a drill.
	Isolated bool
	// Want is the consistency that a freeze is asked for.
	Want dr.Consistency
	// Out takes what the hook has to say; the first few KiB are kept, for
	// the error or for the probe's evidence. Never nil.
	Out io.Writer
	// Held may be called by a freeze hook when writes begin to hang, after
	// what it prepared before: the freeze limit begins then; and by a thaw
	// hook, with false, when they go on. Else the freeze lasts from the call of
	// the one to the return of the other. Never nil.
	Held func(on bool)
	// Reached may be called by a freeze hook to say that it reached less than
	// Want, and by a thaw hook to say that less was held until then, though the
	// writes were. Never nil.
	Reached func(dr.Consistency)
}

// Hooks are a host's hooks. Nil ones: Start, Stop and Shutdown just keep the
// state, though a host with Stop and without Shutdown can't shut down; without
// Freeze and Thaw, which come in pairs, a running machine has no consistent
// moment but a quiet one; without Probe there is no evidence.
type Hooks struct {
	Start    Hook // powers the machine on
	Stop     Hook // powers it off, hard
	Shutdown Hook // returns when the guest has shut down
	// Freeze returns when no write to the machine's disks can complete any
	// more; Thaw undoes it, also after a Freeze that failed half way. A
	// nil error from Thaw says that the machine was frozen until then.
	// Neither may write to a disk that is frozen, nor wait for who does.
	Freeze, Thaw Hook
	Probe        Hook // returns nil on evidence that the machine lives
}

// Commands are hooks as command lines: program and arguments, run without a
// shell. Each gets LIFEBOAT_EVENT, LIFEBOAT_MACHINE, LIFEBOAT_NAME,
// LIFEBOAT_DISKS (the paths, a line each), LIFEBOAT_ISOLATED (0 or 1) and
// LIFEBOAT_WANT (a consistency) in its environment, beside this process's own.
type Commands struct {
	Start    []string `json:"start,omitempty"`
	Stop     []string `json:"stop,omitempty"`
	Shutdown []string `json:"shutdown,omitempty"`
	Freeze   []string `json:"freeze,omitempty"`
	Thaw     []string `json:"thaw,omitempty"`
	Probe    []string `json:"probe,omitempty"`
	// Limit ends a command that takes longer, in nanoseconds; 0:
	// DefaultHookLimit. Freeze ends with Config.FreezeLimit if that is less.
	Limit time.Duration `json:"limit,omitempty"`
}

// hooks fills in those that are not functions already.
func (c Commands) hooks(h Hooks) Hooks {
	for _, p := range []struct {
		hook *Hook
		argv []string
	}{
		{&h.Start, c.Start}, {&h.Stop, c.Stop}, {&h.Shutdown, c.Shutdown},
		{&h.Freeze, c.Freeze}, {&h.Thaw, c.Thaw}, {&h.Probe, c.Probe},
	} {
		if *p.hook == nil && len(p.argv) > 0 {
			*p.hook = Command(c.Limit, p.argv...)
		}
	}
	return h
}

// Command makes a hook of a command line; see [Commands] for what it is given.
// The command is killed when limit is over (0: DefaultHookLimit) or ctx ends;
// on Unix with all processes of its group, as a shell's child that lived on
// could freeze the machine after it was thawed.
// What it printed goes to the event's Out.
func Command(limit time.Duration, argv ...string) Hook {
	if limit <= 0 {
		limit = DefaultHookLimit
	}
	return func(ctx context.Context, e Event) error {
		if len(argv) == 0 {
			return fmt.Errorf("%w: %s: empty command line", dr.ErrInvalid, e.Name)
		}
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("took longer than %v: %w", limit, context.DeadlineExceeded))
		defer cancel()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		isolated := "0"
		if e.Isolated {
			isolated = "1"
		}
		cmd.Env = append(os.Environ(),
			"LIFEBOAT_EVENT="+e.Name,
			"LIFEBOAT_MACHINE="+string(e.Machine.ID),
			"LIFEBOAT_NAME="+e.Machine.Name,
			"LIFEBOAT_DISKS="+strings.Join(e.Paths, "\n"),
			"LIFEBOAT_ISOLATED="+isolated,
			"LIFEBOAT_WANT="+e.Want.String(),
		)
		cmd.Stdout, cmd.Stderr = e.Out, e.Out
		killGroup(cmd)
		// A grandchild that keeps the pipe open must not keep us.
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		if err == nil {
			return nil
		}
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return fmt.Errorf("command %q: %w", argv[0], err)
	}
}

// hookOutput is how much of a hook's output is kept.
const hookOutput = 4 << 10

// clipped keeps the beginning of what is written to it.
type clipped struct {
	buf bytes.Buffer
	cut bool
}

func (c *clipped) Write(p []byte) (int, error) {
	room := hookOutput - c.buf.Len()
	if len(p) > room {
		c.cut = true
	}
	c.buf.Write(p[:min(len(p), room)])
	return len(p), nil
}

func (c *clipped) String() string {
	s := strings.TrimSpace(c.buf.String())
	if c.cut {
		s += " [...]"
	}
	return s
}

// call runs a hook and returns what it said. A nil hook says nothing. more, if
// not nil, completes the event.
func (m *machine) call(ctx context.Context, name string, hook Hook, want dr.Consistency, more func(*Event)) (string, error) {
	if hook == nil {
		return "", nil
	}
	out := &clipped{}
	e := Event{Name: name, Machine: dr.Machine{ID: m.id}, Want: want, Out: out, Held: func(bool) {}, Reached: func(dr.Consistency) {}}
	if more != nil {
		more(&e)
	}
	if rec := m.record(); rec != nil {
		if name != "thaw" {
			m.measure(rec)
		}
		e.Machine, e.Isolated = rec.described(), rec.Isolated
		m.mu.Lock()
		for i, d := range rec.Disks {
			e.Machine.Disks[i].Size = m.sizes[d.ID]
		}
		m.mu.Unlock()
		for _, d := range rec.Disks {
			e.Paths = append(e.Paths, m.path(d))
		}
	}
	err := hook(ctx, e)
	if err == nil {
		return out.String(), nil
	}
	if said := out.String(); said != "" {
		err = fmt.Errorf("%w; it said: %s", err, said)
	}
	return "", fmt.Errorf("%s hook: %w", name, err)
}

// measure notes the disks' sizes for the events of hooks. A machine must be
// switched and thawed whether or not its disks can be read.
func (m *machine) measure(rec *record) {
	sizes := map[dr.DiskID]int64{}
	for _, d := range rec.Disks {
		if size, err := m.size(d); err == nil {
			sizes[d.ID] = size
		}
	}
	m.mu.Lock()
	m.sizes = sizes
	m.mu.Unlock()
}

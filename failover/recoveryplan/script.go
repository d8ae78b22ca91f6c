package recoveryplan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// actionInput is that of scripts and callbacks.
type actionInput struct {
	Plan      string            `json:"plan"`
	Flow      string            `json:"flow"`
	Direction Direction         `json:"direction"`
	Action    Action            `json:"action"`
	Machines  []dr.ProtectionID `json:"machines"`
}

// ActionResult is what an action or health check left.
type ActionResult struct {
	// NotRun: the run was to stop before its turn.
	NotRun string        `json:"notRun,omitempty"`
	Took   time.Duration `json:"took,omitempty"`
	// Output is the end of what a script wrote, 16 KiB at most.
	Output string `json:"output,omitempty"`
	// Value is what a callback returned.
	Value json.RawMessage `json:"value,omitempty"`
	// Seen is what a health check saw.
	Seen string `json:"seen,omitempty"`
}

// callback calls a function of the embedding program.
func (e *Env) callback(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, x, why, err := e.context(ctx, c)
	if err != nil {
		return nil, err
	}
	if why != "" {
		return json.Marshal(ActionResult{NotRun: why})
	}
	f := e.Callbacks[in.Action.Callback]
	if f == nil {
		return nil, fmt.Errorf("%w: callback %q is not registered in this process", dr.ErrNotFound, in.Action.Callback)
	}
	start := time.Now()
	v, err := f(ctx, x)
	if err != nil {
		return nil, fmt.Errorf("callback %s: %w", in.Action.Callback, err)
	}
	r := ActionResult{Took: time.Since(start)}
	if v != nil {
		if r.Value, err = json.Marshal(v); err != nil {
			return nil, dr.Permanent(fmt.Errorf("callback %s: result: %w", in.Action.Callback, err))
		}
	}
	return json.Marshal(r)
}

// context gathers what a script or callback is told; why, if it is not to run.
func (e *Env) context(ctx context.Context, c *dr.Call) (in actionInput, x Context, why string, err error) {
	if err = read(c, &in); err != nil {
		return in, x, "", err
	}
	if !c.Undo {
		if why = stopped(c); why != "" {
			return in, x, why, nil
		}
	}
	x = Context{
		Plan: in.Plan, Flow: in.Flow, Direction: in.Direction, Run: c.Run, Step: c.Step, Key: dr.StepKey(c.Run, c.Step, false),
		Attempt: c.Attempt, Undo: c.Undo, Input: in.Action.Input,
	}
	for _, id := range in.Machines {
		m, err := e.standing(ctx, id, in.Flow)
		if err != nil {
			return in, x, "", err
		}
		x.Machines = append(x.Machines, m)
	}
	return in, x, "", nil
}

// standing tells where a machine of the plan is now, and its addresses, if its
// platform tells them soon.
func (e *Env) standing(ctx context.Context, id dr.ProtectionID, flow string) (ContextMachine, error) {
	r, err := e.Replication.Records.Load(ctx, id)
	if err != nil {
		return ContextMachine{}, fmt.Errorf("record of protection %s: %w", id, err)
	}
	m := ContextMachine{Protection: id, State: r.State, At: r.Active}
	if flow == FlowTest || flow == FlowDrill {
		m.At = dr.Place{}
		if r.Test != nil {
			m.At = r.Test.Place
		}
	}
	if m.At.Machine == "" {
		return m, nil
	}
	site, err := e.Replication.Sites.Site(m.At.Site)
	if err != nil {
		return m, err
	}
	m.Addresses = addresses(ctx, site.Backend, m.At.Machine)
	return m, nil
}

// lookFor is how long a platform is asked for a machine's addresses.
const lookFor = 10 * time.Second

func addresses(ctx context.Context, b backend.Backend, id dr.MachineID) (all []string) {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	m, err := b.Machine(ctx, id)
	if err != nil {
		return nil // a site that is lost tells nothing
	}
	for _, n := range m.NICs {
		for _, a := range n.Addresses {
			a, _, _ = strings.Cut(a, "/")
			all = append(all, a)
		}
	}
	return all
}

// scriptPath returns where the script is, which must be inside the folder also
// when links are followed.
func (e *Env) scriptPath(name string) (string, error) {
	if e.Scripts == "" {
		return "", fmt.Errorf("%w: script %q: this process runs no scripts: name a folder for them (Env.Scripts)", dr.ErrUnsupported, name)
	}
	if !local(name) {
		return "", fmt.Errorf("%w: script %q is not in the scripts' folder", dr.ErrInvalid, name)
	}
	root, err := os.OpenRoot(e.Scripts)
	if err != nil {
		return "", fmt.Errorf("scripts' folder: %w", err)
	}
	defer root.Close()
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("script %q: %w in the scripts' folder", name, dr.ErrNotFound)
	case err != nil:
		return "", fmt.Errorf("script %q: %w", name, err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%w: script %q is no file", dr.ErrInvalid, name)
	}
	return filepath.Join(e.Scripts, name), nil
}

// script runs a program. It is told what for as JSON on its standard input, and
// in short by its environment; ends with all that it has started when ctx
// ends; and has failed if it doesn't exit with 0.
func (e *Env) script(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, x, why, err := e.context(ctx, c)
	if err != nil {
		return nil, err
	}
	if why != "" {
		return json.Marshal(ActionResult{NotRun: why})
	}
	name := in.Action.Script[0]
	path, err := e.scriptPath(name)
	if err != nil {
		return nil, err
	}
	told, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, in.Action.Script[1:]...)
	cmd.Dir = e.Scripts
	cmd.Stdin = bytes.NewReader(told)
	out := &end{max: maxOutput}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "LIFEBOAT_PLAN="+x.Plan, "LIFEBOAT_FLOW="+x.Flow, "LIFEBOAT_DIRECTION="+string(x.Direction),
		"LIFEBOAT_RUN="+string(x.Run), "LIFEBOAT_STEP="+x.Step, "LIFEBOAT_KEY="+x.Key)
	if x.Undo {
		cmd.Env = append(cmd.Env, "LIFEBOAT_UNDO=1")
	}
	inGroup(cmd)
	cmd.WaitDelay = 2 * time.Second // a child that keeps the output open doesn't keep us
	c.Beat(dr.Progress{What: "running " + name})
	start := time.Now()
	err = cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return nil, fmt.Errorf("script %s: %w%s", name, err, out.said())
	}
	return json.Marshal(ActionResult{Took: time.Since(start), Output: out.String()})
}

// maxOutput is how much of a script's output is kept, in bytes: the end, which
// tells why it failed.
const maxOutput = 16 << 10

// end keeps the end of what is written. Standard output and error may be
// written at once.
type end struct {
	max int
	mu  sync.Mutex
	b   []byte
	cut bool
}

func (e *end) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.b = append(e.b, p...)
	if over := len(e.b) - e.max; over > 0 {
		e.b, e.cut = append(e.b[:0], e.b[over:]...), true
	}
	return len(p), nil
}

func (e *end) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := strings.ToValidUTF8(string(e.b), "\uFFFD")
	if e.cut {
		s = "[...] " + s
	}
	return s
}

// said is what goes behind an error: the last lines.
func (e *end) said() string {
	s := strings.TrimSpace(e.String())
	if len(s) > 1000 {
		s = "[...] " + strings.ToValidUTF8(s[len(s)-1000:], "")
	}
	if s == "" {
		return ""
	}
	return "; it said: " + s
}

package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// place is a folder that all processes of a case share: what a run did is in
// it, whoever did it.
type place string

func (p place) file(name ...string) string {
	return filepath.Join(append([]string{string(p)}, name...)...)
}

// prepare makes the folder ready.
func (p place) prepare() error {
	return errors.Join(os.MkdirAll(p.file("effects"), 0o700), os.MkdirAll(p.file("doubled"), 0o700))
}

// actions act in the place. Each looks for what its key made, takes its time,
// and makes it, durably. One that finds then that another has made it meanwhile
// says so in "doubled": it would have been done twice, on a platform that
// doesn't refuse.
func (p place) actions(takes time.Duration, hit kill) dr.Actions {
	act := func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		p.note("call", c)
		hit.at(p, c, "before")
		made := p.file("effects", url.PathEscape(c.Key))
		if _, err := os.Stat(made); err == nil {
			return json.Marshal("found")
		}
		for end := time.Now().Add(takes); time.Now().Before(end); {
			select {
			case <-time.After(min(20*time.Millisecond, takes)):
				c.Beat(dr.Progress{What: "acting"})
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		f, err := os.OpenFile(made, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			return nil, os.WriteFile(p.file("doubled", url.PathEscape(c.Key)), nil, 0o600)
		}
		if err != nil {
			return nil, err
		}
		if err := errors.Join(f.Sync(), f.Close(), syncFolder(p.file("effects"))); err != nil {
			return nil, err
		}
		hit.at(p, c, "after")
		return json.Marshal("made")
	}
	return dr.Actions{"do@1": act, "undo@1": act, "fail@1": func(context.Context, *dr.Call) (json.RawMessage, error) {
		return nil, dr.Permanent(errors.New("broken"))
	}}
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// note adds a line to the journal of the case: when, what, which step.
func (p place) note(what string, c *dr.Call) {
	f, err := os.OpenFile(p.file("notes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	step := ""
	if c != nil {
		step = name(c.Step, c.Undo)
	}
	fmt.Fprintf(f, "%d %s %s\n", time.Now().UnixNano(), what, step)
}

func name(step string, undo bool) string {
	if undo {
		return step + "~"
	}
	return step
}

type noted struct {
	at   time.Time
	what string
	step string
}

func (p place) notes() (all []noted) {
	raw, _ := os.ReadFile(p.file("notes"))
	for line := range strings.Lines(string(raw)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(f) != 3 {
			continue
		}
		ns, _ := strconv.ParseInt(f[0], 10, 64)
		all = append(all, noted{time.Unix(0, ns), f[1], f[2]})
	}
	return all
}

// called tells whether an action was called.
func (p place) called(step string) bool {
	for _, n := range p.notes() {
		if n.what == "call" && n.step == step {
			return true
		}
	}
	return false
}

// calls is how many calls of actions there were.
func (p place) calls() (n int) {
	for _, x := range p.notes() {
		if x.what == "call" {
			n++
		}
	}
	return n
}

// still is the longest time from a fault to the next call of an action.
func (p place) still() time.Duration {
	var worst time.Duration
	var since time.Time
	for _, n := range p.notes() {
		switch {
		case n.what == "fault" && since.IsZero():
			since = n.at
		case n.what == "call" && !since.IsZero():
			worst, since = max(worst, n.at.Sub(since)), time.Time{}
		}
	}
	return worst
}

// kill says where a process kills itself, once: in which action, and whether
// before or after the effect. The zero value never does.
type kill struct {
	Step string `json:",omitempty"`
	When string `json:",omitempty"`
}

func (k kill) at(p place, c *dr.Call, when string) {
	if k.Step == "" || k.Step != name(c.Step, c.Undo) || k.When != when {
		return
	}
	f, err := os.OpenFile(p.file("killed"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return // it was, already
	}
	f.Close()
	p.note("fault", nil)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// The plan of all cases: eight steps with an undo each, side by side where that
// can be, and a gate in the middle. One that fails ends with a step that does.
func plan(fails bool) dr.Plan {
	p := dr.Plan{Flow: "matrix", Rev: 1, Locks: []string{"machine"}}
	add := func(id, action string, after ...string) {
		p.Steps = append(p.Steps, dr.Step{ID: id, Action: action, Undo: "undo@1", After: after})
	}
	add("a", "do@1")
	add("b", "do@1", "a")
	add("c", "do@1", "a")
	add("d", "do@1", "b", "c")
	p.Steps = append(p.Steps, dr.Step{ID: "gate", Gate: "go on?", After: []string{"d"}})
	add("e", "do@1", "gate")
	add("f", "do@1", "e")
	add("g", "do@1", "e")
	add("h", "do@1", "f", "g")
	if fails {
		p.Steps = append(p.Steps, dr.Step{ID: "broken", Action: "fail@1", After: []string{"h"}})
	}
	return p
}

const effectSteps = "abcdefgh"

// wanted are the keys of all effects.
func wanted(run dr.RunID, fails bool) map[string]bool {
	want := map[string]bool{}
	for _, s := range effectSteps {
		want[dr.StepKey(run, string(s), false)] = true
		if fails {
			want[dr.StepKey(run, string(s), true)] = true
		}
	}
	return want
}

// count compares what was done with what should have been.
func (p place) count(run dr.RunID, fails bool) (effects, doubled, lost, foreign int, err error) {
	want := wanted(run, fails)
	made, err := os.ReadDir(p.file("effects"))
	if err != nil {
		return 0, 0, 0, 0, err
	}
	for _, f := range made {
		key, err := url.PathUnescape(f.Name())
		if err != nil || !want[key] {
			foreign++
			continue
		}
		delete(want, key)
		effects++
	}
	twice, err := os.ReadDir(p.file("doubled"))
	return effects, len(twice), len(want), foreign, err
}

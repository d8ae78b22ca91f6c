package enginetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A rival is an engine in another process that shares claims with the one that
// is tested. Requests and replies are lines of JSON on the process's standard
// input and output.

type rivalRequest struct {
	ID      int      `json:"id"`
	Do      string   `json:"do"` // start, approve, wait, state
	Run     dr.RunID `json:"run"`
	Machine string   `json:"machine,omitempty"`
}

type rivalReply struct {
	ID    int         `json:"id"`
	Err   string      `json:"err,omitempty"`
	Busy  bool        `json:"busy,omitempty"`
	State dr.RunState `json:"state,omitempty"`
	Epoch uint64      `json:"epoch,omitempty"`
}

// ServeRival serves o and does what its process is told on in, until in ends. A
// test binary that [Together] starts calls it from its TestMain. dir is the
// folder that all processes of the test share for their effects.
func ServeRival(o dr.Orchestrator, dir string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- o.Serve(ctx, togetherActions(dir)) }()
	var mu sync.Mutex
	var wg sync.WaitGroup
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var q rivalRequest
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			cancel()
			return err
		}
		wg.Go(func() {
			a := answerRival(ctx, o, q)
			mu.Lock()
			defer mu.Unlock()
			_ = json.NewEncoder(out).Encode(a) // who doesn't read it has died
		})
	}
	wg.Wait()
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		return err
	}
	return lines.Err()
}

func answerRival(ctx context.Context, o dr.Orchestrator, q rivalRequest) rivalReply {
	a := rivalReply{ID: q.ID}
	err := func() error {
		switch q.Do {
		case "start":
			return o.Start(ctx, q.Run, togetherPlan(q.Machine))
		case "approve":
			return approve(ctx, o, q.Run)
		}
		var s dr.Status
		var err error
		if s, err = o.Status(ctx, q.Run); q.Do == "wait" && err == nil {
			s, err = dr.Wait(ctx, o, q.Run, nil)
		}
		if errors.Is(err, dr.ErrNotFound) {
			return nil
		}
		if err == nil {
			a.State, a.Epoch = s.State, entered(s)
		}
		return err
	}()
	if err != nil {
		a.Err, a.Busy = err.Error(), errors.Is(err, dr.ErrBusy)
	}
	return a
}

// rival is the process, as the test talks to it.
type rival struct {
	t     T
	start func() *exec.Cmd
	cmd   *exec.Cmd
	in    io.WriteCloser

	mu      sync.Mutex
	n       int
	waiting map[int]chan rivalReply
	gone    chan struct{}
}

// live starts the process, for the first time or anew.
func (r *rival) live() {
	r.cmd = r.start()
	r.cmd.Stderr = os.Stderr
	var err error
	r.in, err = r.cmd.StdinPipe()
	require.NoError(r.t, err)
	out, err := r.cmd.StdoutPipe()
	require.NoError(r.t, err)
	require.NoError(r.t, r.cmd.Start())
	r.mu.Lock()
	r.waiting, r.gone = map[int]chan rivalReply{}, make(chan struct{})
	waiting, gone := r.waiting, r.gone
	r.mu.Unlock()
	go func() {
		defer close(gone)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var a rivalReply
			if json.Unmarshal(lines.Bytes(), &a) != nil {
				continue
			}
			r.mu.Lock()
			c := waiting[a.ID]
			r.mu.Unlock()
			if c != nil {
				c <- a
			}
		}
	}()
}

// kill ends the process as nothing can be prepared for.
func (r *rival) kill() {
	_ = r.cmd.Process.Kill()
	<-r.gone
	_ = r.cmd.Wait()
}

// ask asks, and returns false if the process has died before it answered.
func (r *rival) ask(do string, run dr.RunID, machine string) (rivalReply, bool) {
	r.mu.Lock()
	r.n++
	q, c := rivalRequest{r.n, do, run, machine}, make(chan rivalReply, 1)
	r.waiting[q.ID] = c
	gone := r.gone
	line, err := json.Marshal(q)
	if err == nil {
		_, err = r.in.Write(append(line, '\n'))
	}
	r.mu.Unlock()
	if err != nil {
		return rivalReply{}, false
	}
	select {
	case a := <-c:
		return a, true
	case <-gone:
		return rivalReply{}, false
	case <-time.After(together):
		return rivalReply{Err: "no answer"}, true
	}
}

// togetherPlan enters a machine, waits for a person, and leaves it.
func togetherPlan(machine string) dr.Plan {
	in, _ := json.Marshal(machine) // a string always can be
	return dr.Plan{Flow: "together", Rev: 1, Locks: []string{machine}, Steps: []dr.Step{
		{ID: "enter", Action: "enter@1", Input: in},
		{ID: "g", Gate: "leave?", After: []string{"enter"}},
		{ID: "leave", Action: "leave@1", Input: in, After: []string{"g"}},
	}}
}

// togetherActions make effects that a second run on the same machine would meet.
func togetherActions(dir string) dr.Actions {
	inside := func(c *dr.Call) (string, error) {
		var machine string
		err := json.Unmarshal(c.Input, &machine)
		return filepath.Join(dir, "inside-"+machine), err
	}
	return dr.Actions{
		"enter@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
			name, err := inside(c)
			if err != nil {
				return nil, err
			}
			var epoch uint64
			for _, epoch = range c.Epochs {
			}
			if who, err := os.ReadFile(name); err == nil && string(who) != string(c.Run) {
				note(dir, fmt.Sprintf("%s entered where %s is", c.Run, who))
			}
			// Whole or not at all: it may be killed here.
			if err := os.WriteFile(name+"-"+string(c.Run), []byte(c.Run), 0o600); err != nil {
				return nil, err
			}
			if err := os.Rename(name+"-"+string(c.Run), name); err != nil {
				return nil, err
			}
			return json.Marshal(epoch)
		},
		"leave@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
			name, err := inside(c)
			if err != nil {
				return nil, err
			}
			if who, err := os.ReadFile(name); err == nil && string(who) != string(c.Run) {
				note(dir, fmt.Sprintf("%s left where %s is", c.Run, who))
			}
			if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			return nil, nil
		},
	}
}

// note tells the test of what must not happen.
func note(dir, what string) {
	f, err := os.OpenFile(filepath.Join(dir, "notes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintln(f, what)
		err = f.Close()
	}
	if err != nil {
		panic(err)
	}
}

func approve(ctx context.Context, o dr.Orchestrator, run dr.RunID) error {
	_, err := dr.WaitUntil(ctx, o, run, func(s dr.Status) bool { return s.State == dr.RunWaiting })
	if err != nil {
		return err
	}
	return o.Decide(ctx, run, "g", dr.Decision{Verdict: dr.Approve, By: "test"})
}

// entered is the epoch under which the run entered, or 0.
func entered(s dr.Status) (epoch uint64) {
	st, _ := s.Step("enter")
	_ = json.Unmarshal(st.Result, &epoch)
	return epoch
}

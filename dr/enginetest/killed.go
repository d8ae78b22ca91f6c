package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Killed is work for a process that is killed while it does it: runs whose effects
// are files in a folder. The process calls Work in each of its lives, until one of
// them comes to its end; then Check tells whether each effect was made once.
type Killed struct {
	Dir string // of the effects
	// Runs are how many there are. Every second fails at its last step, and is
	// undone. Steps are how many each has.
	Runs, Steps int
	// Pause is how long an effect takes at most, so that kills hit in the middle; 0:
	// no time.
	Pause time.Duration
}

func (k Killed) effects() string { return filepath.Join(k.Dir, "effects") }

func (k Killed) run(i int) dr.RunID { return dr.RunID(fmt.Sprint("r", i)) }

func (k Killed) fails(i int) bool { return i%2 == 1 }

func (k Killed) plan(i int) dr.Plan {
	p := dr.Plan{Flow: "killed", Locks: []string{fmt.Sprint("m", i)}}
	for s := range k.Steps {
		st := dr.Step{ID: fmt.Sprint("s", s), Action: "do", Undo: "undo"}
		if s > 0 {
			st.After = []string{fmt.Sprint("s", (s-1)/2)}
		}
		p.Steps = append(p.Steps, st)
	}
	if k.fails(i) {
		p.Steps[k.Steps-1].Action = "fail"
	}
	return p
}

// Work serves the engine, starts the runs that are missing, and returns when all
// have ended. It calls up when it may be killed.
func (k Killed) Work(ctx context.Context, o dr.Orchestrator, up func()) error {
	if err := os.MkdirAll(k.effects(), 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- o.Serve(ctx, dr.Actions{"do": k.effect, "undo": k.effect, "fail": func(context.Context, *dr.Call) (json.RawMessage, error) {
			return nil, dr.Permanent(errors.New("broken"))
		}})
	}()
	defer func() { <-served }()
	defer cancel()
	up()
	for i := range k.Runs {
		if err := o.Start(ctx, k.run(i), k.plan(i)); err != nil && !errors.Is(err, dr.ErrRunExists) {
			return err
		}
	}
	for i := range k.Runs {
		if _, err := dr.Wait(ctx, o, k.run(i), nil); err != nil {
			return err
		}
	}
	return nil
}

// effect makes a file that is named after the call's key.
func (k Killed) effect(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	select {
	case <-time.After(rand.N(k.Pause + 1)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := os.OpenFile(filepath.Join(k.effects(), url.PathEscape(c.Key)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, f.Close()
}

// Check tells t what is wrong with what the process left: an end, an effect, or a
// claim, of which each must have been given back.
func (k Killed) Check(t T, o dr.Orchestrator, claims dr.Claims) {
	want := map[string]bool{}
	for i := range k.Runs {
		s, err := o.Status(t.Context(), k.run(i))
		require.NoError(t, err)
		end := dr.RunDone
		if k.fails(i) {
			end = dr.RunFailed
		}
		require.Equal(t, end, s.State, s.Reason)
		for _, st := range k.plan(i).Steps {
			is, _ := s.Step(st.ID)
			if is.Started.IsZero() {
				continue
			}
			if st.Action == "do" {
				want[dr.StepKey(k.run(i), st.ID, false)] = true
			}
			if k.fails(i) {
				want[dr.StepKey(k.run(i), st.ID, true)] = true
			}
		}
		_, err = claims.Acquire(t.Context(), fmt.Sprint("m", i), "check")
		require.NoError(t, err, "the claims were given back")
	}
	got := map[string]bool{}
	files, err := os.ReadDir(k.effects())
	require.NoError(t, err)
	for _, f := range files {
		key, err := url.PathUnescape(f.Name())
		require.NoError(t, err)
		got[key] = true
	}
	require.Equal(t, want, got, "effects")
}

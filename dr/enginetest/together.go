package enginetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Together tests that two engines of different processes, of whatever kinds,
// never hold one machine: mine, in this process, over the same claims as the
// rival, which is what the command runs. The command ends in [ServeRival], with
// the folder dir; it is killed and started again, over the same state.
//
// Together serves mine. It takes a few seconds.
func Together(t *testing.T, mine dr.Orchestrator, dir string, start func() *exec.Cmd) {
	r := &rival{t: t, start: start}
	r.live()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- mine.Serve(ctx, togetherActions(dir)) }()
	defer func() {
		r.kill()
		cancel()
		require.ErrorIs(t, <-served, context.Canceled)
	}()
	p := &pair{t: t, mine: mine, r: r, dir: dir}
	for name, test := range map[string]func(*testing.T){
		"what the rival holds is busy, also once it is killed": p.rivalHolds,
		"what is held here is busy for the rival":              p.mineHolds,
	} {
		t.Run(name, test)
	}
	t.Run("of both who ask at once one gets it, whoever is killed", p.raced)
	notes, err := os.ReadFile(filepath.Join(dir, "notes"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	require.Empty(t, string(notes))
}

type pair struct {
	t    *testing.T
	mine dr.Orchestrator
	r    *rival
	dir  string
}

// must asks the rival what it has to do.
func (p *pair) must(t *testing.T, do string, run dr.RunID, machine string) rivalReply {
	t.Helper()
	a, ok := p.r.ask(do, run, machine)
	require.True(t, ok, "the rival died")
	require.Empty(t, a.Err)
	return a
}

// patient is how long a test may wait for mine.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (p *pair) rivalHolds(t *testing.T) {
	ctx := patient(t)
	p.must(t, "start", "theirs", "m1")
	for _, killed := range []bool{false, true} {
		if killed {
			p.r.kill()
		}
		err := p.mine.Start(ctx, "mine-1", togetherPlan("m1"))
		require.ErrorIs(t, err, dr.ErrBusy)
		require.ErrorContains(t, err, "theirs", "it names the holder")
	}
	p.r.live()
	p.must(t, "approve", "theirs", "")
	theirs := p.must(t, "wait", "theirs", "")
	require.Equal(t, dr.RunDone, theirs.State)
	require.NoError(t, p.mine.Start(ctx, "mine-1", togetherPlan("m1")))
	require.NoError(t, approve(ctx, p.mine, "mine-1"))
	s, err := dr.Wait(ctx, p.mine, "mine-1", nil)
	require.NoError(t, err)
	require.Equal(t, dr.RunDone, s.State)
	require.Greater(t, entered(s), theirs.Epoch, "the epochs are one sequence")
}

func (p *pair) mineHolds(t *testing.T) {
	ctx := patient(t)
	require.NoError(t, p.mine.Start(ctx, "mine-2", togetherPlan("m2")))
	a, ok := p.r.ask("start", "theirs-2", "m2")
	require.True(t, ok)
	require.True(t, a.Busy, a.Err)
	require.Contains(t, a.Err, "mine-2")
	require.NoError(t, approve(ctx, p.mine, "mine-2"))
	s, err := dr.Wait(ctx, p.mine, "mine-2", nil)
	require.NoError(t, err)
	p.must(t, "start", "theirs-2", "m2")
	p.must(t, "approve", "theirs-2", "")
	a = p.must(t, "wait", "theirs-2", "")
	require.Equal(t, dr.RunDone, a.State)
	require.Greater(t, a.Epoch, entered(s))
}

// raced starts a run on each of twenty machines at both engines at once, kills
// the rival on the way, and starts it again. Each machine has one run at its
// gate then, which can end.
func (p *pair) raced(t *testing.T) {
	const machines = 20
	ctx := patient(t)
	name := func(whose string, i int) dr.RunID { return dr.RunID(fmt.Sprint(whose, "-race-", i)) }
	var wg sync.WaitGroup
	killed := make(chan struct{})
	for i := range machines {
		machine := fmt.Sprint("race", i)
		wg.Go(func() {
			err := p.mine.Start(ctx, name("mine", i), togetherPlan(machine))
			if err != nil && !errors.Is(err, dr.ErrBusy) {
				t.Errorf("mine: %v", err)
			}
		})
		wg.Go(func() {
			a, ok := p.r.ask("start", name("theirs", i), machine)
			if !ok {
				<-killed
			} else if a.Err != "" && !a.Busy {
				t.Errorf("theirs: %s", a.Err)
			}
		})
	}
	time.AfterFunc(20*time.Millisecond, func() {
		p.r.kill()
		close(killed)
	})
	wg.Wait()
	<-killed
	p.r.live()
	won := map[string]int{}
	for i := range machines {
		// What was claimed for a run whose Start was cut off is claimed when it is
		// served again, or refused: so the rival's is looked at until it is settled.
		theirs, mine := p.settled(t, name("theirs", i)), dr.RunState("")
		if s, err := p.mine.Status(ctx, name("mine", i)); err == nil && !s.State.Ended() {
			s, err = dr.WaitUntil(ctx, p.mine, name("mine", i), func(s dr.Status) bool { return s.State == dr.RunWaiting })
			require.NoError(t, err)
			mine = s.State
		} else if err != nil {
			require.ErrorIs(t, err, dr.ErrNotFound)
		}
		require.False(t, theirs == dr.RunWaiting && mine == dr.RunWaiting, "machine %d has two holders", i)
		switch {
		case mine == dr.RunWaiting:
			won["mine"]++
			require.NoError(t, approve(ctx, p.mine, name("mine", i)))
			s, err := dr.Wait(ctx, p.mine, name("mine", i), nil)
			require.NoError(t, err)
			require.Equal(t, dr.RunDone, s.State)
		case theirs == dr.RunWaiting:
			won["theirs"]++
			p.must(t, "approve", name("theirs", i), "")
			require.Equal(t, dr.RunDone, p.must(t, "wait", name("theirs", i), "").State)
		default:
			// Each was refused for the other, which had not got it either: only
			// while one of them was claiming, and was killed at that.
			won["nobody"]++
		}
	}
	t.Logf("won: %v", won)
	// Nobody's are free, too.
	for i := range machines {
		again := name("again", i)
		require.NoError(t, p.mine.Start(ctx, again, togetherPlan(fmt.Sprint("race", i))))
		require.NoError(t, p.mine.Cancel(ctx, again, "enough"))
	}
}

// settled is the state of a rival's run that neither claims nor runs a step.
func (p *pair) settled(t *testing.T, run dr.RunID) dr.RunState {
	for range 1000 {
		a := p.must(t, "state", run, "")
		if a.State == "" || a.State == dr.RunWaiting || a.State.Ended() {
			return a.State
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Fail(t, "the run doesn't settle", "%s", run)
	return ""
}

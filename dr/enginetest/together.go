package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	took time.Duration // by a Start of mine
}

// must asks the rival what it has to do.
func (p *pair) must(t *testing.T, do string, run dr.RunID, machine string) rivalReply {
	t.Helper()
	a, ok := p.r.ask(do, run, machine)
	require.True(t, ok, "the rival died")
	require.Empty(t, a.Err)
	return a
}

// together is how long each of the tests, or the rival's answer, may take: both
// engines wait for each other in them, and the rival is started anew.
const together = 6 * patience

// patient is how long a test may wait for mine.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), together)
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
	begun := time.Now()
	require.NoError(t, p.mine.Start(ctx, "mine-2", togetherPlan("m2")))
	p.took = time.Since(begun)
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

// raced starts a run on each of twenty machines at both engines at once, or nearly, kills
// the rival on the way, and starts it again. Each machine has one run at its
// gate then, which can end.
func (p *pair) raced(t *testing.T) {
	const machines = 20
	ctx := patient(t)
	name := func(whose string, i int) dr.RunID { return dr.RunID(fmt.Sprint(whose, "-race-", i)) }
	var wg sync.WaitGroup
	answered, killed := make(chan struct{}, machines), make(chan struct{})
	for i := range machines {
		machine := fmt.Sprint("race", i)
		wg.Go(func() {
			err := p.mine.Start(ctx, name("mine", i), togetherPlan(machine))
			if err != nil && !errors.Is(err, dr.ErrBusy) {
				t.Errorf("mine: %v", err)
			}
		})
		wg.Go(func() {
			if i%2 == 0 {
				time.Sleep(rand.N(machines*p.took + 1)) // one engine is slower than another
			}
			a, ok := p.r.ask("start", name("theirs", i), machine)
			if ok && a.Err != "" && !a.Busy {
				t.Errorf("theirs: %s", a.Err)
			}
			answered <- struct{}{}
		})
	}
	wg.Go(func() {
		defer close(killed)
		for range machines / 2 {
			<-answered
		}
		p.r.kill() // in the middle of the others
	})
	wg.Wait()
	<-killed
	p.r.live()
	won := make(chan string, machines)
	for i := range machines {
		wg.Go(func() {
			who, err := p.finish(ctx, name("theirs", i), name("mine", i))
			if err != nil {
				t.Errorf("machine %d: %v", i, err)
			}
			won <- who
		})
	}
	wg.Wait()
	close(won)
	count := map[string]int{}
	for who := range won {
		count[who]++
	}
	t.Logf("won: %v", count)
	// All are free now, also those that neither got.
	for i := range machines {
		wg.Go(func() {
			again := name("again", i)
			if err := errors.Join(p.mine.Start(ctx, again, togetherPlan(fmt.Sprint("race", i))), p.mine.Cancel(ctx, again, "enough")); err != nil {
				t.Errorf("machine %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// finish lets the one run of the two end that holds the machine, and tells whose
// it is. Neither does if each was refused for the other, which hadn't got it: only
// the rival can have been refused so, in the moment of its death.
func (p *pair) finish(ctx context.Context, theirs, mine dr.RunID) (who string, err error) {
	waits := func(s dr.Status) bool { return s.State == dr.RunWaiting }
	a, err := p.settled(ctx, theirs)
	if err != nil {
		return "", err
	}
	s, err := p.mine.Status(ctx, mine)
	if err == nil && !s.State.Ended() {
		s, err = dr.WaitUntil(ctx, p.mine, mine, waits)
	}
	switch {
	case err != nil && !errors.Is(err, dr.ErrNotFound):
		return "", err
	case a == dr.RunWaiting && waits(s):
		return "both", errors.New("it has two holders")
	case waits(s):
		if err = approve(ctx, p.mine, mine); err == nil {
			s, err = dr.Wait(ctx, p.mine, mine, nil)
		}
		if err == nil && s.State != dr.RunDone {
			err = s.Err()
		}
		return "mine", err
	case a == dr.RunWaiting:
		for _, do := range []string{"approve", "wait"} {
			reply, ok := p.r.ask(do, theirs, "")
			if !ok || reply.Err != "" || do == "wait" && reply.State != dr.RunDone {
				return "theirs", fmt.Errorf("%s: %+v", do, reply)
			}
		}
		return "theirs", nil
	}
	return "nobody", nil
}

// settled is the state of a rival's run that neither claims nor runs a step: what
// was cut off while it claimed is claimed when it is served again, or refused.
func (p *pair) settled(ctx context.Context, run dr.RunID) (dr.RunState, error) {
	for ctx.Err() == nil {
		a, ok := p.r.ask("state", run, "")
		if !ok || a.Err != "" {
			return "", fmt.Errorf("the rival's run %s: %s", run, a.Err)
		}
		if a.State == "" || a.State == dr.RunWaiting || a.State.Ended() {
			return a.State, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("the rival's run %s doesn't settle: %w", run, ctx.Err())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// story plays all the parts.
type story struct {
	client
	program string
	serving *exec.Cmd
}

func demo(ctx context.Context, dir string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "lifeboat-plan"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(dir)
			}
		}()
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s := &story{client: client{dir}, program: program}
	sites, err := s.spawn(ctx, "sites", "sites.json")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end(sites)) }()
	if err := s.serve(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end(s.serving)) }()
	return s.tell(ctx)
}

// spawn starts a part of its own, and waits until it is there.
func (s *story) spawn(ctx context.Context, part, ready string) (*exec.Cmd, error) {
	file := filepath.Join(s.dir, ready)
	_ = os.Remove(file) // of an earlier life
	cmd := exec.Command(s.program, "-dir", s.dir, part)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for range 600 {
		if _, err := os.Stat(file); err == nil {
			return cmd, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), end(cmd))
		}
	}
	return nil, errors.Join(fmt.Errorf("%s doesn't come up", part), end(cmd))
}

func (s *story) serve(ctx context.Context) (err error) {
	s.serving, err = s.spawn(ctx, "serve", "serve.sock")
	return err
}

func end(cmd *exec.Cmd) error {
	_ = cmd.Process.Signal(os.Interrupt)
	done := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer done.Stop()
	return cmd.Wait()
}

// kill is kill -9, and another life.
func (s *story) kill(ctx context.Context) error {
	if err := s.serving.Process.Kill(); err != nil {
		return err
	}
	_ = s.serving.Wait()
	fmt.Println("  (the program that serves was killed; it is started again)")
	return s.serve(ctx)
}

func (s *story) tell(ctx context.Context) error {
	chapter := func(text string) { fmt.Println("\n" + text) }
	chapter("Six machines of a vCenter are protected: their first recovery points are made at Azure.")
	if err := s.protect(ctx, os.Stdout); err != nil {
		return err
	}
	chapter("Dry run of a planned failover: every step, and what it touches.")
	if err := s.dryRun(ctx, recoveryplan.FlowPlanned, os.Stdout); err != nil {
		return err
	}
	chapter("A drill in an isolated network. Production goes on, and everything is removed afterwards.")
	drill, err := s.run(ctx, recoveryplan.FlowDrill, nil)
	if err != nil {
		return err
	}
	page := filepath.Join(os.TempDir(), "lifeboat-drill.html")
	if err := s.report(ctx, drill, page); err != nil {
		return err
	}
	fmt.Println("  its report, for an auditor:", page)
	if err := s.check(ctx, home, nil); err != nil {
		return err
	}
	chapter("Planned failover. The program that runs it is killed on the way, and a person answers from another process.")
	if _, err := s.run(ctx, recoveryplan.FlowPlanned, after("copy")); err != nil {
		return err
	}
	if err := s.check(ctx, away, s.lastAt(ctx, home)); err != nil {
		return err
	}
	for _, flow := range []string{recoveryplan.FlowCommit, recoveryplan.FlowReprotect} {
		chapter("Then: " + flow + ".")
		if _, err := s.run(ctx, flow, nil); err != nil {
			return err
		}
	}
	chapter("Failback, killed on the way, too.")
	if _, err := s.run(ctx, recoveryplan.FlowFailback, after("start")); err != nil {
		return err
	}
	if err := s.check(ctx, home, s.lastAt(ctx, away)); err != nil {
		return err
	}
	for _, flow := range []string{recoveryplan.FlowCommit, recoveryplan.FlowReprotect} {
		chapter("Then: " + flow + ".")
		if _, err := s.run(ctx, flow, nil); err != nil {
			return err
		}
	}
	chapter("The end: all six are at home, and replicate to Azure again.")
	return s.machines(ctx, os.Stdout)
}

// after kills when the first step of that stage has begun.
func after(stage string) func(dr.StepStatus) bool {
	return func(x dr.StepStatus) bool {
		return len(x.ID) > len(stage) && x.ID[:len(stage)+1] == stage+"/" && x.State != dr.StepPending
	}
}

// run starts a flow and sees it to its end. Questions are answered by another
// process; kill says when the serving one is to die.
func (s *story) run(ctx context.Context, flow string, kill func(dr.StepStatus) bool) (string, error) {
	run, err := s.start(ctx, flow)
	if err != nil {
		return run, err
	}
	if kill != nil {
		if err := s.killWhen(ctx, run, kill); err != nil {
			return run, err
		}
	}
	for {
		gate, err := s.watch(ctx, run, os.Stdout)
		if err != nil || gate == "" {
			return run, err
		}
		fmt.Printf("  (another process answers: plan decide %s %s)\n", run, gate)
		cmd := exec.CommandContext(ctx, s.program, "-dir", s.dir, "decide", run, gate)
		if out, err := cmd.CombinedOutput(); err != nil {
			return run, fmt.Errorf("decide: %w: %s", err, out)
		}
	}
}

func (s *story) killWhen(ctx context.Context, run string, when func(dr.StepStatus) bool) error {
	for {
		st, err := s.status(ctx, dr.RunID(run))
		if err != nil {
			return err
		}
		for _, x := range st.Steps {
			if when(x) {
				return s.kill(ctx)
			}
			if x.State == dr.StepWaiting && st.State == dr.RunWaiting {
				if err := s.decide(ctx, run, x.ID, true); err != nil {
					return err
				}
			}
		}
		if st.State.Ended() {
			return fmt.Errorf("run %s ended before it could be killed: %s %s", run, st.State, st.Reason)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lastAt is after which write the machines that are off at a site were stopped.
func (s *story) lastAt(ctx context.Context, site string) map[string]uint64 {
	last := map[string]uint64{}
	all, err := machines(ctx, over(filepath.Join(s.dir, "sites.sock")))
	if err != nil {
		return last
	}
	for _, m := range all {
		if m.Site == site && !m.Running {
			last[m.Name] = max(last[m.Name], m.Writes)
		}
	}
	return last
}

// check expects each of the six to run once, at the site, from a disk of one
// moment; and, if last is given, from the last write of the one that was left.
func (s *story) check(ctx context.Context, site string, last map[string]uint64) error {
	var all []seen
	var err error
	for range 100 { // a guest that was just started takes a moment
		if all, err = machines(ctx, over(filepath.Join(s.dir, "sites.sock"))); err != nil {
			return err
		}
		if err = sound(all, site, last); err == nil {
			fmt.Printf("  checked: all six run at %s, once each, from disks of one moment%s\n", site, lossless(last))
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(err, s.machines(ctx, os.Stdout))
}

func lossless(last map[string]uint64) string {
	if last == nil {
		return ""
	}
	return ", which is that of the last write: nothing was lost"
}

func sound(all []seen, site string, last map[string]uint64) error {
	running := map[string]int{}
	for _, m := range all {
		if !m.Running {
			continue
		}
		running[m.Name]++
		switch {
		case m.Site != site:
			return fmt.Errorf("%s runs at %s", m.Name, m.Site)
		case m.Wrong != "":
			return errors.New(m.Wrong)
		case last != nil && m.Began != last[m.Name]:
			return fmt.Errorf("%s began after write %d, and its last one was %d", m.Name, m.Began, last[m.Name])
		}
	}
	for _, name := range []string{"db1", "db2", "app1", "app2", "web1", "web2"} {
		if running[name] != 1 {
			return fmt.Errorf("%s runs %d times", name, running[name])
		}
	}
	return nil
}

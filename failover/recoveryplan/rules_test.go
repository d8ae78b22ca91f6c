package recoveryplan_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

var errBroken = errors.New("broken")

// breaks fails an operation on one machine.
func breaks(op backendtest.Op, id dr.MachineID) backendtest.Interceptor {
	return func(_ context.Context, c backendtest.Call, do func() error) error {
		if c.Op == op && c.Machine == id {
			return dr.Permanent(errBroken)
		}
		return do()
	}
}

// The rules of the domain for recovery plans, by their names.
func TestRules(t *testing.T) {
	for _, r := range planRules {
		t.Run(r.rule, func(t *testing.T) {
			t.Parallel()
			p := shop()
			if r.plan != nil {
				r.plan(&p)
			}
			w := newWorld(t, p).protect()
			r.check(t, w)
		})
	}
}

var planRules = []struct {
	rule  string
	plan  func(*recoveryplan.Plan)
	check func(*testing.T, *world)
}{
	{"order: shut all down, fail over all in parallel, start group by group in order, parallel inside", nil, func(t *testing.T, w *world) {
		st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunDone, st.State, st.Reason)
		for _, down := range w.plan.Machines() {
			for _, copied := range w.plan.Machines() {
				order(t, st, "open/"+string(down), "copy/"+string(copied))
			}
		}
		for i := 1; i < len(w.plan.Groups); i++ {
			for _, a := range w.plan.Groups[i-1].Machines {
				for _, b := range w.plan.Groups[i].Machines {
					order(t, st, "start/"+string(a.Protection), "start/"+string(b.Protection))
				}
			}
		}
	}},
	{"order: inside a group machines start side by side", nil, func(t *testing.T, w *world) {
		// The one waits for the other to be started, which waits for it.
		var met sync.WaitGroup
		met.Add(2)
		w.intercept(func(_ context.Context, c backendtest.Call, do func() error) error {
			if c.Op == backendtest.OpStart && (c.Machine == "awaymade-1" || c.Machine == "awaymade-2") {
				met.Done()
				met.Wait()
			}
			return do()
		})
		p := w.plan
		p.Groups = p.Groups[:1]
		w.must(recoveryplan.Unplanned(p, w.records(), recoveryplan.Options{}))
	}},
	{"order: machines can be shut down in reverse", func(p *recoveryplan.Plan) { p.ShutdownInReverse = true }, func(t *testing.T, w *world) {
		st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunDone, st.State, st.Reason)
		order(t, st, "open/web1", "open/app1", "open/db1", "copy/web1")
		order(t, st, "start/db1", "start/app1", "start/web1")
	}},
	{"a group starts when its own machines are ready, whatever later ones do", nil, func(t *testing.T, w *world) {
		hold := make(chan struct{})
		w.intercept(func(ctx context.Context, c backendtest.Call, do func() error) error {
			if c.Op == backendtest.OpDraft {
				if at, err := w.hosts[away].Placement(c.Machine); err == nil && at.Key == "replica/web1/away" {
					select {
					case <-hold:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
			return do()
		})
		run := w.start(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{}))
		_, err := dr.WaitUntil(t.Context(), w.engine, run, func(s dr.Status) bool {
			g, _ := s.Step("group/logic/started")
			return g.State == dr.StepDone
		})
		require.NoError(t, err)
		st, err := w.engine.Status(t.Context(), run)
		require.NoError(t, err)
		x, _ := st.Step("start/web1")
		require.Equal(t, dr.StepPending, x.State)
		close(hold)
		require.Equal(t, dr.RunDone, w.wait(run).State)
	}},
	{"a plan goes on past a machine that fails, and reports it", nil, func(t *testing.T, w *world) {
		w.intercept(breaks(backendtest.OpShutdown, "app1"))
		r := w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, 5, r.Count(recoveryplan.Done))
		i := slices.IndexFunc(r.Machines, func(o recoveryplan.Outcome) bool { return o.State == recoveryplan.Failed })
		require.Equal(t, dr.ProtectionID("app1"), r.Machines[i].Protection)
		require.Contains(t, r.Machines[i].Why, "broken")
		require.False(t, r.Whole())
		at := w.running()
		require.Equal(t, hq, at["app1"], "it runs again where it ran")
		require.Equal(t, away, at["web1"])
	}},
	{"a plan of which no machine comes through has failed", nil, func(t *testing.T, w *world) {
		w.intercept(func(_ context.Context, c backendtest.Call, do func() error) error {
			if c.Op == backendtest.OpPrepare {
				return dr.Permanent(errBroken)
			}
			return do()
		})
		st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, "no machine came through")
		require.Contains(t, st.Reason, "broken")
		w.everywhere(hq)
	}},
	{"a later plan skips machines that are there already", nil, func(t *testing.T, w *world) {
		st := w.do(failover.Planned(w.record("db2"), failover.Options{}))
		require.Equal(t, dr.RunDone, st.State, st.Reason)
		was := w.record("db2")
		r := w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, recoveryplan.Skipped, r.Machines[1].State)
		require.Equal(t, "it is at away already", r.Machines[1].Why)
		require.Equal(t, was, w.record("db2"), "untouched")
		require.True(t, r.Whole())
		w.everywhere(away)
		_, err := recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{})
		require.ErrorIs(t, err, dr.ErrNotAllowed)
		require.ErrorContains(t, err, "db1: skipped: it is at away already")
	}},
	{"a machine that has failed is taken by the same plan later", nil, func(t *testing.T, w *world) {
		w.intercept(breaks(backendtest.OpShutdown, "app1"))
		w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		w.intercept(nil)
		r := w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, 1, r.Count(recoveryplan.Done))
		require.Equal(t, 5, r.Count(recoveryplan.Skipped))
		w.everywhere(away)
	}},
	{"a planned failover is refused while the state of one machine forbids it; an unplanned one goes on without it", nil, func(t *testing.T, w *world) {
		require.Equal(t, dr.RunDone, w.do(replicationUnprotect(w, "web2")).State)
		_, err := recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{})
		require.ErrorIs(t, err, dr.ErrNotAllowed)
		require.ErrorContains(t, err, "protection web2")
		r := w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, 5, r.Count(recoveryplan.Done))
		require.Contains(t, r.Machines[5].Why, "state is unprotected")
	}},
	{"a part of a plan can be run alone", nil, func(t *testing.T, w *world) {
		r := w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{Only: []dr.ProtectionID{"web1", "app2"}}))
		require.Len(t, r.Machines, 2)
		at := w.running()
		require.Equal(t, away, at["web1"])
		require.Equal(t, hq, at["web2"])
	}},
	{"a script's failure stops a planned failover, which is taken back whole", func(p *recoveryplan.Plan) {
		p.Groups[1].After = []recoveryplan.Action{{Name: "check", Script: []string{"no"}}}
	}, func(t *testing.T, w *world) {
		w.script("no", "echo the orders table is empty >&2; exit 3")
		was := w.contents()
		st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, "script no: exit status 3; it said: the orders table is empty")
		w.everywhere(hq)
		w.same(was)
		require.Zero(t, w.started())
		for _, p := range w.records() {
			require.Equal(t, dr.Protected, p.State, p.ID)
			require.Empty(t, p.Run)
		}
	}},
	{"a script's failure doesn't stop an unplanned failover", func(p *recoveryplan.Plan) {
		p.Groups[0].Before = []recoveryplan.Action{{Name: "check", Script: []string{"no"}}}
	}, func(t *testing.T, w *world) {
		w.script("no", "exit 1")
		r := w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, []string{"group/data/before/check"}, r.Failed)
		require.Empty(t, r.Stopped)
		w.everywhereBut(away)
	}},
	{"an unplanned failover that is to stop leaves what runs and starts nothing more; run again it goes on", func(p *recoveryplan.Plan) {
		p.Groups[0].After = []recoveryplan.Action{{Name: "check", Callback: "check", OnFailure: recoveryplan.Stop}}
	}, func(t *testing.T, w *world) {
		broken := true
		w.calls["check"] = func(context.Context, recoveryplan.Context) (any, error) {
			if broken {
				return nil, dr.Permanent(errBroken)
			}
			return "fine", nil
		}
		r := w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{Shutdown: true}))
		require.Contains(t, r.Stopped, "group/data/after/check failed")
		require.Equal(t, 2, r.Count(recoveryplan.Done))
		require.Equal(t, 4, r.Count(recoveryplan.NotRun))
		at := w.running()
		require.Equal(t, away, at["db1"])
		require.Equal(t, hq, at["app1"], "what is not started was taken back")
		require.Equal(t, dr.Protected, w.record("web1").State)
		broken = false
		r = w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{Shutdown: true}))
		require.Equal(t, 2, r.Count(recoveryplan.Skipped))
		require.Equal(t, 4, r.Count(recoveryplan.Done))
		w.everywhere(away)
	}},
	{"a machine's failure stops the plan where its group says so", func(p *recoveryplan.Plan) { p.Groups[0].OnFailure = recoveryplan.Stop }, func(t *testing.T, w *world) {
		w.intercept(breaks(backendtest.OpShutdown, "db2"))
		st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunFailed, st.State)
		w.everywhere(hq)
		w.intercept(func(_ context.Context, c backendtest.Call, do func() error) error {
			if at, err := w.hosts[away].Placement(c.Machine); c.Op == backendtest.OpStart && err == nil && at.Key == "replica/db1/away" {
				return dr.Permanent(errBroken)
			}
			return do()
		})
		r := w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{}))
		require.Contains(t, r.Stopped, "start/db1")
		require.Equal(t, 4, r.Count(recoveryplan.NotRun))
	}},
	{"actions are filtered by kind of failover and direction", func(p *recoveryplan.Plan) {
		p.Before = []recoveryplan.Action{
			{Name: "always", Callback: "note"},
			{Name: "planned", Callback: "note", Only: []string{recoveryplan.FlowPlanned}},
			{Name: "home", Callback: "note", Direction: recoveryplan.Home},
			{Name: "drill", Callback: "note", Only: []string{recoveryplan.FlowTest}},
			{Name: "commit", Callback: "note", Only: []string{recoveryplan.FlowCommit}},
		}
	}, func(t *testing.T, w *world) {
		var seen []string
		w.calls["note"] = func(_ context.Context, c recoveryplan.Context) (any, error) {
			seen = append(seen, c.Flow+":"+c.Step)
			return nil, nil
		}
		w.must(recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{}))
		w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
		w.must(recoveryplan.Reprotect(w.plan, w.records(), recoveryplan.Options{}))
		w.must(recoveryplan.Failback(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, []string{
			"drill:before/always", "drill:before/drill", "planned:before/always", "planned:before/planned",
			"commit:before/commit", "failback:before/always", "failback:before/home",
		}, seen)
	}},
	{"a manual action pauses for a person; an answer from anywhere goes on", func(p *recoveryplan.Plan) {
		p.Groups[1].Before = []recoveryplan.Action{{Name: "approve", Manual: "Is the data as it should be?"}}
	}, func(t *testing.T, w *world) {
		run := w.start(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		w.until(run, "group/logic/before/approve")
		at := w.running()
		require.Equal(t, away, at["db1"])
		require.Empty(t, at["app1"], "off, and not yet started")
		st, err := w.engine.Status(t.Context(), run)
		require.NoError(t, err)
		require.Equal(t, dr.RunWaiting, st.State)
		w.approve(run, "group/logic/before/approve")
		require.Equal(t, dr.RunDone, w.wait(run).State)
		w.everywhere(away)
	}},
	{"a manual action that is rejected takes everything back", func(p *recoveryplan.Plan) {
		p.Groups[2].Before = []recoveryplan.Action{{Name: "approve", Manual: "Go live?"}}
	}, func(t *testing.T, w *world) {
		was := w.contents()
		run := w.start(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		w.until(run, "group/front/before/approve")
		require.NoError(t, w.engine.Decide(t.Context(), run, "group/front/before/approve", dr.Decision{Verdict: dr.Reject, By: "anna", Note: "not today"}))
		st := w.wait(run)
		require.Equal(t, dr.RunCancelled, st.State)
		require.Contains(t, st.Reason, "anna: not today")
		w.everywhere(hq)
		w.same(was)
	}},
	{"a manual action nobody answers in time fails by its rule", func(p *recoveryplan.Plan) {
		p.Before = []recoveryplan.Action{{Name: "approve", Manual: "Go?", Timeout: recoveryplan.Duration(time.Millisecond), OnFailure: recoveryplan.Continue}}
	}, func(t *testing.T, w *world) {
		w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
	}},
	{"an action has a timeout, and what it started ends with it", func(p *recoveryplan.Plan) {
		p.Before = []recoveryplan.Action{{Name: "slow", Script: []string{"slow"}, Timeout: recoveryplan.Duration(300 * time.Millisecond)}}
	}, func(t *testing.T, w *world) {
		w.script("slow", "sleep 1000 & echo $! > pid; wait")
		st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, "stopped after 300ms")
		pid, err := os.ReadFile(filepath.Join(w.scripts, "pid"))
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", strings.TrimSpace(string(pid))))
			return err != nil || strings.Contains(string(raw), ") Z ")
		}, time.Minute, 10*time.Millisecond)
	}},
	{"an action can be undone", func(p *recoveryplan.Plan) {
		p.Before = []recoveryplan.Action{{Name: "dns", Callback: "dns", Undo: true}}
		p.After = []recoveryplan.Action{{Name: "check", Callback: "fail"}}
	}, func(t *testing.T, w *world) {
		var seen []string
		w.calls["dns"] = func(_ context.Context, c recoveryplan.Context) (any, error) {
			seen = append(seen, fmt.Sprint(c.Undo, " ", c.Key))
			return nil, nil
		}
		w.calls["fail"] = func(context.Context, recoveryplan.Context) (any, error) { return nil, errBroken }
		run := w.start(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunFailed, w.wait(run).State)
		key := dr.StepKey(run, "before/dns", false)
		require.Equal(t, []string{"false " + key, "true " + key}, seen)
	}},
	{"what a plan needs and the process lacks is refused before anything is touched", func(p *recoveryplan.Plan) {
		p.Before = []recoveryplan.Action{{Name: "dns", Callback: "dns"}, {Name: "lb", Script: []string{"../lb"}}}
		p.Before = p.Before[:1]
		p.After = []recoveryplan.Action{{Name: "lb", Script: []string{"lb"}}}
	}, func(t *testing.T, w *world) {
		st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, dr.RunFailed, st.State)
		require.Contains(t, st.Reason, `callback "dns" is not registered`)
		require.Contains(t, st.Reason, `script "lb"`)
		w.everywhere(hq)
	}},
	{"cancel takes back every machine, finished or not", nil, func(t *testing.T, w *world) {
		was := w.contents()
		reached := make(chan struct{})
		var once sync.Once
		w.intercept(func(ctx context.Context, c backendtest.Call, do func() error) error {
			if c.Op == backendtest.OpStart && strings.HasPrefix(string(c.Machine), "awaymade") && w.started() >= 3 {
				once.Do(func() { close(reached) })
				<-ctx.Done()
				return ctx.Err()
			}
			return do()
		})
		run := w.start(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		<-reached
		w.intercept(nil)
		require.NoError(t, w.engine.Cancel(t.Context(), run, "the site is back"))
		st := w.wait(run)
		require.Equal(t, dr.RunCancelled, st.State, st.Reason)
		require.NotContains(t, st.Reason, "undoing")
		w.everywhere(hq)
		w.same(was)
		require.Zero(t, w.started())
	}},
	{"a drill cleans up also when a check has failed, and says what failed", func(p *recoveryplan.Plan) {
		p.Groups[1].Health = []recoveryplan.Health{{Name: "answers", Callback: "never", Timeout: recoveryplan.Duration(time.Millisecond)}}
	}, func(t *testing.T, w *world) {
		w.calls["never"] = func(context.Context, recoveryplan.Context) (any, error) { return nil, errBroken }
		r := w.must(recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, []string{"group/logic/health/answers"}, r.Failed)
		require.False(t, r.Whole())
		require.Empty(t, r.Left)
		require.Empty(t, w.all(away))
	}},
	{"a drill whose clean-up fails says what is left", nil, func(t *testing.T, w *world) {
		w.intercept(breaks(backendtest.OpRemove, "awaymade-1"))
		r := w.must(recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{}))
		require.Len(t, r.Left, 1)
		require.NotNil(t, w.record(r.Left[0]).Test)
		require.Len(t, w.all(away), 1)
		w.intercept(nil)
		stuck := dr.RunID(fmt.Sprintf("%02d-%s/%s/back-1", w.runs, recoveryplan.Flow(recoveryplan.FlowDrill), r.Left[0]))
		require.NoError(t, w.engine.Decide(t.Context(), stuck, failover.StepRemove, dr.Decision{Verdict: dr.Retry, By: "anna"}))
		require.Equal(t, dr.RunDone, w.wait(stuck).State)
		require.Empty(t, w.all(away))
	}},
	{"health: the next group waits until a group serves", func(p *recoveryplan.Plan) {
		p.Groups[0].Health = []recoveryplan.Health{{Name: "ready", Machine: "db1", Callback: "ready"}}
	}, func(t *testing.T, w *world) {
		asked := 0
		w.calls["ready"] = func(_ context.Context, c recoveryplan.Context) (any, error) {
			asked++
			require.Equal(t, away, c.Machines[0].At.Site)
			require.Empty(t, w.running()["app1"])
			if asked < 2 {
				return nil, errBroken
			}
			return "ready for connections", nil
		}
		w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, 2, asked)
	}},
	{"health: a machine that failed is not waited for, and the plan goes on past it", func(p *recoveryplan.Plan) {
		p.Groups[0].Health = []recoveryplan.Health{{Name: "ready", Machine: "db1", Callback: "never"}}
	}, func(t *testing.T, w *world) {
		w.calls["never"] = func(context.Context, recoveryplan.Context) (any, error) { return nil, errBroken }
		w.intercept(breaks(backendtest.OpShutdown, "db1"))
		r := w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, 5, r.Count(recoveryplan.Done))
		require.Equal(t, []string{"group/data/health/ready"}, r.NotRun)
	}},
	{"a drill that failed and left something is cleaned up by the same run", nil, func(t *testing.T, w *world) {
		var once sync.Once
		w.intercept(func(_ context.Context, c backendtest.Call, do func() error) error {
			fail := c.Op == backendtest.OpStart && c.Machine == "awaymade-1"
			if c.Op == backendtest.OpRemove && c.Machine == "awaymade-1" {
				once.Do(func() { fail = true }) // its own undo fails, and the clean-up doesn't
			}
			if fail {
				return dr.Permanent(errBroken)
			}
			return do()
		})
		r := w.must(recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{}))
		require.Equal(t, 1, r.Count(recoveryplan.Failed))
		require.Empty(t, r.Left)
		require.Empty(t, w.all(away))
	}},
	{"multi-VM: a group takes its latest common point, the others the latest processed", nil, func(t *testing.T, w *world) {
		common := w.group("db1", "app1")
		for _, id := range w.plan.Machines() {
			w.write(hq, dr.MachineID(id))
			_, err := w.env.Replicate(t.Context(), id, dr.CrashConsistent, nil)
			require.NoError(t, err)
		}
		r := w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{Point: recoverypoint.LatestMultiVMProcessed}))
		for _, m := range r.Machines {
			want := w.record(m.Protection).Last.ID
			if m.Protection == "db1" || m.Protection == "app1" {
				want = common[m.Protection]
			}
			require.Equal(t, want, m.Report.Point.ID, m.Protection)
			require.NotContains(t, fmt.Sprint(w.record(m.Protection).Pins), "plan/", "the plan has let go of it")
		}
	}},
	{"multi-VM: a group without a common point is reported, and the others go on", nil, func(t *testing.T, w *world) {
		w.inGroup("db1", "app1")
		r := w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{Point: recoverypoint.LatestMultiVMProcessed}))
		require.Equal(t, 4, r.Count(recoveryplan.Done))
		require.Contains(t, r.Machines[0].Why, "no common moment")
	}},
	{"custom points are for one machine, never for a plan", nil, func(t *testing.T, w *world) {
		_, err := recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{Point: recoverypoint.Custom})
		require.ErrorIs(t, err, dr.ErrInvalid)
	}},
	{"failback: every machine needs a recovery point", nil, func(t *testing.T, w *world) {
		w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
		_, err := recoveryplan.Failback(w.plan, w.records(), recoveryplan.Options{})
		require.ErrorIs(t, err, dr.ErrNotAllowed)
		require.ErrorContains(t, err, "needs at least one")
	}},
	{"a replication group reprotects to one target", nil, func(t *testing.T, w *world) {
		w.inGroup("db1", "app1")
		w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
		rs := w.records()
		for i := range rs {
			if rs[i].ID == "app1" {
				rs[i].Standby.Site = "elsewhere"
			}
		}
		_, err := recoveryplan.Reprotect(w.plan, rs, recoveryplan.Options{})
		require.ErrorContains(t, err, "a group has one target site")
	}},
	{"a replication group reprotects together", nil, func(t *testing.T, w *world) {
		w.inGroup("db1", "app1")
		w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
		w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
		_, err := recoveryplan.Reprotect(w.plan, w.records(), recoveryplan.Options{Only: []dr.ProtectionID{"db1", "db2"}})
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.ErrorContains(t, err, "missing: app1")
		w.must(recoveryplan.Reprotect(w.plan, w.records(), recoveryplan.Options{}))
	}},
	{"two runs of one plan don't run at once", nil, func(t *testing.T, w *world) {
		p, err := recoveryplan.Test(w.plan, w.records(), recoveryplan.Options{})
		require.NoError(t, err)
		hold := make(chan struct{})
		w.intercept(func(ctx context.Context, c backendtest.Call, do func() error) error {
			select {
			case <-hold:
			case <-ctx.Done():
			}
			return do()
		})
		run := w.start(p, nil)
		require.ErrorIs(t, w.engine.Start(t.Context(), "second", p), dr.ErrBusy)
		close(hold)
		require.Equal(t, dr.RunDone, w.wait(run).State)
	}},
}

func replicationUnprotect(w *world, id dr.ProtectionID) (dr.Plan, error) {
	return unprotect(w.record(id))
}

// started counts the machines that run away.
func (w *world) started() (n int) {
	for _, m := range w.all(away) {
		if m.Power == dr.On {
			n++
		}
	}
	return n
}

// everywhereBut is everywhere where the former machines run on, as their site
// was not asked to shut them down.
func (w *world) everywhereBut(site string) {
	w.Helper()
	for _, p := range w.records() {
		require.Equal(w, site, p.Active.Site)
		m, err := w.hosts[site].Machine(w.Context(), p.Active.Machine)
		require.NoError(w, err)
		require.Equal(w, dr.On, m.Power)
	}
}

// script writes a program into the scripts' folder.
func (w *world) script(name, text string) {
	w.Helper()
	if w.scripts == "" {
		w.scripts = w.TempDir()
		w.end()
		w.open()
	}
	require.NoError(w, os.WriteFile(filepath.Join(w.scripts, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700))
}

func (w *world) inGroup(ids ...dr.ProtectionID) {
	for _, id := range ids {
		_, err := w.env.Amend(w.Context(), id, func(p *dr.Protection) error { p.Group = "orders"; return nil })
		require.NoError(w, err)
	}
}

package jobs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/health"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func steps(states ...dr.StepState) (all []dr.StepStatus) {
	for i, s := range states {
		st := dr.StepStatus{ID: fmt.Sprintf("s%d", i), Action: "a@1", State: s, Attempt: 1, Started: noon}
		if s == dr.StepFailed || s == dr.StepStuck || s == dr.StepUndoFailed {
			st.Err = "boom"
		}
		all = append(all, st)
	}
	return all
}

// constants lists the values of package dr's constants of a type.
func constants(t *testing.T, typ string) (all []string) {
	tree, err := parser.ParseFile(token.NewFileSet(), "../orchestrator.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(tree, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Type == nil {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == typ {
			s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			all = append(all, s)
		}
		return true
	})
	require.NotEmpty(t, all)
	return all
}

// rules.md: "Jobs: NotStarted, InProgress, Waiting (for a manual action, for
// clean-up, for completion), Completed, CompletedWithInformation,
// PartiallySucceeded, Failed, Cancelling, Cancelled". A row for each way to
// come to each of them.
func TestJobStates(t *testing.T) {
	child := func(states ...dr.RunState) Options {
		return Options{
			Children: func(s dr.Status, st dr.StepStatus) (ids []dr.RunID) {
				if s.Run == "" && st.ID == "s0" {
					for i := range states {
						ids = append(ids, dr.RunID(strconv.Itoa(i)))
					}
				}
				return ids
			},
			Child: func(id dr.RunID) (dr.Status, bool) {
				i, _ := strconv.Atoi(string(id))
				s := dr.Status{Run: id, State: states[i], Steps: steps(dr.StepDone)}
				if s.State == dr.RunWaiting {
					s.Steps = steps(dr.StepWaiting)
				}
				return s, states[i] != ""
			},
		}
	}
	record := func(p dr.Protection) Options {
		return Options{Record: func(id dr.ProtectionID) (dr.Protection, bool) { return p, id == "web" }}
	}
	locks := []string{"protection/web"}
	seen := map[State]bool{}
	runs := map[dr.RunState]bool{}
	for _, c := range []struct {
		name string
		s    dr.Status
		o    Options
		want State
		wait Wait
	}{
		{"nothing has begun", dr.Status{State: dr.RunRunning, Steps: steps(dr.StepPending, dr.StepPending)}, Options{}, NotStarted, ""},
		{"running", dr.Status{State: dr.RunRunning, Steps: steps(dr.StepDone, dr.StepRunning)}, Options{}, InProgress, ""},
		{"between two steps", dr.Status{State: dr.RunRunning, Steps: steps(dr.StepDone, dr.StepPending)}, Options{}, InProgress, ""},
		{"a gate is open beside a step", dr.Status{State: dr.RunRunning, Steps: steps(dr.StepRunning, dr.StepWaiting)}, Options{}, InProgress, ""},
		{"a gate", dr.Status{State: dr.RunWaiting, Steps: steps(dr.StepDone, dr.StepWaiting)}, Options{}, Waiting, ManualAction},
		{"the gate of a second phase", dr.Status{State: dr.RunWaiting, Steps: steps(dr.StepDone, dr.StepWaiting)},
			Options{Waits: func(_ dr.Status, st dr.StepStatus) Wait { return map[string]Wait{"s1": Completion}[st.ID] }}, Waiting, Completion},
		{"stuck", dr.Status{State: dr.RunStuck, Steps: steps(dr.StepDone, dr.StepStuck)}, Options{}, Waiting, ManualAction},
		{"a drill that was not cleaned up", dr.Status{Run: "r", State: dr.RunDone, Locks: locks, Steps: steps(dr.StepDone)},
			record(dr.Protection{Test: &dr.TestFailover{Run: "r"}}), Waiting, CleanUp},
		{"another drill that was not", dr.Status{Run: "q", State: dr.RunDone, Locks: locks, Steps: steps(dr.StepDone)},
			record(dr.Protection{Test: &dr.TestFailover{Run: "r"}}), Completed, ""},
		{"a failover that was not committed", dr.Status{Run: "r", State: dr.RunDone, Locks: locks, Steps: steps(dr.StepDone)},
			record(dr.Protection{State: dr.FailedOver, Failover: &dr.Failover{Run: "r"}}), Waiting, Completion},
		{"one that was", dr.Status{Run: "r", State: dr.RunDone, Locks: locks, Steps: steps(dr.StepDone)},
			record(dr.Protection{State: dr.Committed, Failover: &dr.Failover{Run: "r"}}), Completed, ""},
		{"done", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone, dr.StepDone)}, Options{}, Completed, ""},
		{"an optional step failed", dr.Status{State: dr.RunDone, Steps: steps(dr.StepFailed, dr.StepDone)}, Options{}, CompletedWithInformation, ""},
		{"a person skipped a step", dr.Status{State: dr.RunDone, Steps: steps(dr.StepSkipped, dr.StepDone)}, Options{}, CompletedWithInformation, ""},
		{"the finish result says so", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone)}, Options{Partial: func(dr.Status) bool { return true }}, PartiallySucceeded, ""},
		{"a child failed", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone, dr.StepDone)}, child(dr.RunDone, dr.RunFailed), PartiallySucceeded, ""},
		{"a child was cancelled", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone, dr.StepDone)}, child(dr.RunCancelled, dr.RunDone), PartiallySucceeded, ""},
		{"every child failed", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone)}, child(dr.RunFailed, dr.RunFailed), Failed, ""},
		{"every child succeeded", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone)}, child(dr.RunDone, dr.RunDone), Completed, ""},
		{"a child waits", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone)}, child(dr.RunDone, dr.RunWaiting), Waiting, ManualAction},
		{"a child goes on", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone)}, child(dr.RunDone, dr.RunRunning), InProgress, ""},
		{"children were purged", dr.Status{State: dr.RunDone, Steps: steps(dr.StepDone)}, child("", ""), Completed, ""},
		{"failed", dr.Status{State: dr.RunFailed, Ending: dr.RunFailed, Steps: steps(dr.StepUndone, dr.StepFailed)}, Options{}, Failed, ""},
		{"being undone after a failure", dr.Status{State: dr.RunUndoing, Ending: dr.RunFailed, Steps: steps(dr.StepUndoing, dr.StepFailed)}, Options{}, InProgress, ""},
		{"being cancelled", dr.Status{State: dr.RunUndoing, Ending: dr.RunCancelled, Steps: steps(dr.StepUndoing, dr.StepPending)}, Options{}, Cancelling, ""},
		{"cancelled", dr.Status{State: dr.RunCancelled, Ending: dr.RunCancelled, Steps: steps(dr.StepUndone, dr.StepPending)}, Options{}, Cancelled, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := Of(c.s, c.o)
			require.Equal(t, c.want, j.State)
			require.Equal(t, c.wait, j.Waits)
			require.Equal(t, j, Of(c.s, c.o), "it is pure")
			seen[j.State], runs[c.s.State] = true, true
			if j.State == Failed || j.State == PartiallySucceeded || c.s.State == dr.RunStuck {
				require.NotEmpty(t, j.Errors)
			} else {
				require.Empty(t, j.Errors)
			}
		})
	}
	require.Len(t, seen, 9, "every state can be come to")
	for _, s := range constants(t, "RunState") {
		require.True(t, runs[dr.RunState(s)], "run state %s has no row", s)
	}
}

func TestTaskStates(t *testing.T) {
	want := map[dr.StepState]State{
		dr.StepPending: NotStarted, dr.StepRunning: InProgress, dr.StepWaiting: Waiting, dr.StepDone: Completed, dr.StepFailed: Failed,
		dr.StepSkipped: CompletedWithInformation, dr.StepStuck: Waiting, dr.StepUndoing: Cancelling, dr.StepUndone: Cancelled, dr.StepUndoFailed: Failed,
	}
	all := constants(t, "StepState")
	require.Len(t, all, len(want))
	for _, s := range all {
		require.NotEmpty(t, want[dr.StepState(s)], s)
		task := Of(dr.Status{State: dr.RunRunning, Steps: steps(dr.StepState(s))}, Options{}).Tasks[0]
		require.Equal(t, want[dr.StepState(s)], task.State, s)
		require.Equal(t, task.State == Waiting, task.Waits == ManualAction, s)
	}
	require.Equal(t, InProgress, Of(dr.Status{Steps: steps("of tomorrow")}, Options{}).Tasks[0].State)
}

func TestErrorsOfTasks(t *testing.T) {
	for state, want := range map[dr.StepState]string{
		dr.StepFailed: "warning step-failed", dr.StepStuck: "critical step-stuck", dr.StepUndoFailed: "critical undo-failed",
		dr.StepRunning: "warning step-retried", dr.StepDone: "",
	} {
		s := dr.Status{Run: "r", State: dr.RunRunning, Steps: steps(state)}
		if state == dr.StepRunning {
			s.Steps[0].Err = "hiccup"
		}
		e := Of(s, Options{}).Tasks[0].Errors
		if want == "" {
			require.Empty(t, e)
			continue
		}
		require.Equal(t, want, e[0].Level.String()+" "+e[0].Code)
		require.Equal(t, noon, e[0].Time)
		require.NotEmpty(t, e[0].RecommendedAction)
	}
	j := Of(dr.Status{Run: "r", Flow: "f", State: dr.RunFailed, Reason: "step s1: boom", Ended: noon, Steps: steps(dr.StepUndone, dr.StepFailed)}, Options{})
	require.Equal(t, "step s1: boom", j.Errors[0].Message)
	require.Equal(t, health.Entity{Kind: "run", ID: "r", Name: "f"}, j.Errors[0].Entity)
	require.Len(t, j.Errors[0].Inner, 1)
	require.Equal(t, "boom", j.Errors[0].Inner[0].Message)
}

// plan is the status of a plan's run of so many machines, each a run of ten
// steps that is copying two disks.
func plan(machines int) (dr.Status, Options) {
	parent := dr.Status{Run: "plan", Flow: "plan", State: dr.RunRunning, Started: noon}
	for i := range machines {
		parent.Steps = append(parent.Steps, dr.StepStatus{ID: fmt.Sprintf("m%d", i), Action: "plan.machine@1", State: dr.StepRunning, Started: noon})
	}
	return parent, Options{
		Now: noon.Add(time.Minute),
		Children: func(s dr.Status, st dr.StepStatus) []dr.RunID {
			if s.Run != "plan" {
				return nil
			}
			return []dr.RunID{s.Run + "." + dr.RunID(st.ID)}
		},
		Child: func(id dr.RunID) (dr.Status, bool) {
			if id == "plan.m0" { // not started yet
				return dr.Status{}, false
			}
			s := dr.Status{Run: id, Flow: "planned-failover", State: dr.RunRunning, Started: noon, Locks: []string{"protection/" + string(id)}}
			for i := range 10 {
				st := dr.StepStatus{ID: fmt.Sprintf("s%d", i), Action: "a@1", State: dr.StepDone, Started: noon, Ended: noon}
				if i == 6 {
					st.State = dr.StepRunning
					st.Progress = []dr.Progress{{What: "copying", Disk: "a", Done: 50, Total: 100, Rate: 4}, {What: "copying", Disk: "b", Done: 30, Total: 60, Rate: 1}}
				} else if i > 6 {
					st.State = dr.StepPending
				}
				s.Steps = append(s.Steps, st)
			}
			return s, true
		},
	}
}

func TestTreeOfAPlan(t *testing.T) {
	j := Of(plan(3))
	require.Equal(t, InProgress, j.State)
	require.Equal(t, time.Minute, j.Took)
	require.Equal(t, 1+2*10, j.Progress.Steps, "of the run that is not there only its step is known")
	require.Equal(t, 12, j.Progress.StepsDone)
	require.Equal(t, int64(160), j.Progress.Done)
	require.Equal(t, int64(320), j.Progress.Total)
	require.InDelta(t, 10, j.Progress.Rate, 0)
	require.Equal(t, 16*time.Second, j.Progress.AtMost, "80 bytes of each machine at 5 a second, side by side")
	require.True(t, j.Tasks[0].Jobs[0].Missing)
	require.Equal(t, InProgress, j.Tasks[0].Jobs[0].State)
	c := j.Tasks[2].Jobs[0]
	require.Equal(t, dr.RunID("plan"), c.Parent)
	require.Equal(t, []dr.ProtectionID{"plan.m2"}, c.Protections)
	require.True(t, j.about("plan.m2"))
	require.False(t, j.about("plan.m0"))
	_, err := json.Marshal(j)
	require.NoError(t, err)
}

// The steps of a recovery plan drive a machine's run up to a gate, let it go
// on, wait for its end: it is one job nevertheless. Gates that the plan answers
// ask nothing of a person.
func TestSeveralStepsDriveOneRun(t *testing.T) {
	parent := dr.Status{Run: "plan", State: dr.RunRunning, Steps: steps(dr.StepDone, dr.StepRunning, dr.StepPending)}
	child := dr.Status{Run: "web", State: dr.RunWaiting, Steps: steps(dr.StepDone, dr.StepWaiting)}
	o := Options{
		Children: func(s dr.Status, _ dr.StepStatus) []dr.RunID {
			if s.Run == "plan" {
				return []dr.RunID{"web"}
			}
			return nil
		},
		Child: func(dr.RunID) (dr.Status, bool) { return child, true },
		Waits: func(s dr.Status, _ dr.StepStatus) Wait {
			if s.Run == "web" {
				return OtherRuns
			}
			return ""
		},
	}
	j := Of(parent, o)
	first, second := j.Tasks[0].Jobs[0], j.Tasks[1].Jobs[0]
	require.Len(t, first.Tasks, 2)
	require.True(t, second.Repeated)
	require.Empty(t, second.Tasks)
	require.Equal(t, []State{InProgress, InProgress, InProgress}, []State{first.State, second.State, first.Tasks[1].State})
	require.Equal(t, OtherRuns, first.Waits)
	require.Equal(t, []Control{MayCancel}, first.Controls)
	require.Equal(t, 2+2, j.Progress.Steps, "the child's, and those that only go on with it")
	require.Equal(t, 1, j.Progress.StepsDone)
	var out bytes.Buffer
	require.NoError(t, WriteCSV(&out, these(j)))
	require.Equal(t, 1+3+2, strings.Count(out.String(), "\r\n"), "each task once")

	child.State, child.Steps = dr.RunFailed, steps(dr.StepFailed)
	parent.State, parent.Steps = dr.RunDone, steps(dr.StepDone, dr.StepDone)
	j = Of(parent, o)
	require.Equal(t, Failed, j.State, "its only machine failed")
	require.Len(t, j.Errors[0].Inner, 1)
}

// What names itself as its child must not hang a console.
func TestRunsInACircle(t *testing.T) {
	s := dr.Status{Run: "r", State: dr.RunDone, Steps: steps(dr.StepDone)}
	j := Of(s, Options{
		Children: func(s dr.Status, _ dr.StepStatus) []dr.RunID { return []dr.RunID{s.Run, s.Run + "x"} },
		Child:    func(id dr.RunID) (dr.Status, bool) { c := s; c.Run = id; return c, true },
	})
	require.True(t, j.Tasks[0].Jobs[0].Missing)
	depth := 0
	for len(j.Tasks) > 0 {
		j = j.Tasks[0].Jobs[1]
		depth++
	}
	require.Equal(t, maxDepth, depth)
}

func TestForecasts(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks []dr.Progress
		total int64
		want  time.Duration
	}{
		{"two disks", []dr.Progress{{Done: 10, Total: 20, Rate: 1}, {Done: 10, Total: 40, Rate: 3}}, 60, 10 * time.Second},
		{"a disk that is done has no rate any more", []dr.Progress{{Done: 20, Total: 20, Rate: 100}, {Done: 10, Total: 40, Rate: 3}}, 60, 10 * time.Second},
		{"nothing travels", []dr.Progress{{Done: 10, Total: 20}}, 20, 0},
		{"nobody knows how much", []dr.Progress{{Done: 10, Rate: 1}, {Done: 10, Total: 40, Rate: 3}}, 0, 0},
		{"more than all", []dr.Progress{{Done: 50, Total: 40, Rate: 3}}, 0, 0},
		{"years", []dr.Progress{{Done: 1, Total: 1 << 50, Rate: 1}}, 1 << 50, 0},
		{"words only", []dr.Progress{{What: "waiting for the guest"}}, 0, 0},
		{"done", []dr.Progress{{Done: 20, Total: 20, Rate: 5}}, 20, 0},
	} {
		s := dr.Status{State: dr.RunRunning, Steps: steps(dr.StepRunning)}
		s.Steps[0].Progress = c.disks
		p := Of(s, Options{}).Progress
		require.Equal(t, c.want, p.AtMost, c.name)
		require.Equal(t, c.total, p.Total, c.name)
	}
}

// BenchmarkTree is a console's look at a plan of a hundred machines.
func BenchmarkTree(b *testing.B) {
	s, o := plan(100)
	b.ReportAllocs()
	for b.Loop() {
		Of(s, o)
	}
}

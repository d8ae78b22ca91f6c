package dr

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write what the traces in testdata/run come to")

// The traces in testdata/run are recorded histories: a plan, then events, and
// after each block of them what the fold makes of it. They also hold later
// revisions of the fold to what this one decided.
//
//	plan               one step a line: ID [after=a,b] [gate] [undo] [no-return] [optional] [attempts=n] [timeout=d]
//	<kind> [step] ...  an event: attempt=n, undo, final, err="…", data=…, verdict=…, by=…
//	begin              everything that Next asks for and that is not begun yet
//	resume             everything that Next asks for, also what is open: as after a death
//	restart            the journal so far is encoded, decoded and applied anew
//	decide, cancel     what a person asks, as Run.Decide and Run.Cancel answer
//	----               what follows is the outcome, up to an empty line
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/run/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			require.NoError(t, err)
			got := (&trace{t: t}).replay(string(want))
			if *update {
				require.NoError(t, os.WriteFile(f, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(want), got, "go test ./dr -run TestTraces -update writes it anew")
		})
	}
}

type trace struct {
	t       *testing.T
	plan    Plan
	run     *Run
	journal []Event
	clock   time.Time
	says    []string // what the commands of this block answered
}

func (tr *trace) do(line string) {
	f := fields(line)
	tr.clock = tr.clock.Add(time.Second)
	switch f[0] {
	case "begin":
		for _, task := range tr.run.Next() {
			if (task.Kind == TaskDo || task.Kind == TaskUndo) && !task.Open {
				tr.apply(task.Begin(tr.clock))
			}
			if task.Kind == TaskGate && task.Opened.IsZero() {
				tr.apply(Event{Kind: EventOpened, Step: task.Step.ID, At: tr.clock})
			}
		}
	case "resume": // as an engine that has nothing in hand
		for _, task := range tr.run.Next() {
			if task.Kind == TaskDo || task.Kind == TaskUndo {
				tr.apply(task.Begin(tr.clock))
			}
		}
	case "restart":
		b, err := json.Marshal(tr.journal)
		require.NoError(tr.t, err)
		var again []Event
		require.NoError(tr.t, json.Unmarshal(b, &again))
		tr.run = NewRun("r", tr.plan)
		for _, e := range again {
			require.NoError(tr.t, tr.run.Apply(e))
		}
	case "decide":
		e, err := tr.run.Decide(f[1], Decision{Verdict: Verdict(f[2]), By: f[3]}, tr.clock)
		tr.asked(e, err)
	case "cancel":
		e, err := tr.run.Cancel(f[1], tr.clock)
		tr.asked(e, err)
	default:
		tr.apply(tr.event(f))
	}
}

func (tr *trace) asked(e *Event, err error) {
	switch {
	case err != nil:
		tr.says = append(tr.says, "error: "+err.Error())
	case e == nil:
		tr.says = append(tr.says, "nothing to record")
	default:
		tr.apply(*e)
	}
}

func (tr *trace) apply(e Event) {
	if err := tr.run.Apply(e); err != nil {
		tr.says = append(tr.says, "error: "+err.Error())
		return
	}
	tr.journal = append(tr.journal, e)
}

func (tr *trace) event(f []string) Event {
	e := Event{Kind: EventKind(f[0]), At: tr.clock}
	for _, a := range f[1:] {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "attempt":
			e.Attempt, _ = strconv.Atoi(v)
		case "undo":
			e.Undo = true
		case "final":
			e.Final = true
		case "err":
			e.Err = v
		case "data":
			e.Data = json.RawMessage(v)
		default:
			e.Step = a
		}
	}
	return e
}

func (tr *trace) parseStep(line string) {
	f := fields(line)
	s := Step{ID: f[0], Action: "do@1"}
	for _, a := range f[1:] {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "after":
			s.After = strings.Split(v, ",")
		case "gate":
			s.Action, s.Gate = "", s.ID+"?"
		case "undo":
			s.Undo = "undo@1"
		case "no-return":
			s.NoReturn = true
		case "optional":
			s.Optional = true
		case "attempts":
			s.Attempts, _ = strconv.Atoi(v)
		case "timeout":
			s.Timeout, _ = time.ParseDuration(v)
		default:
			tr.t.Fatalf("step %q: %q?", line, a)
		}
	}
	tr.plan.Steps = append(tr.plan.Steps, s)
}

// replay runs the text and returns it with the outcomes as they are.
func (tr *trace) replay(text string) string {
	tr.plan.Flow = "trace"
	tr.clock = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var out strings.Builder
	planning, outcome := false, false
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if outcome {
			if line == "" {
				outcome = false
				fmt.Fprintln(&out)
			}
			continue
		}
		fmt.Fprintln(&out, line)
		switch {
		case line == "" && planning:
			planning = false
			require.NoError(tr.t, tr.plan.Validate())
			tr.run = NewRun("r", tr.plan)
		case line == "" || strings.HasPrefix(line, "#"):
		case line == "plan":
			planning = true
		case planning:
			tr.parseStep(line)
		case line == "----":
			outcome = true
			tr.tell(&out)
		default:
			tr.do(line)
		}
	}
	return out.String()
}

// tell writes what the fold makes of it.
func (tr *trace) tell(out *strings.Builder) {
	for _, s := range tr.says {
		fmt.Fprintln(out, s)
	}
	tr.says = nil
	s := tr.run.Status()
	fmt.Fprintf(out, "%s", s.State)
	if s.Reason != "" {
		fmt.Fprintf(out, " (%s)", s.Reason)
	}
	fmt.Fprintln(out)
	for _, st := range s.Steps {
		fmt.Fprintf(out, "  %s %s", st.ID, st.State)
		if st.Attempt > 0 {
			fmt.Fprintf(out, " attempt=%d", st.Attempt)
		}
		if st.Err != "" {
			fmt.Fprintf(out, " err=%q", st.Err)
		}
		if st.Result != nil {
			fmt.Fprintf(out, " result=%s", st.Result)
		}
		fmt.Fprintln(out)
	}
	for _, t := range tr.run.Next() {
		fmt.Fprintf(out, "  -> %s", t.Kind)
		switch t.Kind {
		case TaskDo, TaskUndo:
			fmt.Fprintf(out, " %s attempt=%d", t.Step.ID, t.Attempt)
			for _, is := range []struct {
				so   bool
				name string
			}{{t.Open, "open"}, {t.Stop, "stop"}, {t.Failed > 0, fmt.Sprint("failed=", t.Failed)}} {
				if is.so {
					fmt.Fprint(out, " "+is.name)
				}
			}
		case TaskGate:
			fmt.Fprintf(out, " %s", t.Step.ID)
			if !t.Deadline.IsZero() {
				fmt.Fprintf(out, " deadline=%s", t.Deadline.Format(time.TimeOnly))
			}
		}
		fmt.Fprintln(out)
	}
}

// fields splits a line at spaces outside quotes, and removes the quotes.
func fields(line string) []string {
	var all []string
	quoted, some, cur := false, false, ""
	for _, c := range line + " " {
		switch {
		case c == '"':
			quoted, some = !quoted, true
		case c == ' ' && !quoted:
			if some {
				all = append(all, cur)
			}
			some, cur = false, ""
		default:
			some, cur = true, cur+string(c)
		}
	}
	return all
}

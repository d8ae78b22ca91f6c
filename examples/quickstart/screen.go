package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// screen shows runs as they go: bars on a terminal, else a line a step.
type screen struct {
	out   *os.File
	live  bool
	lines int             // drawn since the last permanent line
	said  map[string]bool // steps whose end was told
}

func newScreen(out *os.File) *screen {
	return &screen{out: out, live: term.IsTerminal(int(out.Fd())), said: map[string]bool{}}
}

func (s *screen) show(st dr.Status) {
	s.erase()
	for _, step := range st.Steps {
		key := string(st.Run) + "/" + step.ID
		if ended(step.State) && !s.said[key] {
			s.said[key] = true
			line := fmt.Sprintf("%-24s %-14s %s", st.Run, step.ID, step.State)
			if !step.Started.IsZero() {
				line += fmt.Sprintf(" in %v", step.Ended.Sub(step.Started).Round(time.Millisecond))
			}
			if step.Err != "" {
				line += ": " + step.Err
			}
			fmt.Fprintln(s.out, line)
		}
		if s.live && step.State == dr.StepRunning {
			s.draw(st.Run, step)
		}
	}
	if st.State.Ended() && st.State != dr.RunDone {
		fmt.Fprintf(s.out, "%-24s %s: %s\n", st.Run, st.State, st.Reason)
	}
}

func ended(s dr.StepState) bool {
	switch s {
	case dr.StepPending, dr.StepRunning, dr.StepWaiting, dr.StepUndoing:
		return false
	}
	return true
}

// erase takes back the bars drawn last.
func (s *screen) erase() {
	for range s.lines {
		fmt.Fprint(s.out, "\x1b[A\x1b[2K")
	}
	s.lines = 0
}

const barWidth = 30

func (s *screen) draw(run dr.RunID, step dr.StepStatus) {
	if len(step.Progress) == 0 {
		fmt.Fprintf(s.out, "%-24s %-14s ...\n", run, step.ID)
		s.lines++
	}
	for _, p := range step.Progress {
		bar := strings.Repeat(" ", barWidth)
		if p.Total > 0 {
			n := int(min(p.Done, p.Total) * barWidth / p.Total)
			bar = strings.Repeat("=", n) + strings.Repeat(" ", barWidth-n)
		}
		fmt.Fprintf(s.out, "%-24s %-14s %-5s [%s] %9s %9s/s %s\n", run, step.ID, p.Disk, bar, size(p.Done), size(int64(p.Rate)), p.What)
		s.lines++
	}
}

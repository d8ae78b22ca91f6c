package main

import (
	"fmt"
	"io"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// screen tells of each step that has ended, a line each. It could draw
// progress too: Status has it (examples/quickstart does).
type screen struct {
	out  io.Writer
	said map[string]bool
}

func (s *screen) show(st dr.Status) {
	if s.said == nil {
		s.said = map[string]bool{}
	}
	for _, step := range st.Steps {
		key := string(st.Run) + "/" + step.ID
		if !ended(step.State) || s.said[key] {
			continue
		}
		s.said[key] = true
		line := fmt.Sprintf("%-27s %-14s %s", st.Run, step.ID, step.State)
		if !step.Started.IsZero() {
			line += fmt.Sprintf(" in %v", step.Ended.Sub(step.Started).Round(time.Millisecond))
		}
		if step.Err != "" {
			line += ": " + step.Err
		}
		fmt.Fprintln(s.out, line)
	}
	if st.State.Ended() && st.State != dr.RunDone {
		fmt.Fprintf(s.out, "%-27s %s: %s\n", st.Run, st.State, st.Reason)
	}
}

func ended(s dr.StepState) bool {
	switch s {
	case dr.StepPending, dr.StepRunning, dr.StepWaiting, dr.StepUndoing:
		return false
	}
	return true
}

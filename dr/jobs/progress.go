package jobs

import "time"

// Progress is how far a job has come, rolled up over its tasks and the jobs
// below them.
type Progress struct {
	// Steps and StepsDone count steps that are known of; a step that drives
	// runs is counted by theirs. Steps that were skipped or failed are done.
	Steps     int `json:"steps"`
	StepsDone int `json:"stepsDone"`
	// Done and Total are the bytes of what is being copied now; Total is 0
	// if it is not known of every disk. What was copied before is in the
	// results of its steps.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Rate is what travels now, in bytes a second.
	Rate float64 `json:"rate,omitempty"`
	// AtMost is how long the copies under way still take if all that is left
	// of them has to travel at the present rate: it is over sooner where
	// blocks are zero or equal. It says nothing of steps that come after, nor
	// of live disks that are copied in passes. 0: it can't be told.
	AtMost time.Duration `json:"atMost,omitempty"`

	unknown bool // of a copy it isn't known how much it is
	vague   bool // of a copy it can't be told how long it takes
}

// longest is what AtMost tells at most: beyond it, it is no forecast.
const longest = 30 * 24 * time.Hour

func progressOf(tasks []Task) Progress {
	var p Progress
	for _, t := range tasks {
		below := false
		for _, j := range t.Jobs {
			p.add(j.Progress)
			below = below || !j.Missing && !j.Repeated
		}
		if !below {
			p.step(t.State)
		}
		if t.State == InProgress || t.State == Cancelling {
			p.add(copying(t))
		}
	}
	if p.unknown {
		p.Total = 0
	}
	if p.unknown || p.vague {
		p.AtMost = 0
	}
	return p
}

// step counts one step.
func (p *Progress) step(s State) {
	p.Steps++
	if s.Ended() {
		p.StepsDone++
	}
}

// add sums up what goes on side by side: it is over when the longest is.
func (p *Progress) add(q Progress) {
	p.Steps += q.Steps
	p.StepsDone += q.StepsDone
	p.Done += q.Done
	p.Total += q.Total
	p.Rate += q.Rate
	p.AtMost = max(p.AtMost, q.AtMost)
	p.unknown = p.unknown || q.unknown
	p.vague = p.vague || q.vague
}

// copying sums up the disks of one step, which share its rate.
func copying(t Task) (p Progress) {
	for _, d := range t.Disks {
		if d.Done == 0 && d.Total == 0 {
			continue // it tells what it does, in words
		}
		p.Done += d.Done
		p.Total += d.Total
		if d.Done < d.Total || d.Total <= 0 {
			p.Rate += max(0, d.Rate) // a disk that is done has kept its last rate
		}
		p.unknown = p.unknown || d.Total <= 0 || d.Done > d.Total || d.Done < 0
	}
	if left := float64(p.Total - p.Done); left > 0 && !p.unknown {
		seconds := left / p.Rate
		if p.Rate <= 0 || seconds > longest.Seconds() {
			p.vague = true
		} else {
			p.AtMost = max(time.Duration(seconds*float64(time.Second)), 1)
		}
	}
	return p
}

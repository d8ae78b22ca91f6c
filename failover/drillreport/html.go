package drillreport

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"clock": clock, "took": took, "bytes": size, "png": png, "bars": bars, "title": title, "verdict": verdict, "since": since,
	"card": func(name, what string, m Measure) any { return measureCard{name, what, m} }, "deref": func(b *bool) bool { return *b },
}).Parse(pageText))

// WriteHTML writes the report as one page that needs nothing else: no script
// runs in it, nothing is loaded, and screenshots are within. The report as JSON
// is in it, too, in the element "report". What platforms, scripts and guests
// said is shown as text, whatever it is.
func (r Report) WriteHTML(w io.Writer) error {
	return page.Execute(w, r)
}

// WriteJSON writes the report for programs.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// measureCard is what one objective is shown by.
type measureCard struct {
	Name, What string
	M          Measure
}

func title(r Report) string {
	names := map[string]string{
		recoveryplan.FlowDrill: "Drill", recoveryplan.FlowTest: "Test failover", recoveryplan.FlowPlanned: "Planned failover",
		recoveryplan.FlowUnplanned: "Unplanned failover", recoveryplan.FlowFailback: "Failback", recoveryplan.FlowReprotect: "Reprotection",
		recoveryplan.FlowCommit: "Commit", recoveryplan.FlowCancel: "Cancelled failover", recoveryplan.FlowCleanUp: "Clean-up",
	}
	if n, ok := names[r.Flow]; ok {
		return n
	}
	return r.Flow
}

func verdict(r Report) string {
	if r.Passed {
		return "passed"
	}
	return "not passed"
}

// clock is UTC: an auditor and a person on call may be in different places.
func clock(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// took is a duration as people say it.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "unknown"
	case d == 0:
		return "0"
	case d < 10*time.Second:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// since is how long after the run's beginning something was.
func since(r Report, t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return took(max(0, t.Sub(r.Started)))
}

func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, e := float64(n)/unit, 0
	for v >= unit && e < 4 {
		v /= unit
		e++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[e])
}

// png is the picture as an address; what isn't one was left out by Gather, and
// is looked at again, as a report may have been read from a file.
func png(b []byte) template.URL {
	if !isPNG(b) {
		return ""
	}
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b))
}

// bar is a part of a machine's timeline, in percent of the run's whole time.
type bar struct {
	Left, Width float64
	Kind, Label string
}

// kinds groups steps by what a person waits for.
var kinds = map[string]string{
	"shutdown": "down", "final-sync": "copy", "choose": "copy", "prepare": "copy", "hydrate": "copy", "last-copy": "copy", "first-copy": "copy",
	"start": "up", "verify": "up",
}

// bars draws a machine's run beside those of the others.
func bars(r Report, m Machine) (all []bar) {
	end := r.Ended
	if end.IsZero() {
		end = r.Written
	}
	total := end.Sub(r.Started)
	if total <= 0 {
		return nil
	}
	at := func(t time.Time) float64 {
		return min(100, max(0, 100*float64(t.Sub(r.Started))/float64(total)))
	}
	for _, s := range m.Steps {
		kind := kinds[s.ID]
		if kind == "" || s.Started.IsZero() || s.State == dr.StepPending {
			continue
		}
		to := s.Ended
		if to.IsZero() {
			to = end
		}
		if s.State == dr.StepFailed || s.State == dr.StepUndone || s.State == dr.StepUndoFailed {
			kind = "bad"
		}
		b := bar{Left: at(s.Started), Kind: kind, Label: fmt.Sprintf("%s: %s, %s", s.ID, s.State, took(to.Sub(s.Started)))}
		// What is too short to be seen is drawn as wide as can be seen.
		b.Width = min(100-b.Left, max(0.4, at(to)-b.Left))
		all = append(all, b)
	}
	return all
}

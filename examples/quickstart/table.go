package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// row is what one stage did.
type row struct {
	stage    string
	took     time.Duration
	sent     int64 // bytes that travelled between the sites
	changed  int64 // bytes that could differ between them, and had to be looked at
	local    int64 // bytes copied within a site: from points into disks, or back
	rpo, rto string
	verified string
}

// rowOf reads a run's status as any console could.
func rowOf(st dr.Status) (row, error) {
	r := row{stage: string(st.Run), took: st.Ended.Sub(st.Started), rpo: "-", rto: "-", verified: "-"}
	between := func(rep replication.Report) { r.sent += rep.Written; r.changed += rep.Changed }
	within := func(rep replication.Report) { r.local += rep.Written }
	for _, s := range st.Steps {
		if len(s.Result) == 0 {
			continue
		}
		var err error
		switch s.ID {
		case failback.StepReplicate:
			err = count(s.Result, between)
		case failover.StepHydrate:
			err = count(s.Result, within)
		case failover.StepSeed:
			if st.Flow == failover.FlowCommit {
				err = count(s.Result, within)
			}
		case failover.StepSync:
			var c failover.Copied
			err = json.Unmarshal(s.Result, &c)
			between(c.Report)
		case "verify-point", "verify-disks":
			r.verified = "yes"
		case failover.StepFinish:
			err = r.finish(st, s.Result)
		}
		if err != nil {
			return r, fmt.Errorf("result of %s, step %s: %w", st.Run, s.ID, err)
		}
	}
	return r, nil
}

// finish reads the evidence that a flow leaves at its end.
func (r *row) finish(st dr.Status, result json.RawMessage) error {
	switch st.Flow {
	case failback.FlowReprotect:
		var rep failback.Reprotected
		err := json.Unmarshal(result, &rep)
		r.local += rep.Seed.Written
		return err
	case failover.FlowTest, failover.FlowPlanned, failover.FlowUnplanned, failover.FlowChange, failback.FlowFailback:
		var rep failover.Report
		err := json.Unmarshal(result, &rep)
		r.rpo, r.rto = lost(rep.Loss), rep.Started.Sub(st.Started).Round(10*time.Millisecond).String()
		return err
	}
	return nil
}

func count(result json.RawMessage, add func(replication.Report)) error {
	var rep replication.Report
	err := json.Unmarshal(result, &rep)
	add(rep)
	return err
}

func lost(l dr.Loss) string {
	if l.None {
		return "0 (nothing lost)"
	}
	s := l.Age.Round(10 * time.Millisecond).String()
	if l.Unreplicated > 0 {
		s += ", " + size(l.Unreplicated)
	}
	return s
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func printTable(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSTAGE\tTOOK\tSENT\tCHANGED\tLOCAL\tRPO\tRTO\tVERIFIED")
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join([]string{r.stage, r.took.Round(10 * time.Millisecond).String(), size(r.sent), size(r.changed), size(r.local), r.rpo, r.rto, r.verified}, "\t"))
	}
	w.Flush()
	fmt.Fprintln(out, "\nSENT travelled between the sites; CHANGED could differ and was looked at; LOCAL was copied within a site.")
	fmt.Fprintln(out, "VERIFIED: every disk had the SHA-256 that the machine had at that moment; before a start its file system was clean.")
}

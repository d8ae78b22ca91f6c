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
	moved    int64 // bytes that were copied, between sites or into disks
	changed  int64 // bytes that could differ, and had to be looked at
	rpo, rto string
	verified string
}

// rowOf reads a run's status as any console could.
func rowOf(st dr.Status) (row, error) {
	r := row{stage: string(st.Run), took: st.Ended.Sub(st.Started), rpo: "-", rto: "-", verified: "-"}
	add := func(rep replication.Report) {
		r.moved += rep.Written
		r.changed += rep.Changed
	}
	for _, s := range st.Steps {
		var err error
		switch {
		case len(s.Result) == 0:
		case s.ID == failback.StepReplicate || s.ID == failover.StepHydrate || s.ID == failover.StepSeed && st.Flow == failover.FlowCommit:
			var rep replication.Report
			err = json.Unmarshal(s.Result, &rep)
			add(rep)
		case s.ID == failover.StepSync:
			var c failover.Copied
			err = json.Unmarshal(s.Result, &c)
			add(c.Report)
		case s.ID == "verify-point" || s.ID == "verify-disks":
			r.verified = "yes"
		case s.ID == failover.StepFinish && st.Flow != failover.FlowCleanUp && st.Flow != failback.FlowReprotect:
			var rep failover.Report
			if err = json.Unmarshal(s.Result, &rep); err == nil && !rep.Started.IsZero() {
				r.rpo, r.rto = lost(rep.Loss), rep.Started.Sub(st.Started).Round(10*time.Millisecond).String()
			}
		}
		if err != nil {
			return r, fmt.Errorf("result of %s, step %s: %w", st.Run, s.ID, err)
		}
	}
	return r, nil
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
	fmt.Fprintln(w, "\nSTAGE\tTOOK\tMOVED\tCHANGED\tRPO\tRTO\tVERIFIED")
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join([]string{r.stage, r.took.Round(10 * time.Millisecond).String(), size(r.moved), size(r.changed), r.rpo, r.rto, r.verified}, "\t"))
	}
	w.Flush()
}

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
	machines []dr.ProtectionID
	took     time.Duration
	sent     int64 // bytes that travelled between the sites
	changed  int64 // bytes that could differ between them, and had to be looked at
	local    int64 // bytes copied within a site: from points into disks, or back
	rpo      []string
	rto      time.Duration
	verified int
	calls    int // requests to Azure, of all kinds
	notes    []string
}

// add reads a run's status, as any console could.
func (r *row) add(st dr.Status) error {
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
		case "verify-point", "verify-machine":
			r.verified++
		case failover.StepFinish:
			err = r.finish(st, s.Result)
		}
		if err != nil {
			return fmt.Errorf("result of %s, step %s: %w", st.Run, s.ID, err)
		}
	}
	note, err := letIn(st)
	if note != "" {
		r.notes = append(r.notes, note)
	}
	return err
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
		if s := lost(rep.Loss); len(r.rpo) == 0 || r.rpo[len(r.rpo)-1] != s {
			r.rpo = append(r.rpo, s)
		}
		r.rto = max(r.rto, rep.Started.Sub(st.Started))
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
		return "0"
	}
	s := seconds(l.Age)
	if l.Unreplicated > 0 {
		s += " (" + size(l.Unreplicated) + ")"
	}
	return s
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

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

func (r row) cells() []string {
	var names []string
	for _, id := range r.machines {
		names = append(names, string(id))
	}
	rpo, rto, verified := "-", "-", "-"
	if len(r.rpo) > 0 {
		rpo, rto = strings.Join(r.rpo, ", "), seconds(r.rto)
	}
	if r.verified > 0 {
		verified = fmt.Sprintf("%d of %d", r.verified, len(r.machines))
	}
	return []string{r.stage, strings.Join(names, ", "), seconds(r.took), size(r.sent), size(r.changed), size(r.local), rpo, rto, verified, fmt.Sprint(r.calls)}
}

func printTable(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSTAGE\tOF\tTOOK\tSENT\tCHANGED\tLOCAL\tRPO\tRTO\tVERIFIED\tCALLS")
	var took time.Duration
	for _, r := range rows {
		took += r.took
		fmt.Fprintln(w, strings.Join(r.cells(), "\t"))
	}
	w.Flush()
	fmt.Fprintf(out, "\n%d stages in %s. SENT travelled between the sites; CHANGED could differ and was looked at;\n", len(rows), seconds(took))
	fmt.Fprintln(out, "LOCAL was copied within a site; CALLS are all requests to Azure. VERIFIED: every byte of the point, or of the")
	fmt.Fprintln(out, "machine that started, was what the guest had written by one moment, and that was the right one.")
	for _, r := range rows {
		for _, note := range r.notes {
			fmt.Fprintln(out, note)
		}
	}
}

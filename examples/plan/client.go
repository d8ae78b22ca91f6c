package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// client is a console: it talks to whoever serves.
type client struct{ dir string }

func (c client) ask(ctx context.Context, method, path string, body, into any) error {
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://serve"+path, r)
	if err != nil {
		return err
	}
	resp, err := over(filepath.Join(c.dir, "serve.sock")).Do(req)
	if err != nil {
		return fmt.Errorf("nobody serves: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", strings.TrimSpace(string(raw)))
	}
	if page, ok := into.(*[]byte); ok {
		*page = raw
		return nil
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(raw, into)
}

func (c client) status(ctx context.Context, run dr.RunID) (s dr.Status, err error) {
	return s, c.ask(ctx, http.MethodGet, "/runs/"+string(run), nil, &s)
}

func (c client) protect(ctx context.Context, out io.Writer) error {
	names := []string{"db1", "db2", "app1", "app2", "web1", "web2"}
	for _, name := range names {
		if err := c.ask(ctx, http.MethodPost, "/protect/"+name, nil, nil); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, err := c.watch(ctx, "protect-"+name, out); err != nil {
			return err
		}
	}
	return nil
}

// start names the run itself, so that asking again asks for the same run.
func (c client) start(ctx context.Context, flow string) (string, error) {
	run := time.Now().UTC().Format("20060102T150405.000-") + flow
	return run, c.ask(ctx, http.MethodPost, "/start/"+flow+"/"+run, nil, nil)
}

// watch tells what changes until the run has ended, or waits for a person: then
// it returns the step's ID. A server that is gone for a while is waited for.
func (c client) watch(ctx context.Context, run string, out io.Writer) (gate string, err error) {
	told := map[string]dr.StepState{}
	for {
		s, err := c.status(ctx, dr.RunID(run))
		if err == nil {
			for _, x := range s.Steps {
				if told[x.ID] != x.State && told[x.ID] != "" || told[x.ID] == "" && x.State != dr.StepPending {
					tell(out, run, x)
				}
				told[x.ID] = x.State
				if x.State == dr.StepWaiting && s.State == dr.RunWaiting {
					return x.ID, nil
				}
			}
			if s.State.Ended() {
				fmt.Fprintf(out, "  %s: %s %s\n", run, s.State, s.Reason)
				return "", s.Err()
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// tell leaves out what only joins others.
func tell(out io.Writer, run string, x dr.StepStatus) {
	if x.Action == "plan.judge@1" || x.State == dr.StepRunning {
		return
	}
	line := fmt.Sprintf("  %s: %s", x.ID, x.State)
	if strings.HasPrefix(run, "protect-") && x.ID != "replicate" {
		return
	}
	if strings.HasPrefix(run, "protect-") {
		line = fmt.Sprintf("  %s: first point", strings.TrimPrefix(run, "protect-"))
	}
	if x.State == dr.StepWaiting {
		line += ": " + x.Gate
	}
	if x.Err != "" {
		line += ": " + x.Err
	}
	var r recoveryplan.ActionResult
	if json.Unmarshal(x.Result, &r) == nil {
		if said := strings.Trim(r.Seen+string(r.Value), `"`); said != "" {
			line += ": " + said
		}
	}
	fmt.Fprintln(out, line)
}

func (c client) decide(ctx context.Context, run, step string, yes bool) error {
	d := decision{Run: dr.RunID(run), Step: step, Decision: dr.Decision{Verdict: dr.Reject, By: "somebody"}}
	if u, err := user.Current(); err == nil {
		d.Decision.By = u.Username
	}
	if yes {
		d.Decision.Verdict = dr.Approve
	}
	return c.ask(ctx, http.MethodPost, "/decide", d, nil)
}

func (c client) report(ctx context.Context, run, file string) error {
	var page []byte
	if err := c.ask(ctx, http.MethodGet, "/report/"+run, nil, &page); err != nil {
		return err
	}
	return os.WriteFile(file, page, 0o600)
}

// dryRun tells every step, and fails if something is in the way.
func (c client) dryRun(ctx context.Context, flow string, out io.Writer) error {
	var v recoveryplan.Preview
	if err := c.ask(ctx, http.MethodGet, "/dry-run/"+flow, nil, &v); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for _, s := range v.Steps {
		if s.What == "wait for all before" {
			continue
		}
		last := ""
		if s.Last > 0 {
			last = s.Last.Round(time.Millisecond).String()
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", s.ID, s.What, last)
		for _, x := range s.Steps {
			fmt.Fprintf(w, "    %s\t%s\t\n", x.ID, x.What)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range v.Findings {
		fmt.Fprintf(out, "  ! %s %s: %s (%s)\n", f.Machine, f.Code, f.Text, f.Remedy)
	}
	if v.Estimate > 0 {
		fmt.Fprintf(out, "  as last time it would take %s\n", v.Estimate.Round(time.Millisecond))
	}
	if !v.Ready {
		return fmt.Errorf("%s of plan %s is not ready to run", flow, v.Plan)
	}
	return nil
}

// machines asks the sites what runs where.
func machines(ctx context.Context, sites *http.Client) (all []seen, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sites/machines", nil)
	if err != nil {
		return nil, err
	}
	resp, err := sites.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the sites answer %s", resp.Status)
	}
	return all, json.NewDecoder(resp.Body).Decode(&all)
}

func (c client) machines(ctx context.Context, out io.Writer) error {
	all, err := machines(ctx, over(filepath.Join(c.dir, "sites.sock")))
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for _, m := range all {
		state := "off"
		if m.Running {
			state = "runs"
		}
		sound := "sound"
		if m.Wrong != "" {
			sound = m.Wrong
		}
		fmt.Fprintf(w, "  %s\tat %s\t%s\tafter write %d\t%s\n", m.Name, m.Site, state, m.Writes, sound)
	}
	return w.Flush()
}

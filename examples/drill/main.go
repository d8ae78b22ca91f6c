// Command drill tests a recovery plan unattended, as a timer would have it done
// every night: a dry run, then a drill of all machines in an isolated network,
// its clean-up, and a report. It exits with 0 if the drill passed and with 3 if
// it didn't: a machine did not come up, a check failed, something was left
// behind, or an objective was missed. 1 means that it could not be run, 2 a
// wrong command line.
//
// Here the plan's machines are those of a simulated vCenter, recovered to a
// simulated Azure. For your own, replace sites.go.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/drillreport"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/replication"
)

//go:embed plan.yaml
var defaultPlan []byte

// notPassed is what it exits with when the drill ran and did not pass.
const notPassed = 3

type settings struct {
	plan, html, json string
	rpo, rto         time.Duration
	broken           bool
}

func main() {
	var s settings
	flag.StringVar(&s.plan, "plan", "", "the plan's file, YAML or JSON; default: one of its own")
	flag.StringVar(&s.html, "html", "", "write the report there, as a page")
	flag.StringVar(&s.json, "json", "", "write the report there, for programs")
	flag.DurationVar(&s.rpo, "rpo", 0, "objective, in place of the plan's")
	flag.DurationVar(&s.rto, "rto", 0, "objective, in place of the plan's")
	flag.BoolVar(&s.broken, "broken", false, "let the check of the orders fail, to see what happens")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "drill: it takes no arguments; see drill -h")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	stdlog.SetOutput(io.Discard) // the vCenter's simulator talks to it
	r, err := run(ctx, s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "drill:", err)
		os.Exit(1)
	}
	if err := r.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "drill:", err)
		os.Exit(notPassed)
	}
}

func run(ctx context.Context, s settings) (r drillreport.Report, err error) {
	raw := defaultPlan
	if s.plan != "" {
		if raw, err = os.ReadFile(s.plan); err != nil {
			return r, err
		}
	}
	plan, err := recoveryplan.Decode(bytes.NewReader(raw))
	if err != nil {
		return r, err
	}
	if s.rpo > 0 {
		plan.Objective.RPO = recoveryplan.Duration(s.rpo)
	}
	if s.rto > 0 {
		plan.Objective.RTO = recoveryplan.Duration(s.rto)
	}
	dir, err := os.MkdirTemp("", "lifeboat-drill")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	sites, err := openSites(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, sites.close()) }()
	// With a journal that is kept, a drill that was interrupted is gone on with.
	engine, err := embedded.Open(filepath.Join(dir, "lifeboat.db"), embedded.Options{})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	env := &replication.Env{Records: engine, Sites: sites.known()}
	plans := &recoveryplan.Env{Replication: env, Runs: engine, Callbacks: map[string]recoveryplan.Callback{
		"orders": func(context.Context, recoveryplan.Context) (any, error) {
			if s.broken {
				return nil, errors.New("the orders of today are not there")
			}
			return "the orders of today are there", nil
		},
	}}
	actions, err := dr.Merge(replication.Actions(env), failover.Actions(env), failback.Actions(env), recoveryplan.Actions(plans))
	if err != nil {
		return r, err
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- engine.Serve(serving, actions) }()
	defer func() {
		stop()
		if e := <-served; !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}()
	if err := sites.protect(ctx, engine, plan.Machines()); err != nil {
		return r, err
	}
	return drill(ctx, engine, plans, plan, s)
}

// drill is all that there is to it, once the sites are open.
func drill(ctx context.Context, engine *embedded.Engine, env *recoveryplan.Env, plan recoveryplan.Plan, s settings) (r drillreport.Report, err error) {
	var records []dr.Protection
	for p, err := range engine.Protections(ctx) {
		if err != nil {
			return r, err
		}
		records = append(records, p)
	}
	preview, err := recoveryplan.DryRun(ctx, env, plan, recoveryplan.FlowDrill, records, recoveryplan.Options{})
	if err != nil {
		return r, err
	}
	for _, f := range preview.Findings {
		fmt.Printf("found: %s %s: %s (%s)\n", f.Machine, f.Code, f.Text, f.Remedy)
	}
	pl, err := recoveryplan.Drill(plan, records, recoveryplan.Options{Notes: "unattended"})
	if err != nil {
		return r, err
	}
	run := dr.RunID("drill-" + time.Now().UTC().Format("20060102T150405"))
	if err := engine.Start(ctx, run, pl); err != nil {
		return r, err
	}
	if _, err := dr.Wait(ctx, engine, run, nil); err != nil {
		return r, err
	}
	r, err = drillreport.Gather(ctx, engine, run, drillreport.Options{Objective: plan.Objective, Findings: preview.Findings})
	if err != nil {
		return r, err
	}
	fmt.Printf("RPO %s, RTO %s\n", r.RPO.Got.Round(time.Millisecond), r.RTO.Got.Round(time.Millisecond))
	for _, m := range r.Machines {
		fmt.Printf("%s: %s\n", m.Protection, m.State)
	}
	return r, errors.Join(write(s.html, r.WriteHTML), write(s.json, r.WriteJSON))
}

func write(path string, how func(io.Writer) error) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(how(f), f.Close())
}

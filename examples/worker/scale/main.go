//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
	"time"
)

// options of a show.
type options struct {
	machines, workers, shards int
	engine, prepare           string
	cycle, lasting            time.Duration // lasting 0: no replication is shown
	lease, rpo                time.Duration
	report                    time.Duration

	failover, plan, waves int
	kill                  bool // one worker and the server on the way

	disk, full, write string
	program           string // "": built from source
	dir               string // "": a temporary folder, removed at the end
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.IntVar(&o.machines, "machines", 1000, "simulated machines")
	f.IntVar(&o.workers, "workers", 4, "worker processes")
	f.IntVar(&o.shards, "shards", 0, "shards of the fleet; 0: one for each hundred machines, 8 at least")
	f.StringVar(&o.engine, "engine", "embedded", "the workers' engine: embedded or temporal")
	f.StringVar(&o.prepare, "prepare", "embedded", "the engine under which machines are protected first")
	f.DurationVar(&o.cycle, "cycle", 5*time.Minute, "how often each machine is replicated")
	f.DurationVar(&o.lasting, "for", 12*time.Minute, "how long replication is shown; 0: not at all")
	f.DurationVar(&o.lease, "lease", 15*time.Second, "how long a worker that isn't heard of keeps its shards")
	f.DurationVar(&o.rpo, "rpo", 0, "what is late; 0: twice the cycle and thirty seconds")
	f.DurationVar(&o.report, "report", time.Minute, "how often a line is printed")
	f.IntVar(&o.failover, "failover", 0, "how many machines are failed over")
	f.IntVar(&o.plan, "plan", 100, "machines of a recovery plan")
	f.IntVar(&o.waves, "waves", 4, "waves of a plan; each but the first waits at a gate")
	f.BoolVar(&o.kill, "kill", true, "kill a worker and the server while machines are failed over; without it, what is counted is the work alone")
	f.StringVar(&o.disk, "disk", "1MiB", "size of a machine's disk")
	f.StringVar(&o.full, "full", "128KiB", "how much of it is written at first")
	f.StringVar(&o.write, "write", "64KiB", "how much is written again in a cycle")
	f.StringVar(&o.program, "worker", "", "the worker's program; default: it is built")
	f.StringVar(&o.dir, "dir", "", "keep logs and journals in this folder")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.shards = max(o.shards, 8, o.machines/100)
	if o.rpo == 0 {
		o.rpo = 2*o.cycle + 30*time.Second
	}
	engine := map[string]bool{"embedded": true, "temporal": true}
	switch {
	case f.NArg() > 0 || !engine[o.engine] || !engine[o.prepare]:
		return o, fmt.Errorf("scale: unknown argument or engine")
	case o.machines < 1 || o.workers < 1 || o.cycle <= 0 || o.failover > o.machines || o.plan < 1 || o.waves < 1 || o.report <= 0:
		return o, fmt.Errorf("scale: -machines, -workers, -cycle, -plan, -waves and -report count upwards, -failover up to -machines")
	case o.workers < 2 && (o.lasting > 0 || o.failover > 0):
		return o, fmt.Errorf("scale: one worker is killed, so -workers 2 at least")
	}
	return o, nil
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	c := &command{out: os.Stderr}
	c.run(func() { show(c, o, os.Stdout) })
	if c.Failed() {
		os.Exit(1)
	}
}

// show runs the whole show and fails t if something didn't hold.
func show(t testing.TB, o options, out io.Writer) {
	started := time.Now()
	w := newWorld(t, o, out)
	fmt.Fprintf(out, "%d machines, %d workers, %d shards, engine %s, cycle %v; %d CPUs, load %s\n",
		o.machines, o.workers, o.shards, o.engine, o.cycle, runtime.NumCPU(), load())
	w.protect()
	if o.lasting > 0 {
		w.replicate()
	}
	if o.failover > 0 {
		w.failOver()
	}
	fmt.Fprintf(out, "done in %v, load %s\n", time.Since(started).Round(time.Second), load())
}

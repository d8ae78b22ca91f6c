package jobs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Load makes a job of a run and those that it drives, whose statuses it asks
// the orchestrator for one after the other. ErrNotFound: no such run.
func Load(ctx context.Context, o dr.Orchestrator, run dr.RunID, opt Options) (Job, error) {
	s, err := o.Status(ctx, run)
	if err != nil {
		return Job{}, err
	}
	return load(ctx, o, s, opt)
}

func load(ctx context.Context, o dr.Orchestrator, s dr.Status, opt Options) (Job, error) {
	if opt.Now.IsZero() {
		opt.Now = time.Now()
	}
	var failed error
	opt.Child = func(id dr.RunID) (dr.Status, bool) {
		if failed != nil {
			return dr.Status{}, false
		}
		c, err := o.Status(ctx, id)
		if err != nil && !errors.Is(err, dr.ErrNotFound) {
			failed = fmt.Errorf("run %s, which %s drives: %w", id, s.Run, err)
		}
		return c, err == nil
	}
	j := Of(s, opt)
	return j, failed
}

// Filter chooses jobs. Fields left empty choose all.
type Filter struct {
	// Protection: jobs that are about it, themselves or below.
	Protection dr.ProtectionID
	Flows      []string
	States     []State
	// Since and Until: jobs that went on at some time within [Since, Until).
	Since, Until time.Time
	// Roots leaves out what another job drives, as Options.Parent tells: it is
	// in that job's tree.
	Roots bool
}

// List yields the jobs of all runs that the filter chooses, oldest first, each
// as it is when it is reached. An error ends the list; ErrUnsupported if the
// orchestrator is no dr.RunLister.
func List(ctx context.Context, o dr.Orchestrator, f Filter, opt Options) iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		l, ok := dr.As[dr.RunLister](o)
		if !ok {
			yield(Job{}, fmt.Errorf("jobs of an orchestrator that can't list its runs: %w", dr.ErrUnsupported))
			return
		}
		for s, err := range l.Runs(ctx) {
			if err != nil {
				yield(Job{}, err)
				return
			}
			if !f.may(s, opt) {
				continue
			}
			j, err := load(ctx, o, s, opt)
			if err != nil {
				yield(Job{}, err)
				return
			}
			if f.Match(j) && !yield(j, nil) {
				return
			}
		}
	}
}

// may leaves out, before their children are asked for, runs that can't match.
func (f Filter) may(s dr.Status, opt Options) bool {
	if f.Roots && opt.Parent != nil && opt.Parent(s) != "" {
		return false
	}
	return f.flowAndTime(s.Flow, s.Started, s.Ended)
}

func (f Filter) flowAndTime(flow string, started, ended time.Time) bool {
	switch {
	case len(f.Flows) > 0 && !slices.Contains(f.Flows, flow):
		return false
	case !f.Until.IsZero() && !started.Before(f.Until):
		return false
	}
	return f.Since.IsZero() || ended.IsZero() || !ended.Before(f.Since)
}

// Match reports whether the filter chooses the job.
func (f Filter) Match(j Job) bool {
	return f.flowAndTime(j.Flow, j.Started, j.Ended) &&
		(len(f.States) == 0 || slices.Contains(f.States, j.State)) &&
		(!f.Roots || j.Parent == "") &&
		(f.Protection == "" || j.about(f.Protection))
}

// about reports whether the job or one below it holds the protection.
func (j Job) about(id dr.ProtectionID) bool {
	return slices.Contains(j.Protections, id) || slices.ContainsFunc(j.Tasks, func(t Task) bool {
		return slices.ContainsFunc(t.Jobs, func(c Job) bool { return c.about(id) })
	})
}

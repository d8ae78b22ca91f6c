package recoveryplan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// looking is a dry run's look at the machines.
type looking struct {
	e      *Env
	p      Plan
	flow   string
	to     Direction
	o      Options
	points map[dr.ProtectionID]dr.Point
	checks []Check
}

// at finds what is in the way of one machine.
func (l looking) at(ctx context.Context, r dr.Protection) (found []Finding) {
	add := func(code string, blocker bool, remedy, format string, args ...any) {
		found = append(found, Finding{Code: code, Machine: r.ID, Text: fmt.Sprintf(format, args...), Remedy: remedy, Blocker: blocker})
	}
	v := judge(r, l.p.input(r.ID, l.flow, l.to, l.o))
	switch {
	case v.skip != "":
		add(CodeSkipped, false, "", "it would be skipped: %s", v.skip)
		return found
	case v.err != nil:
		add(CodeState, true, "", "%v", v.err)
		return found
	}
	from, fromErr := l.e.Replication.Sites.Site(r.Active.Site)
	to, toErr := l.e.Replication.Sites.Site(r.Standby.Site)
	for _, err := range []error{fromErr, toErr} {
		if err != nil {
			add(CodeSite, true, "the process that serves the run must know it", "%v", err)
		}
	}
	if fromErr != nil || toErr != nil {
		return found
	}
	// An unplanned failover is for when the one side is lost.
	needs := lossless(l.flow)
	if err := l.machine(ctx, from, r.Active); err != nil {
		add(CodeUnreachable, needs, remedyOf(err), "%v", err)
	} else if needs {
		found = append(found, l.preflight(ctx, from, r)...)
	}
	if shuts := l.flow == FlowPlanned || l.flow == FlowFailback; shuts && !l.canShutDown(from, r.ID) {
		add(CodeShutdown, true, "allow power off for this machine in the plan (powerOff)", "the platform at %s can't ask guests to shut down", r.Active.Site)
	}
	if r.Standby.Machine != "" && l.flow != FlowReprotect {
		found = append(found, l.standby(ctx, to, r)...)
	}
	if p, ok := l.points[r.ID]; ok {
		if rpo := time.Duration(l.p.Objective.RPO); rpo > 0 {
			if age := recoverypoint.Age(p, l.e.Replication.Time()); age > rpo {
				add(CodePointAge, false, "see why replication is late", "point %s is %s old, the objective is %s", p.ID, age.Round(time.Second), rpo)
			}
		}
	}
	for _, check := range l.checks {
		more, err := check(ctx, r, l.flow, l.to)
		if err != nil {
			add(CodeUnreachable, false, remedyOf(err), "a check could not be made: %v", err)
		}
		for _, f := range more {
			if f.Machine == "" {
				f.Machine = r.ID
			}
			found = append(found, f)
		}
	}
	return found
}

func (l looking) machine(ctx context.Context, s replication.Site, at dr.Place) error {
	ctx, cancel := context.WithTimeout(ctx, failover.LookTimeout)
	defer cancel()
	if _, err := s.Backend.Machine(ctx, at.Machine); err != nil {
		return fmt.Errorf("machine %s at %s: %w", at.Machine, at.Site, err)
	}
	return nil
}

func (l looking) preflight(ctx context.Context, s replication.Site, r dr.Protection) (found []Finding) {
	f, ok := dr.As[backend.Preflighter](s.Backend)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, failover.LookTimeout)
	defer cancel()
	problems, err := f.Preflight(ctx, r.Active.Machine)
	if err != nil {
		return []Finding{{Code: CodeUnreachable, Machine: r.ID, Text: fmt.Sprintf("preflight at %s: %v", r.Active.Site, err)}}
	}
	for _, p := range problems {
		text := p.Text
		if p.Disk != "" {
			text = fmt.Sprintf("disk %s: %s", p.Disk, text)
		}
		found = append(found, Finding{Code: p.Code, Machine: r.ID, Text: text, Remedy: p.Remedy, Blocker: p.Blocker})
	}
	return found
}

func (l looking) canShutDown(s replication.Site, id dr.ProtectionID) bool {
	if _, ok := dr.As[backend.Shutdowner](s.Backend); ok {
		return true
	}
	for _, g := range l.p.Groups {
		for _, m := range g.Machines {
			if m.Protection == id {
				return m.PowerOff
			}
		}
	}
	return false
}

func (l looking) standby(ctx context.Context, s replication.Site, r dr.Protection) []Finding {
	ctx, cancel := context.WithTimeout(ctx, failover.LookTimeout)
	defer cancel()
	m, err := s.Backend.Machine(ctx, r.Standby.Machine)
	switch {
	case errors.Is(err, dr.ErrNotFound) && r.Standby.Key != "":
		return nil // it is made again
	case err != nil:
		return []Finding{{Code: CodeUnreachable, Machine: r.ID, Text: fmt.Sprintf("standby machine %s at %s: %v", r.Standby.Machine, r.Standby.Site, err), Remedy: remedyOf(err), Blocker: true}}
	case m.Power == dr.On && l.flow != FlowTest && l.flow != FlowDrill:
		return []Finding{{Code: CodeRunning, Machine: r.ID, Text: fmt.Sprintf("standby machine %s at %s runs", m.ID, r.Standby.Site), Remedy: "somebody started it: switch it off; what it wrote is given up", Blocker: true}}
	}
	return nil
}

func remedyOf(err error) string {
	if d := (*dr.Error)(nil); errors.As(err, &d) {
		return d.Remedy
	}
	return ""
}

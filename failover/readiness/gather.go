package readiness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// DefaultLimit bounds each question to a platform or a guest where Options say
// nothing: a lost site often doesn't refuse, it says nothing.
const DefaultLimit = 2 * time.Minute

// Options of Before. The zero value works.
type Options struct {
	// Limit bounds each question; 0: DefaultLimit.
	Limit time.Duration
	// As is what the machine is protected as; Via how people will come.
	As  Kind
	Via Via
	// FactsFromPoint looks into the disks of the newest recovery point, beside
	// the running guest; nil: only the guest is asked.
	FactsFromPoint func(ctx context.Context, img dr.Image) (backend.Facts, error)
	// Place is how the replica would be made at the standby site, as the
	// failover would say it: Options, Networks, Cards. An empty Key, Original
	// and Machine are the protection's.
	Place backend.Placement
}

// Before asks everything that can be known before a failover of the protection,
// and judges it. A site that doesn't answer makes checks unknown, not an error:
// an error means that a site's name isn't known, or that ctx has ended. Nothing
// is changed.
func Before(ctx context.Context, e *replication.Env, p dr.Protection, o Options) ([]Check, error) {
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	from, err := e.Sites.Site(p.Active.Site)
	if err != nil {
		return nil, err
	}
	to, err := e.Sites.Site(p.Standby.Site)
	if err != nil {
		return nil, err
	}
	s := Subject{Protection: p, As: o.As, Via: o.Via}
	var why []string
	m, err := asked(ctx, o.Limit, func(ctx context.Context) (dr.Machine, error) { return from.Backend.Machine(ctx, p.Active.Machine) })
	if err != nil {
		why = append(why, err.Error())
		m = p.Last.Machine
	}
	s.Machine = m
	if s.Facts, err = ofGuest(ctx, o.Limit, from.Backend, p.Active.Machine); err != nil {
		why = append(why, err.Error())
	}
	if o.FactsFromPoint != nil {
		f, err := ofPoint(ctx, o, to, p)
		if err != nil {
			why = append(why, err.Error())
		}
		s.Facts = Merge(s.Facts, f)
	}
	all := Judge(s)
	for i := range all {
		if all[i].Result == Unknown && len(why) > 0 {
			all[i].Causes = append(all[i].Causes, why...)
		}
	}
	preflight, _ := dr.As[backend.Preflighter](from.Backend)
	all = append(all, problems("source-preflight", "The machine can be captured", preflight != nil, func() ([]backend.Problem, error) {
		return asked(ctx, o.Limit, func(ctx context.Context) ([]backend.Problem, error) {
			return preflight.Preflight(ctx, p.Active.Machine)
		})
	})...)
	for _, x := range []struct {
		code, title string
		b           backend.Backend
	}{{"source-platform", "The active site gives what is needed", from.Backend}, {"target-platform", "The standby site gives what is needed", to.Backend}} {
		checker, _ := dr.As[backend.Checker](x.b)
		all = append(all, problems(x.code, x.title, checker != nil, func() ([]backend.Problem, error) { return asked(ctx, o.Limit, checker.Check) })...)
	}
	roomer, _ := dr.As[backend.Roomer](to.Backend)
	all = append(all, problems("target-room", "The standby site has room for the replica", roomer != nil, func() ([]backend.Problem, error) {
		return asked(ctx, o.Limit, func(ctx context.Context) ([]backend.Problem, error) {
			return roomer.Room(ctx, placed(o.Place, p, m))
		})
	})...)
	return all, ctx.Err()
}

// placed fills in what a failover of the protection would: the machine that
// stands by is used if there is one.
func placed(at backend.Placement, p dr.Protection, m dr.Machine) backend.Placement {
	if at.Key == "" && at.Original == "" {
		if at.Key = p.Standby.Key; at.Key == "" {
			at.Original = p.Standby.Machine
		}
		if at.Key == "" && at.Original == "" {
			at.Key = "readiness/" + string(p.ID) // nobody's: as a new one's would be
		}
	}
	if at.Machine.ID == "" {
		at.Machine = m
	}
	return at
}

func asked[T any](ctx context.Context, limit time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return ask(ctx)
}

func ofGuest(ctx context.Context, limit time.Duration, b backend.Backend, id dr.MachineID) (backend.Facts, error) {
	i, ok := dr.As[backend.Inspector](b)
	if !ok {
		return backend.Facts{}, fmt.Errorf("%w: the active site's backend can't look into a guest", dr.ErrUnsupported)
	}
	return asked(ctx, limit, func(ctx context.Context) (backend.Facts, error) { return i.Inspect(ctx, id) })
}

func ofPoint(ctx context.Context, o Options, to replication.Site, p dr.Protection) (f backend.Facts, err error) {
	if p.Last.ID == "" {
		return f, fmt.Errorf("%w: there is nothing to look into yet", dr.ErrNoPoint)
	}
	return asked(ctx, o.Limit, func(ctx context.Context) (backend.Facts, error) {
		img, err := to.Points.Open(ctx, p.Last.Machine.ID, p.Last.ID)
		if err != nil {
			return f, err
		}
		f, err = o.FactsFromPoint(ctx, img)
		return f, errors.Join(err, img.Close())
	})
}

// problems are a check for each that was found; one that has passed for none.
func problems(code, title string, can bool, ask func() ([]backend.Problem, error)) []Check {
	c := Check{Code: code, Title: title, Severity: Blocker, Phase: BeforeFailover, Source: "the platform's own demands"}
	if !can {
		c.Severity, c.Result, c.Detail = Info, Unknown, "the backend can't tell"
		return []Check{c}
	}
	found, err := ask()
	if err != nil {
		c.Result, c.Detail, c.Remedy = Unknown, err.Error(), "see that the site can be reached"
		return []Check{c}
	}
	if len(found) == 0 {
		c.Result = Passed
		return []Check{c}
	}
	var all []Check
	for _, p := range found {
		x := c
		x.Code, x.Result, x.Detail, x.Remedy = code+"/"+p.Code, Failed, p.Text, p.Remedy
		if !p.Blocker {
			x.Severity = Warning
		}
		all = append(all, x)
	}
	return all
}

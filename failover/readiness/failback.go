package readiness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Plant is what is known of a failback's infrastructure. In each fact but those
// that are named otherwise Yes is good. The process server and the master target
// of the article are, here, where the engine runs: the machine that reads at one
// site and writes the datastore at the other. What the platforms tell, by
// backend.Receiver, backend.Roomer and backend.Checker, [Failback] fills in.
type Plant struct {
	Engine    backend.Fact // the engine (process server) runs and reaches the cloud
	Link      backend.Fact // VPN or ExpressRoute: the site at home answers it
	Room      backend.Fact // the target has room for the machine's disks
	Datastore backend.Fact // the target can write the datastore
	Writes    backend.Fact // the account may write: it isn't read-only
	Snapshots backend.Fact // Yes is bad: the target has snapshots
	SameUUID  backend.Fact // Yes is bad: a disk's UUID is there twice
	Original  backend.Fact // the machine at home is there: neither deleted nor migrated
	// Group are the machines of its replication group, this one among them;
	// none: it is in no group.
	Group []Member
}

// Member is a machine of a replication group.
type Member struct {
	Name   string
	OS     string // "windows" or "linux"; "" is unknown
	Target string // the master target, or engine, that it goes home by; "" is unknown
}

const (
	requirements = "VMware/physical reprotection/failback"
	blocks       = "reprotection: what blocks it"
)

// JudgeFailback answers the checks of a failback's infrastructure, for a machine
// that is away from home. At home they don't apply.
func JudgeFailback(p dr.Protection, x Plant) []Check {
	is := func(code, title, source, remedy string, answer func(Check) Check) Check {
		c := Check{Code: code, Title: title, Severity: Blocker, Phase: Infrastructure, Source: source, Remedy: remedy}
		if p.AtHome() {
			return c.none("the machine is at home")
		}
		return answer(c)
	}
	yes := func(f backend.Fact) func(Check) Check { return func(c Check) Check { return c.good(f, "") } }
	no := func(f backend.Fact) func(Check) Check { return func(c Check) Check { return c.bad(f, "") } }
	protected := backend.Fact{Answer: backend.Yes, Detail: "state is " + string(p.State)}
	if p.State == dr.Unprotected || p.State == "" {
		protected.Answer = backend.No
	}
	original := is("failback-original", "The machine at home is neither deleted nor migrated", blocks, "reprotect to an alternate location, which copies everything", yes(x.Original))
	if original.Severity = Warning; p.Standby.Machine == "" && !p.AtHome() {
		original = original.none("it goes to an alternate location")
	}
	all := []Check{
		is("failback-process-server", "The process server is there: the engine runs and reaches the cloud", requirements, "run the engine where it reaches both sites", yes(x.Engine)),
		is("failback-link", "A VPN or ExpressRoute link reaches the site at home", requirements, "set up the link, and let the engine's place use it", yes(x.Link)),
		is("failback-room", "The master target has room for the disks", requirements, "free room, or choose a datastore with more", yes(x.Room)),
		is("failback-datastore", "The master target can write the datastore", requirements, "give the host of the target access to the datastore", yes(x.Datastore)),
		is("failback-snapshots", "The master target has no snapshots", blocks, "delete its snapshots", no(x.Snapshots)),
		is("failback-disk-uuid", "No disk UUID is there twice", blocks, "give the copied disk another UUID", no(x.SameUUID)),
		is("failback-account", "The account is not read-only", blocks, "give the account the privileges that the backend lists", yes(x.Writes)),
		original,
		is("failback-protection", "Protection is not disabled", blocks, "protect the machine where it runs", yes(protected)),
	}
	return append(all,
		is("failback-group-os", "The replication group has one OS type", requirements, "make a group for each operating system", func(c Check) Check {
			return uniform(c, x.Group, func(m Member) string { return m.OS })
		}),
		is("failback-group-target", "The replication group has one master target", requirements, "send all machines of the group home by the same target", func(c Check) Check {
			return uniform(c, x.Group, func(m Member) string { return m.Target })
		}))
}

func uniform(c Check, group []Member, of func(Member) string) Check {
	if len(group) < 2 {
		return c.none("the machine is in no group with others")
	}
	var known []string
	var unknown []string
	for _, m := range group {
		v := of(m)
		if v == "" {
			unknown = append(unknown, m.Name)
		} else if !slices.Contains(known, v) {
			known = append(known, v)
		}
	}
	switch {
	case len(known) > 1:
		return c.good(backend.Fact{Answer: backend.No, Detail: strings.Join(known, " and ")}, "")
	case len(unknown) > 0:
		return c.good(backend.Fact{Detail: "it isn't known of " + strings.Join(unknown, ", ")}, "")
	}
	return c.good(backend.Fact{Answer: backend.Yes, Detail: "all have " + known[0]}, "")
}

// askHome asks the site at home whether the machine there can be written to, and
// has room. What isn't answered stays unknown.
func askHome(ctx context.Context, b backend.Backend, p dr.Protection, limit time.Duration, know *Plant, fill func(*backend.Fact, backend.Fact)) {
	if r, ok := dr.As[backend.Receiver](b); ok && p.Standby.Machine != "" {
		is, err := asked(ctx, limit, func(ctx context.Context) (backend.Reception, error) { return r.Receives(ctx, p.Standby.Machine) })
		if err != nil {
			is = backend.Reception{Datastore: backend.Fact{Detail: err.Error()}}
		}
		fill(&know.Datastore, is.Datastore)
		fill(&know.Snapshots, is.Snapshots)
		fill(&know.SameUUID, is.SameUUID)
		fill(&know.Writes, is.Writes)
	}
	if r, ok := dr.As[backend.Roomer](b); ok && p.Standby.Machine != "" {
		found, err := asked(ctx, limit, func(ctx context.Context) ([]backend.Problem, error) {
			return r.Room(ctx, placed(backend.Placement{}, p, p.Last.Machine))
		})
		is := backend.Fact{Answer: backend.Yes}
		for _, x := range found {
			// A warning is no proof that it fits: then it isn't known.
			if is.Detail = x.Text; x.Blocker {
				is.Answer = backend.No
				break
			}
			is.Answer = backend.Unknown
		}
		if err != nil {
			is = backend.Fact{Detail: err.Error()}
		}
		fill(&know.Room, is)
	}
}

// Failback asks both sites of a machine that is away from home for what can be
// known here, fills what know leaves unknown with it, and judges. What the site
// at home has to say by itself (backend.Checker) follows, a check each. An error
// means that a site's name isn't known, or that ctx has ended. limit bounds each
// question; 0: DefaultLimit.
func Failback(ctx context.Context, e *replication.Env, p dr.Protection, know Plant, limit time.Duration) ([]Check, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	away, err := e.Sites.Site(p.Active.Site)
	if err != nil {
		return nil, err
	}
	home, err := e.Sites.Site(p.Standby.Site)
	if err != nil {
		return nil, err
	}
	if p.AtHome() {
		return JudgeFailback(p, know), nil
	}
	fill := func(f *backend.Fact, is backend.Fact) {
		if f.Answer == backend.Unknown {
			*f = is
		}
	}
	if _, err := asked(ctx, limit, func(ctx context.Context) (dr.Machine, error) { return away.Backend.Machine(ctx, p.Active.Machine) }); err == nil {
		fill(&know.Engine, backend.Fact{Answer: backend.Yes, Detail: fmt.Sprintf("site %s answers this process", p.Active.Site)})
	} else {
		fill(&know.Engine, backend.Fact{Answer: backend.No, Detail: err.Error()})
	}
	if p.Standby.Machine != "" {
		_, err := asked(ctx, limit, func(ctx context.Context) (dr.Machine, error) { return home.Backend.Machine(ctx, p.Standby.Machine) })
		switch answers := (backend.Fact{Answer: backend.Yes, Detail: fmt.Sprintf("site %s answers this process", p.Standby.Site)}); {
		case err == nil:
			fill(&know.Original, backend.Fact{Answer: backend.Yes, Detail: "machine " + string(p.Standby.Machine) + " is there"})
			fill(&know.Link, answers)
		case errors.Is(err, dr.ErrNotFound):
			fill(&know.Original, backend.Fact{Answer: backend.No, Detail: err.Error()})
			fill(&know.Link, answers)
		default:
			fill(&know.Link, backend.Fact{Answer: backend.No, Detail: err.Error()})
		}
	}
	askHome(ctx, home.Backend, p, limit, &know, fill)
	checker, _ := dr.As[backend.Checker](home.Backend)
	own := problems("home-platform", "The site at home gives what is needed", checker != nil, func() ([]backend.Problem, error) { return asked(ctx, limit, checker.Check) })
	for i := range own {
		own[i].Phase = Infrastructure
		// vSphere's codes of an account that may not write.
		if strings.HasSuffix(own[i].Code, "/privilege-missing") || strings.HasSuffix(own[i].Code, "/licence-read-only") {
			fill(&know.Writes, backend.Fact{Answer: backend.No, Detail: own[i].Detail})
		}
	}
	return append(JudgeFailback(p, know), own...), ctx.Err()
}

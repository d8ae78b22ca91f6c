package recoveryplan

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Validate refuses plans that make no sense whatever the records say, naming
// all that is wrong: names that are missing, doubled or can't be part of a
// step's name; a machine in two groups; more groups or machines than the
// limits allow; actions that are nothing or two things at once; flows, rules
// and directions that don't exist; negative times.
func (p Plan) Validate() error {
	c := checker{plan: p}
	c.name("plan", p.Name)
	c.size()
	groups := map[string]bool{}
	machines := map[dr.ProtectionID]string{}
	for _, g := range p.Groups {
		where := "group " + g.Name
		c.name("group", g.Name)
		if groups[g.Name] {
			c.bad("two groups are named %q", g.Name)
		}
		groups[g.Name] = true
		c.rule(where, g.OnFailure)
		if len(g.Machines) == 0 {
			c.bad("%s has no machines", where)
		}
		for _, m := range g.Machines {
			switch other, twice := machines[m.Protection]; {
			case m.Protection == "":
				c.bad("%s: a machine without a protection", where)
			case twice:
				c.bad("machine %s is in group %s and in group %s: a machine is in one", m.Protection, other, g.Name)
			}
			machines[m.Protection] = g.Name
			c.times(where+": machine "+string(m.Protection), m.VerifyTimeout, m.ShutdownTimeout)
		}
		c.actions(where+", before", g.Before)
		c.actions(where+", after", g.After)
		c.health(g)
	}
	c.actions("before", p.Before)
	c.actions("after shutdown", p.AfterShutdown)
	c.actions("after", p.After)
	pairs := map[[2]string]bool{}
	for _, m := range p.Networks {
		if err := m.Validate(); err != nil {
			c.bad("networks from %q to %q: %v", m.From, m.To, err)
		}
		if m.From == "" || m.To == "" || m.From == m.To {
			c.bad("networks from %q to %q: want the names of two sites", m.From, m.To)
		}
		if pairs[[2]string{m.From, m.To}] {
			c.bad("two network mappings from %q to %q", m.From, m.To)
		}
		pairs[[2]string{m.From, m.To}] = true
	}
	c.times("objective", p.Objective.RPO, p.Objective.RTO)
	return errors.Join(c.errs...)
}

type checker struct {
	plan Plan
	errs []error
}

func (c *checker) bad(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("recovery plan %s: %w: "+format, append([]any{c.plan.Name, dr.ErrInvalid}, args...)...))
}

func (c *checker) name(what, s string) {
	// The same rule as for the names that stores and platforms are given.
	if err := dr.PointID(s).Validate(); err != nil {
		c.bad("%s name %q: want 1 to 200 letters, digits, '-', '_' and '.'", what, s)
	}
}

func (c *checker) size() {
	l := c.plan.limits()
	if n := len(c.plan.Groups); n == 0 {
		c.bad("it has no groups")
	} else if n > l.Groups {
		c.bad("%d groups, at most %d are allowed: raise limits.groups if that is meant", n, l.Groups)
	}
	if n := len(c.plan.Machines()); n > l.Machines {
		c.bad("%d machines, at most %d are allowed: raise limits.machines if that is meant", n, l.Machines)
	}
	if c.plan.Limits.Groups < 0 || c.plan.Limits.Machines < 0 {
		c.bad("a negative limit")
	}
}

func (p Plan) limits() Limits {
	l := p.Limits
	if l.Groups == 0 {
		l.Groups = DefaultGroups
	}
	if l.Machines == 0 {
		l.Machines = DefaultMachines
	}
	return l
}

func (c *checker) actions(where string, all []Action) {
	seen := map[string]bool{}
	for _, a := range all {
		at := where + ": action " + a.Name
		c.name("action", a.Name)
		if seen[a.Name] {
			c.bad("%s: two actions are named %q", where, a.Name)
		}
		seen[a.Name] = true
		switch one := count(len(a.Script) > 0, a.Callback != "", a.Manual != ""); {
		case one != 1:
			c.bad("%s: want exactly one of script, callback and manual, and %d are given", at, one)
		case len(a.Script) > 0 && !local(a.Script[0]):
			c.bad("%s: script %q: want the name of a file in the scripts' folder", at, a.Script[0])
		case a.Manual != "" && (a.Undo || a.Attempts != 0):
			c.bad("%s: a person is asked once, and isn't undone", at)
		case a.Attempts < 0:
			c.bad("%s: negative attempts", at)
		}
		c.when(at, a.Only, a.Direction)
		c.rule(at, a.OnFailure)
		c.times(at, a.Timeout)
	}
}

func (c *checker) health(g Group) {
	seen := map[string]bool{}
	for _, h := range g.Health {
		at := "group " + g.Name + ": health " + h.Name
		c.name("health", h.Name)
		if seen[h.Name] {
			c.bad("group %s: two health checks are named %q", g.Name, h.Name)
		}
		seen[h.Name] = true
		member := slices.ContainsFunc(g.Machines, func(m Machine) bool { return m.Protection == h.Machine })
		if h.Machine != "" && !member {
			c.bad("%s: machine %s is not in the group", at, h.Machine)
		}
		switch one := count(h.TCP != "", h.HTTP != "", h.Callback != ""); {
		case one != 1:
			c.bad("%s: want exactly one of tcp, http and callback, and %d are given", at, one)
		case h.TCP != "":
			c.address(at, h.TCP, h.Machine)
		case h.HTTP != "":
			u, err := url.Parse(h.HTTP)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" {
				c.bad("%s: %q is no http or https address", at, h.HTTP)
			} else if u.Hostname() == "" && h.Machine == "" {
				c.bad("%s: %q names no host: say which machine is meant", at, h.HTTP)
			}
		}
		c.when(at, h.Only, h.Direction)
		c.rule(at, h.OnFailure)
		c.times(at, h.Timeout)
	}
}

func (c *checker) address(at, s string, m dr.ProtectionID) {
	host, port, err := net.SplitHostPort(s)
	switch {
	case err != nil || port == "":
		c.bad("%s: %q is no host:port", at, s)
	case host == "" && m == "":
		c.bad("%s: %q names no host: say which machine is meant", at, s)
	}
}

func (c *checker) when(at string, only []string, d Direction) {
	for _, f := range only {
		if !slices.Contains(flows, f) {
			c.bad("%s: flow %q; there are %q", at, f, flows)
		}
	}
	if d != "" && d != Out && d != Home {
		c.bad("%s: direction %q; there are %q and %q", at, d, Out, Home)
	}
}

func (c *checker) rule(at string, r Rule) {
	if r != "" && r != Continue && r != Stop {
		c.bad("%s: on failure %q; there are %q and %q", at, r, Continue, Stop)
	}
}

func (c *checker) times(at string, all ...Duration) {
	for _, d := range all {
		if d < 0 {
			c.bad("%s: a negative time", at)
		}
	}
}

// local reports whether a script's name stays in its folder, on every system.
func local(name string) bool {
	return filepath.IsLocal(name) && !strings.ContainsAny(name, `\:`)
}

func count(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

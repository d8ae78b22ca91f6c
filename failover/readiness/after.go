package readiness

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// AfterOptions say who wants to get in. The zero value asks for everybody.
type AfterOptions struct {
	// Limit bounds each question; 0: DefaultLimit.
	Limit time.Duration
	Via   Via
	// From is who comes: "203.0.113.0/24"; "": "Internet".
	From string
	// Ports; none: 3389 of a Windows machine, 22 of others.
	Ports []int
	// Dial tries a port from where the engine runs; nil: a net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// After tells whether one gets to a machine that a failover has started, at
// place, with the platform's screenshot as evidence where there is one. A
// platform that gives no answer makes checks unknown; an error means that the
// site's name isn't known, or that ctx has ended.
func After(ctx context.Context, e *replication.Env, at dr.Place, o AfterOptions) ([]Check, backend.Evidence, error) {
	var seen backend.Evidence
	site, err := e.Sites.Site(at.Site)
	if err != nil {
		return nil, seen, err
	}
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	if o.From == "" {
		o.From = "Internet"
	}
	m, err := asked(ctx, o.Limit, func(ctx context.Context) (dr.Machine, error) { return site.Backend.Machine(ctx, at.Machine) })
	why := ""
	if err != nil {
		why = err.Error()
	}
	if len(o.Ports) == 0 {
		o.Ports = []int{22}
		if system(m.OS) == "windows" {
			o.Ports = []int{3389}
		}
	}
	var r backend.Reach
	if reacher, ok := dr.As[backend.Reacher](site.Backend); ok {
		if r, err = asked(ctx, o.Limit, func(ctx context.Context) (backend.Reach, error) {
			return reacher.Reach(ctx, at.Machine, o.From, o.Ports...)
		}); err != nil {
			why = err.Error()
		}
	} else if why == "" {
		why = "the backend can't tell how one gets to a machine"
	}
	if r.Running.Answer == backend.Unknown {
		switch m.Power {
		case dr.On:
			r.Running = backend.Fact{Answer: backend.Yes, Detail: "the platform says that it runs"}
		case dr.Off:
			r.Running = backend.Fact{Answer: backend.No, Detail: "the platform says that it is off"}
		}
	}
	all := JudgeAccess(r, o.Via, o.Ports)
	for i := range all {
		if all[i].Result == Unknown && why != "" {
			all[i].Causes = append(all[i].Causes, why)
		}
	}
	shot := Check{Code: "after-screenshot", Title: "Boot diagnostics show a screen", Severity: Warning, Phase: AfterFailover, Source: connect,
		Result: Unknown, Detail: "the backend gives no evidence", Causes: []string{"the machine doesn't run", "boot diagnostics are off"}, Remedy: "see the console, and whether the machine boots"}
	if p, ok := dr.As[backend.Prober](site.Backend); ok {
		seen, err = asked(ctx, o.Limit, func(ctx context.Context) (backend.Evidence, error) { return p.Probe(ctx, at.Machine) })
		switch {
		case err != nil:
			shot.Detail = err.Error()
		case seen.Kind == "screenshot" && len(seen.Data) > 0:
			shot = shot.good(backend.Fact{Answer: backend.Yes, Detail: seen.What}, "")
		default:
			shot.Detail = "no screenshot, but a sign of life: " + seen.What
		}
	}
	return append(append(all, shot), dial(ctx, m, r, o)...), seen, ctx.Err()
}

// JudgeAccess answers the checks of a machine after its failover from what the
// platform said. By VPN no public address is needed.
func JudgeAccess(r backend.Reach, via Via, ports []int) []Check {
	all := []Check{Check{Code: "after-running", Title: "The machine runs", Severity: Blocker, Phase: AfterFailover, Source: connect,
		Causes: []string{"it was never started", "it stopped by itself"}, Remedy: "start it, and see its console"}.good(r.Running, "")}
	c := Check{Code: "after-public-address", Title: "The machine has a public address", Severity: Blocker, Phase: AfterFailover, Source: connect,
		Causes: []string{"nobody gave it one"}, Remedy: "add a public address to its first card; at Azure by the action azure.public-address@1"}
	switch via {
	case VPN:
		c = c.none("people come by vpn")
	case Internet:
		c = c.good(r.PublicAddress, "")
	default: // a VPN may do
		c.Severity = Warning
		c = c.good(r.PublicAddress, "")
	}
	all = append(all, c)
	for _, p := range ports {
		name := map[int]string{3389: "RDP", 22: "SSH"}[p]
		if name == "" {
			name = "TCP"
		}
		all = append(all, Check{Code: "after-rule-" + strconv.Itoa(p), Title: fmt.Sprintf("Network security rules allow the %s port %d", name, p), Severity: Blocker, Phase: AfterFailover, Source: connect,
			Causes: []string{"a rule of the machine's group or of its subnet's denies it", "no rule allows it"},
			Remedy: "allow the port in both groups; at Azure, in the machine's own, by the action azure.allow@1"}.good(r.Allowed[p], ""))
	}
	return all
}

// dial tries the ports from here. That nothing answers here doesn't prove that
// it does nowhere: the engine may stand on another side of a firewall.
func dial(ctx context.Context, m dr.Machine, r backend.Reach, o AfterOptions) []Check {
	var hosts []string
	if r.PublicAddress.Answer == backend.Yes && o.Via != VPN {
		hosts = append(hosts, r.PublicAddress.Detail)
	}
	if o.Via != Internet {
		if r.Private != "" {
			hosts = append(hosts, r.Private)
		}
		for _, n := range m.NICs {
			for _, a := range n.Addresses {
				if ip, _, err := net.ParseCIDR(a); err == nil {
					a = ip.String()
				}
				if a != r.Private && net.ParseIP(a) != nil {
					hosts = append(hosts, a)
				}
			}
		}
	}
	connect := o.Dial
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	var all []Check
	for _, p := range o.Ports {
		c := Check{Code: "after-answers-" + strconv.Itoa(p), Title: fmt.Sprintf("Port %d answers where the engine runs", p), Severity: Warning, Phase: AfterFailover, Source: "a check of our own",
			Result: Unknown, Detail: "no address of the machine is known", Causes: []string{"the service doesn't run in the guest", "the guest's firewall, or one on the way, drops it"},
			Remedy: "see the guest's console and the rules on the way"}
		for _, h := range hosts {
			conn, err := asked(ctx, min(o.Limit, dialLimit), func(ctx context.Context) (net.Conn, error) {
				return connect(ctx, "tcp", net.JoinHostPort(h, strconv.Itoa(p)))
			})
			if err == nil {
				_ = conn.Close()
				c = c.good(backend.Fact{Answer: backend.Yes, Detail: h + " answers"}, "")
				break
			}
			c.Result, c.Detail = Failed, err.Error()
		}
		all = append(all, c)
	}
	return all
}

// dialLimit is how long a port may take to answer: three tries of a handshake.
const dialLimit = 10 * time.Second

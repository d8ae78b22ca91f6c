package offline

import (
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// within reports whether a port is in a list such as "22,80,1000:2000" or
// "any"; to is what stands in ranges.
func within(port, list, to string) bool {
	n, err := strconv.Atoi(port)
	if err != nil {
		return false
	}
	for e := range strings.SplitSeq(list, ",") {
		e = strings.Trim(strings.TrimSpace(e), "{} ")
		a, b, isRange := strings.Cut(e, to)
		if !isRange {
			b = a
		}
		switch {
		case e == "any", e == "ssh" && port == "22":
			return true
		}
		from, err1 := strconv.Atoi(a)
		upTo, err2 := strconv.Atoi(b)
		if err1 == nil && err2 == nil && from <= n && n <= upTo {
			return true
		}
	}
	return false
}

// match says whether a rule is for new connections to the port from anywhere.
type match int

const (
	misses match = iota
	hits
	maybe // for some of them, or it can't be told
)

// iptables walks the chain INPUT of a saved table as a new connection would.
func iptables(text, port string) (backend.Answer, string) {
	policy, chains, table := "", map[string][]string{}, ""
	for _, l := range lines(text) {
		switch f := strings.Fields(l); {
		case l[0] == '*':
			table = l
		case table != "*filter":
		case l[0] == ':' && f[0] == ":INPUT" && len(f) > 1:
			policy = f[1]
		case f[0] == "-A" && len(f) > 2:
			chains[f[1]] = append(chains[f[1]], l)
		}
	}
	if policy == "" {
		return backend.Unknown, "no chain INPUT"
	}
	steps := 0
	var walk func(chain string, depth int) (backend.Answer, string, bool)
	walk = func(chain string, depth int) (backend.Answer, string, bool) {
		for _, l := range chains[chain] {
			if steps++; steps > 10_000 || depth > 16 {
				return backend.Unknown, "too many rules", true
			}
			m, target := iptablesRule(strings.Fields(l)[2:], port)
			if m == misses || target == "LOG" || target == "NFLOG" || target == "" {
				continue
			}
			if target == "RETURN" && m == hits {
				return "", "", false
			}
			if m == maybe {
				if target == "ACCEPT" || target == "DROP" || target == "REJECT" || chains[target] != nil || target == "RETURN" {
					return backend.Unknown, "a rule for some only: " + l, true
				}
				continue
			}
			switch target {
			case "ACCEPT":
				return backend.Yes, l, true
			case "DROP", "REJECT":
				return backend.No, l, true
			}
			if chains[target] == nil {
				continue // an empty chain
			}
			if a, why, done := walk(target, depth+1); done {
				return a, why, true
			}
		}
		return "", "", false
	}
	if a, why, done := walk("INPUT", 0); done {
		return a, why
	}
	if policy == "ACCEPT" {
		return backend.Yes, "the policy of INPUT is ACCEPT"
	}
	return backend.No, "no rule lets port " + port + " in, and the policy of INPUT is " + policy
}

func iptablesRule(f []string, port string) (match, string) {
	m, target := hits, ""
	for i := 0; i < len(f); i++ {
		arg := ""
		if i+1 < len(f) {
			arg = f[i+1]
		}
		switch f[i] {
		case "-j", "-g":
			target = arg
			i = len(f) // what follows is the target's own
		case "-p":
			if arg != "tcp" && arg != "all" {
				return misses, target
			}
			i++
		case "-m", "--comment":
			for i++; f[min(i, len(f)-1)] != "" && strings.HasPrefix(arg, `"`) && !strings.HasSuffix(f[min(i, len(f)-1)], `"`) && i < len(f); {
				i++
			}
		case "--dport", "--dports", "--destination-port":
			if !within(port, arg, ":") {
				return misses, target
			}
			i++
		case "--ctstate", "--state":
			if !strings.Contains(arg, "NEW") {
				return misses, target
			}
			i++
		case "-i":
			if arg == "lo" {
				return misses, target
			}
			m, i = maybe, i+1
		case "-s", "--source":
			if arg != "0.0.0.0/0" {
				m = maybe
			}
			i++
		case "--tcp-flags":
			i += 2
		case "--syn":
		default:
			m = maybe
		}
	}
	return m, target
}

// nftables walks the chains that hook into input. It knows the statements of
// ordinary hosts; what it doesn't know makes the answer unknown.
func nftables(text, port string) (backend.Answer, string) {
	type chain struct {
		policy string
		rules  []string
		input  bool
	}
	var chains []chain
	in := -1
	for _, l := range lines(strings.NewReplacer("{ accept", "{accept").Replace(text)) {
		switch f := strings.Fields(l); {
		case f[0] == "include":
			return backend.Unknown, "it includes other files"
		case f[0] == "define":
			return backend.Unknown, "it defines variables"
		case f[0] == "chain":
			chains = append(chains, chain{policy: "accept"})
			in = len(chains) - 1
			if strings.HasSuffix(l, "}") && !strings.HasSuffix(l, "{ }") {
				return backend.Unknown, "a chain on one line"
			}
		case in < 0 || l == "}":
			if l == "}" {
				in = -1
			}
		default:
			c := &chains[in]
			for s := range strings.SplitSeq(l, ";") {
				s = strings.TrimSpace(s)
				switch w := strings.Fields(s); {
				case len(w) == 0:
				case w[0] == "type":
					c.input = slices.Contains(w, "hook") && slices.Contains(w, "input")
				case w[0] == "policy" && len(w) == 2:
					c.policy = w[1]
				default:
					c.rules = append(c.rules, s)
				}
			}
		}
	}
	why := "no chain hooks into input"
next:
	for _, c := range chains {
		if !c.input {
			continue
		}
		for _, r := range c.rules {
			switch m, verdict := nftRule(r, port); {
			case m == misses || verdict == "":
			case m == maybe:
				return backend.Unknown, "a rule that can't be told: " + r
			case verdict == "accept":
				why = r
				continue next
			default:
				return backend.No, r
			}
		}
		if c.policy != "accept" {
			return backend.No, "no rule lets port " + port + " in, and the policy is " + c.policy
		}
		why = "the policy of input is accept"
	}
	return backend.Yes, why
}

func nftRule(rule, port string) (match, string) {
	if i := strings.Index(rule, " comment "); i >= 0 {
		rule = rule[:i]
	}
	for { // a set is one word
		a := strings.Index(rule, "{ ")
		if a < 0 {
			break
		}
		b := strings.Index(rule[a:], "}")
		if b < 0 {
			return maybe, "?"
		}
		rule = rule[:a] + strings.ReplaceAll(rule[a:a+b], " ", "") + rule[a+b:]
	}
	f := strings.Fields(rule)
	m := hits
	for i := 0; i < len(f); i++ {
		arg := func(n int) string {
			if i+n < len(f) {
				return f[i+n]
			}
			return ""
		}
		switch f[i] {
		case "accept", "drop", "reject":
			return m, f[i]
		case "counter", "log":
			for slices.Contains([]string{"packets", "bytes", "prefix", "level"}, arg(1)) {
				i += 2
			}
		case "ct":
			if arg(1) != "state" {
				return maybe, "?"
			}
			if !strings.Contains(arg(2), "new") {
				return misses, ""
			}
			i += 2
		case "iif", "iifname":
			if arg(1) == "lo" || arg(1) == `"lo"` {
				return misses, ""
			}
			m = maybe
			i++
		case "tcp":
			if arg(1) != "dport" || strings.HasPrefix(arg(2), "!") || strings.HasPrefix(arg(2), "@") {
				return maybe, "?"
			}
			if !within(port, arg(2), "-") {
				return misses, ""
			}
			i += 2
		case "udp", "icmp", "icmpv6", "ip6":
			return misses, ""
		case "ip":
			if arg(1) == "protocol" && arg(2) != "tcp" {
				return misses, ""
			}
			m = maybe
			i += 2
		case "meta", "meta l4proto":
			if arg(1) == "l4proto" && (arg(2) == "ipv6-icmp" || arg(2) == "icmp" || arg(2) == "udp") {
				return misses, ""
			}
			return maybe, "?"
		default:
			return maybe, "?"
		}
	}
	return m, ""
}

package guestscript

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Bounds of what is taken from a guest, which says what it likes.
const (
	// MaxOutput is how much of a guest's output is looked at, in bytes from its
	// end: the facts are the last thing that is printed.
	MaxOutput  = 64 << 10
	maxDetail  = 200 // runes of a line
	maxUnknown = 32  // lines
)

// What the maps of facts may hold; other names are left out.
var (
	profiles = []string{"domain", "private", "public", "domain-udp", "private-udp", "public-udp", "input"}
	drivers  = []string{"storvsc", "vmbus", "storflt", "intelide", "atapi", "hv_vmbus", "hv_storvsc", "hv_netvsc", "ata_piix", "ata_generic"}
	agents   = []string{"mobility", "vmware-tools", "azure-guest-agent", "hyper-v-integration"}
)

// mark begins the line that the scripts print. PowerShell orders keys as it
// likes, so the mark may be anywhere in the line.
const mark = `"lifeboat":1`

// Parse finds the facts in what one of the scripts printed, whatever stands
// before and after them. from and at become Facts.From and Facts.At. Output
// without facts is dr.ErrInvalid.
//
// The guest is not to be trusted: what is returned is bounded in size, has no
// control characters, no names other than those that [backend.Facts] lists, and
// no answers but yes, no and unknown. Whether it is true nobody can tell.
func Parse(output []byte, from string, at time.Time) (backend.Facts, error) {
	if len(output) > MaxOutput {
		output = output[len(output)-MaxOutput:]
	}
	lines := bytes.Split(output, []byte("\n"))
	for _, line := range slices.Backward(lines) {
		line = bytes.TrimSpace(line)
		if !bytes.HasPrefix(line, []byte("{")) || !bytes.Contains(line, []byte(mark)) {
			continue
		}
		var raw backend.Facts
		if err := json.Unmarshal(line, &raw); err != nil {
			return backend.Facts{}, fmt.Errorf("%w: the facts that the guest printed: %w", dr.ErrInvalid, err)
		}
		f := tidy(raw)
		f.From, f.At = from, at
		return f, nil
	}
	return backend.Facts{}, fmt.Errorf("%w: the guest printed no facts, but %q", dr.ErrInvalid, plain(string(output[max(0, len(output)-maxDetail):])))
}

func tidy(raw backend.Facts) backend.Facts {
	f := backend.Facts{
		Release:        plain(raw.Release),
		RemoteAccess:   fact(raw.RemoteAccess),
		Firewall:       facts(raw.Firewall, profiles),
		SANPolicy:      fact(raw.SANPolicy),
		UpdatesPending: fact(raw.UpdatesPending),
		BootDrivers:    facts(raw.BootDrivers, drivers),
		DHCP:           fact(raw.DHCP),
		DHCPService:    fact(raw.DHCPService),
		StableMounts:   fact(raw.StableMounts),
		Agents:         facts(raw.Agents, agents),
	}
	if raw.OS == "windows" || raw.OS == "linux" {
		f.OS = raw.OS
	}
	for _, u := range raw.Unknown[:min(len(raw.Unknown), maxUnknown)] {
		if u = plain(u); u != "" {
			f.Unknown = append(f.Unknown, u)
		}
	}
	return f
}

func fact(raw backend.Fact) backend.Fact {
	f := backend.Fact{Detail: plain(raw.Detail)}
	if raw.Answer == backend.Yes || raw.Answer == backend.No {
		f.Answer = raw.Answer
	}
	return f
}

func facts(raw map[string]backend.Fact, known []string) map[string]backend.Fact {
	var m map[string]backend.Fact
	for _, name := range known {
		if f, ok := raw[name]; ok {
			if m == nil {
				m = map[string]backend.Fact{}
			}
			m[name] = fact(f)
		}
	}
	return m
}

// plain is s on one line, without what a terminal would obey, and not too long.
func plain(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.TrimSpace(s) {
		if n == maxDetail {
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimSpace(b.String())
}

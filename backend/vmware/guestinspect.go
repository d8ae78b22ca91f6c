package vmware

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/guestscript"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Inspect implements backend.Inspector. With Options.GuestAuth a script is run
// in the guest that only reads. Without, or when it can't be run, what VMware
// Tools tell by themselves is what is known, and Unknown says why: the kind of
// the guest, its tools, and whether it uses DHCP. dr.ErrUnsupported: not even
// the tools run.
func (v *VSphere) Inspect(ctx context.Context, id dr.MachineID) (backend.Facts, error) {
	m, err := v.findAny(ctx, id)
	if err == nil {
		err = m.toolsRun()
	}
	if err != nil {
		return backend.Facts{}, fail("inspect", id, "", -1, err)
	}
	told := m.told(time.Now().UTC())
	facts, err := v.inspectInside(ctx, m)
	if ctx.Err() != nil {
		return backend.Facts{}, fail("inspect", id, "", -1, errors.Join(err, ctx.Err()))
	}
	if err != nil {
		why := fail("inspect", id, "", -1, err)
		v.options.Log.InfoContext(ctx, "the guest was not entered, its tools tell little", "machine", id, "error", why)
		var e *dr.Error
		line := oneLine(err.Error())
		if errors.As(why, &e) && e.Remedy != "" {
			line += " (" + e.Remedy + ")"
		}
		for _, what := range []string{"remote access", "firewall", "SAN policy", "pending updates", "boot drivers", "mounts", "other agents"} {
			told.Unknown = append(told.Unknown, what+": "+line)
		}
		return told, nil
	}
	return complete(facts, told), nil
}

// inspectInside runs the script.
func (v *VSphere) inspectInside(ctx context.Context, m *machine) (backend.Facts, error) {
	d, err := v.enter(ctx, m)
	if err != nil {
		return backend.Facts{}, err
	}
	script := guestscript.Linux
	if d.os == windows {
		script = guestscript.Windows
	}
	out, exit, err := d.runScript(ctx, script)
	if err != nil {
		return backend.Facts{}, err
	}
	facts, err := guestscript.Parse(out, "guest operations", time.Now().UTC())
	if err != nil {
		return facts, fmt.Errorf("the script ended with %d: %w", exit, err)
	}
	return facts, nil
}

// told is what the tools tell without a login.
func (m *machine) told(now time.Time) backend.Facts {
	f := backend.Facts{From: "VMware Tools", At: now}
	if os := m.describe().OS; os == linux || os == windows {
		f.OS = os
	} else {
		f.Unknown = append(f.Unknown, "operating system: VMware Tools tell neither Windows nor Linux")
	}
	g := m.props.Guest
	f.Release = oneLine(g.GuestFullName)
	for _, o := range m.config.ExtraConfig {
		if v := o.GetOptionValue(); v.Key == "guestInfo.detailed.data" {
			if s, ok := v.Value.(string); ok && prettyName(s) != "" {
				f.Release = prettyName(s)
			}
		}
	}
	version := g.ToolsVersion
	if version == "" || version == "0" {
		version = g.ToolsVersionStatus2
	}
	f.Agents = map[string]backend.Fact{"vmware-tools": {Answer: backend.Yes, Detail: oneLine(version)}}
	cards := cardsOf(m.config.Hardware.Device)
	if len(cards) == 0 {
		f.Unknown = append(f.Unknown, "DHCP: the machine has no network card")
		return f
	}
	card := guestNIC(g, cards[0].GetVirtualEthernetCard())
	switch {
	case card == nil || !tellsDHCP(card):
		f.Unknown = append(f.Unknown, "DHCP: VMware Tools don't tell how the first card gets its address")
	case dhcpOf(card):
		f.DHCP = backend.Fact{Answer: backend.Yes}
	default:
		f.DHCP = backend.Fact{Answer: backend.No, Detail: oneLine(strings.Join(addressesOf(card), " "))}
	}
	return f
}

// prettyName is the guest's own name in what newer tools write of it:
// architecture='X86' ... prettyName='Debian GNU/Linux 12 (bookworm)' ...
func prettyName(s string) string {
	_, rest, ok := strings.Cut(s[:min(len(s), 4096)], "prettyName='")
	if !ok {
		return ""
	}
	name, _, ok := strings.Cut(rest, "'")
	if !ok {
		return ""
	}
	return oneLine(name)
}

// complete adds what the tools tell to what the script has found, where that is
// silent.
func complete(f, told backend.Facts) backend.Facts {
	if f.OS == "" {
		f.OS = told.OS
	}
	if f.Release == "" {
		f.Release = told.Release
	}
	if f.DHCP.Answer == backend.Unknown {
		f.DHCP = told.DHCP
	}
	if f.Agents == nil {
		f.Agents = map[string]backend.Fact{}
	}
	if f.Agents["vmware-tools"].Answer != backend.Yes {
		f.Agents["vmware-tools"] = told.Agents["vmware-tools"] // they answer, after all
	}
	return f
}

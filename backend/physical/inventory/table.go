package inventory

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// String is the report for people: a few lines of the machine, a table of the
// disks and what is on them, the cards, and the problems.
func (r Report) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		if v := strings.TrimSpace(fmt.Sprintf(format, args...)); v != "" {
			fmt.Fprintf(&b, "%-10s %s\n", name, v)
		}
	}
	line("machine", "%s  %s", r.Name, r.ID)
	line("hardware", "%s %s", r.System.Vendor, r.System.Product)
	if r.System.Virtual != "" {
		line("below", "hypervisor %s", r.System.Virtual)
	}
	firmware := string(r.Firmware)
	if r.SecureBoot {
		firmware += ", secure boot"
	}
	line("firmware", "%s", firmware)
	line("processors", "%d %s", r.CPUs, r.System.CPU)
	line("memory", "%s", size(r.Memory))
	line("system", "%s, kernel %s", r.System.Release, r.System.Kernel)

	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tSIZE\tCONTENT\tUSED\tID OR UUID")
	for _, d := range r.Disks {
		what := []string{d.Bus, d.Model, d.Table}
		if d.Content != nil {
			what = append(what, d.Content.Kind)
		}
		for _, f := range []struct {
			is   bool
			name string
		}{{d.Boot, "boot"}, {d.Removable, "removable"}, {d.ReadOnly, "read-only"}} {
			if f.is {
				what = append(what, f.name)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.Name, size(d.Size), join(what), d.Use.by(), d.ID)
		for _, p := range d.Partitions {
			name := p.Name
			if name == "" {
				name = fmt.Sprintf("partition %d", p.Number)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", name, size(p.Size), p.Use.what(), p.Use.by(), p.Use.uuid())
		}
	}
	for _, v := range r.Volumes {
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\n", v.Kind, v.Path, size(v.Size), v.Use.what(), v.Use.by(), v.Use.uuid())
	}
	w.Flush()
	for _, s := range r.Skipped {
		line("skipped", "%s: %s", s.Name, s.Why)
	}
	if len(r.Cards) > 0 {
		b.WriteString("\n")
		w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "CARD\tMAC\tDRIVER\tADDRESSES\tGATEWAY\tDHCP")
		for _, c := range r.Cards {
			dhcp := string(c.DHCP.Answer)
			if dhcp == "" {
				dhcp = "unknown"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.MAC, c.Driver, join(c.Addresses), join(c.Gateways), dhcp)
		}
		w.Flush()
	}
	if len(r.Problems) > 0 {
		b.WriteString("\n")
	}
	for _, p := range r.Problems {
		mark := "note"
		if p.Blocker {
			mark = "BLOCKER"
		}
		fmt.Fprintf(&b, "%s %s: %s\n", mark, p.Code, p.Text)
		if p.Remedy != "" {
			fmt.Fprintf(&b, "    %s\n", p.Remedy)
		}
	}
	// Columns that are empty at the end leave spaces.
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func join(list []string) string {
	var some []string
	for _, s := range list {
		if s != "" {
			some = append(some, s)
		}
	}
	return strings.Join(some, " ")
}

func (u Use) what() string {
	if u.Content == nil {
		return ""
	}
	return join([]string{u.Content.Kind, u.Content.Label})
}

func (u Use) uuid() string {
	if u.Content == nil {
		return ""
	}
	return u.Content.UUID
}

// by says who uses the device.
func (u Use) by() string {
	var list []string
	for _, m := range u.Mounts {
		at := printable(m.Path) // which is exact in the report itself
		if m.PID > 0 {
			at = fmt.Sprintf("%s (of process %d)", at, m.PID)
		}
		list = append(list, at)
	}
	if u.Swap {
		list = append(list, "[swap]")
	}
	for _, h := range u.Holders {
		list = append(list, "→"+h)
	}
	return strings.Join(list, " ")
}

// size of bytes as people write it.
func size(n int64) string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n >= 1<<u.shift {
			v := float64(n) / float64(int64(1)<<u.shift)
			return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + u.name
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d B", n)
}

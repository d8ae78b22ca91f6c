package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ValidateGroup says what keeps protections from being a replication group. The
// rules are those of Azure Site Recovery's article on failover and failback:
// its machines have one type of operating system, and are recovered at one
// target site (one master target); and so, to reprotect together, they run on
// one side at a time. They may run at different sites of that side. A machine
// whose operating system is not known, because no point of it says so, breaks
// no rule. The error wraps dr.ErrInvalid and names each rule that is broken.
func ValidateGroup(members []dr.Protection) error {
	if len(members) == 0 {
		return fmt.Errorf("replication group: %w: it has no machine", dr.ErrInvalid)
	}
	first := members[0]
	var broken []error
	refuse := func(format string, args ...any) {
		broken = append(broken, fmt.Errorf("replication group %q: %w: "+format, append([]any{first.Group, dr.ErrInvalid}, args...)...))
	}
	if first.Group == "" {
		refuse("protection %s names no group", first.ID)
	}
	var typed dr.Protection // the first whose type is known
	machines := map[dr.MachineID]dr.ProtectionID{}
	for _, p := range members {
		if p.Group != first.Group {
			refuse("protection %s is of group %q", p.ID, p.Group)
		}
		if other, taken := machines[p.Active.Machine]; taken {
			refuse("protections %s and %s are of machines of the same ID, %s", other, p.ID, p.Active.Machine)
		}
		machines[p.Active.Machine] = p.ID
		if p.AtHome() != first.AtHome() {
			refuse("%s and %s run on different sides: fail over, reprotect and fail back all machines of a group", first.ID, p.ID)
		} else if p.Standby.Site != first.Standby.Site {
			refuse("%s is recovered at site %s, and %s at site %s: a group has one target site", first.ID, first.Standby.Site, p.ID, p.Standby.Site)
		}
		switch os := osType(p.Last.Machine.OS); {
		case os == "":
		case typed.ID == "":
			typed = p
		case os != osType(typed.Last.Machine.OS):
			refuse("%s runs %s, and %s runs %s: a group has one type of operating system", typed.ID, typed.Last.Machine.OS, p.ID, p.Last.Machine.OS)
		}
	}
	return errors.Join(broken...)
}

// ValidateTogether refuses what would tear a replication group apart: chosen are
// the protections that an operation is to be done with, all are those that there
// are. Reprotecting is done with all machines of a group or none, as the same
// article says; and so is failing back, after which they would run on different
// sides. Other operations take any. The error wraps dr.ErrInvalid and names the
// machines that are missing.
func ValidateTogether(op dr.Operation, chosen, all []dr.Protection) error {
	if op != dr.OpReprotect && op != dr.OpFailback {
		return nil
	}
	var broken []error
	seen := map[string]bool{"": true}
	for _, c := range chosen {
		if seen[c.Group] {
			continue
		}
		seen[c.Group] = true
		var missing []string
		for _, p := range all {
			is := func(q dr.Protection) bool { return q.ID == p.ID }
			if p.Group == c.Group && !slices.ContainsFunc(chosen, is) {
				missing = append(missing, string(p.ID))
			}
		}
		if len(missing) > 0 {
			broken = append(broken, fmt.Errorf("replication group %q: %w: %s is done with all of its machines together; missing: %s", c.Group, dr.ErrInvalid, op, strings.Join(missing, ", ")))
		}
	}
	return errors.Join(broken...)
}

// GroupMembers finds the protections of a replication group, ordered by ID.
// dr.ErrUnsupported if the records can't be listed, dr.ErrNotFound if no
// protection names the group.
func (e *Env) GroupMembers(ctx context.Context, group string) ([]dr.Protection, error) {
	if group == "" {
		return nil, fmt.Errorf("members of a replication group: %w: it has no name", dr.ErrInvalid)
	}
	lister, ok := dr.As[dr.RecordLister](e.Records)
	if !ok {
		return nil, fmt.Errorf("members of replication group %q: %w: the records can't be listed", group, dr.ErrUnsupported)
	}
	var members []dr.Protection
	for p, err := range lister.Protections(ctx) {
		if err != nil {
			return nil, fmt.Errorf("members of replication group %q: %w", group, err)
		}
		if p.Group == group {
			members = append(members, p)
		}
	}
	if len(members) == 0 {
		return nil, fmt.Errorf("members of replication group %q: %w", group, dr.ErrNotFound)
	}
	return members, nil
}

// linuxes are how platforms begin the names of Linux: "rhel8_64Guest".
var linuxes = []string{"almalinux", "amazonlinux", "asianux", "centos", "coreos", "crxpod", "debian", "fedora", "mandr", "nld", "oes", "opensuse", "oraclelinux", "redhat", "rhel", "rocky", "sles", "suse", "turbolinux", "ubuntu", "vmwarephoton"}

// osType is the type of an operating system that a platform has named in its
// own words: "windows", "linux", or "" for what isn't known.
func osType(os string) string {
	os = strings.ToLower(os)
	switch {
	case strings.HasPrefix(os, "win"), strings.Contains(os, "windows"):
		return "windows"
	case strings.Contains(os, "linux"), slices.ContainsFunc(linuxes, func(l string) bool { return strings.HasPrefix(os, l) }):
		return "linux"
	}
	return ""
}

func distinct(ids []dr.ProtectionID) error {
	if len(ids) == 0 {
		return fmt.Errorf("replicate a group: %w: no protection is named", dr.ErrInvalid)
	}
	seen := map[dr.ProtectionID]bool{}
	for _, id := range ids {
		if seen[id] {
			return fmt.Errorf("replicate a group: %w: protection %s is named twice", dr.ErrInvalid, id)
		}
		seen[id] = true
	}
	return nil
}

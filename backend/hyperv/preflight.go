package hyperv

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Preflight implements backend.Preflighter.
func (v *HyperV) Preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	m, err := v.find(ctx, id)
	if err != nil {
		return nil, fail("preflight", id, "", -1, err)
	}
	var all []backend.Problem
	add := func(blocker bool, code string, disk dr.DiskID, text, remedy string) {
		all = append(all, backend.Problem{Code: code, Disk: disk, Text: text, Remedy: remedy, Blocker: blocker})
	}
	for _, d := range m.devices {
		add(true, d.code, d.disk, d.text, d.remedy)
	}
	for _, d := range m.disks {
		switch {
		case d.missing != nil:
			add(true, "disk-missing", d.id, fmt.Sprintf("the disk at %s can't be looked at: %v", d.label(), d.missing), "see whether the file is there and the account may read it")
		case d.info.VHD:
			add(false, "disk-vhd", d.id, fmt.Sprintf("the disk at %s is a VHD, whose changes are not tracked: it is compared whole each time", d.label()), "convert it: Convert-VHD -VHDType Dynamic to a .vhdx")
		}
	}
	if m.kept == nil {
		add(true, "no-exchange", "", errNoExchange.Error(), errNoExchange.remedy)
	}
	if m.torn() {
		add(true, "disks-torn", "", "the machine's disks are half written", "fill them from a recovery point first")
	}
	if version := m.settings.Props.String("Version"); !tracks(version) {
		add(false, "version-old", "", fmt.Sprintf("configuration version %s has no change tracking: disks are compared whole each time", version), "raise it while the machine is off: Update-VMVersion (it can't go back to an older host)")
	}
	if err := m.whole(); err != nil && len(all) == 0 {
		add(true, "disk-twice", "", err.Error(), "give one of them another identifier: Set-VHD -ResetDiskIdentifier")
	}
	if names := m.foreign(m.record); len(names) > 0 {
		add(false, "checkpoints", "", fmt.Sprintf("the machine has checkpoints of somebody else's: %q", names), "remove them before a failback to this machine: they keep its disks from being written")
	}
	if m.power() == dr.On {
		g, err := m.guest(ctx)
		if err != nil {
			return nil, fail("preflight", id, "", -1, err)
		}
		if len(g) == 0 {
			add(false, "guest-silent", "", "the guest's integration services don't answer: points are crash-consistent, and it can't be asked to shut down", "install them, or enable the services in the machine's settings")
		}
	}
	return all, nil
}

// tracks tells whether machines of a configuration version have resilient change
// tracking: since 6.2.
func tracks(version string) bool {
	major, minor, _ := strings.Cut(version, ".")
	a, err := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return err != nil || a > 6 || a == 6 && b >= 2
}

package physical

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Preflight implements [backend.Preflighter]. Its codes: "disk-missing",
// "disk-unreadable", "disk-sectors", "torn", "no-consistent-moment",
// "no-tracker", "no-freeze" and "given-up"; the last three don't keep the machine
// from being captured, nor does what a tracker adds that is a [Diagnoser].
func (h *Host) Preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	m, err := h.machine("preflight", id)
	if err != nil {
		return nil, err
	}
	rec := m.record()
	if rec == nil {
		return nil, &dr.Error{Op: "preflight", Machine: id, Err: dr.ErrNotFound}
	}
	var found []backend.Problem
	for _, d := range rec.Disks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if p := m.examine(d); p != nil {
			found = append(found, *p)
		}
	}
	if rec.Torn != "" {
		found = append(found, backend.Problem{Code: "torn", Blocker: true,
			Text: fmt.Sprintf("point %s was being copied to its disks", rec.Torn), Remedy: "copy a point to it to the end"})
	}
	if rec.Power == dr.Off {
		return found, nil
	}
	for _, d := range rec.Disks {
		if d.GivenUp {
			found = append(found, backend.Problem{Code: "given-up", Disk: d.ID,
				Text:   fmt.Sprintf("%s may be overwritten by a copy, whatever is on it, and the machine runs from it, or may", m.path(d)),
				Remedy: "take givenUp out of the machine's configuration, now that it is in use"})
		}
	}
	freezes := h.cfg.Hooks.Freeze != nil && h.cfg.Hooks.Thaw != nil
	switch {
	case !freezes && h.cfg.Tracker == nil:
		found = append(found, backend.Problem{Code: "no-consistent-moment", Blocker: true,
			Text: "it runs, or may, and can be neither frozen nor tracked", Remedy: noMoment})
	case h.cfg.Tracker == nil:
		found = append(found, backend.Problem{Code: "no-tracker",
			Text:   "no tracker: every cycle reads all disks twice, the second time frozen",
			Remedy: "give the host a tracker"})
	case !freezes:
		found = append(found, backend.Problem{Code: "no-freeze",
			Text:   "no freeze and thaw hooks: a capture ends only when a whole pass went by without a write",
			Remedy: "give the host freeze and thaw hooks"})
	}
	if t, ok := h.cfg.Tracker.(Diagnoser); ok {
		found = append(found, t.Problems(id)...)
	}
	return found, nil
}

func (m *machine) examine(d diskFile) *backend.Problem {
	f, err := m.open(d, os.O_RDONLY)
	if err != nil {
		p := &backend.Problem{Code: "disk-unreadable", Disk: d.ID, Blocker: true, Text: err.Error(), Remedy: "let this process read it"}
		if errors.Is(err, dr.ErrNotFound) {
			p.Code, p.Remedy = "disk-missing", "attach the device or restore the file at this path, or correct the configuration"
		}
		return p
	}
	size, err := f.Size()
	if err = errors.Join(err, f.Close()); err != nil {
		return &backend.Problem{Code: "disk-unreadable", Disk: d.ID, Blocker: true, Text: err.Error(), Remedy: "check the device"}
	}
	if size == 0 || size%512 != 0 {
		return &backend.Problem{Code: "disk-sectors", Disk: d.ID, Blocker: true,
			Text:   fmt.Sprintf("%s has %d bytes, which is no whole number of 512-byte sectors", m.path(d), size),
			Remedy: "check that it is a raw image of a disk, and whole"}
	}
	return nil
}

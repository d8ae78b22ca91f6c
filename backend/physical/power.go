package physical

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Start implements [backend.Target]. The machine counts as running in an
// unknown state from before the hook is called until it returned nil: a Start
// that failed or was interrupted calls it again.
func (h *Host) Start(ctx context.Context, id dr.MachineID) error {
	m, err := h.machine("start", id)
	if err != nil {
		return err
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	fail := func(err error, remedy string) error {
		return &dr.Error{Op: "start", Machine: id, Err: err, Remedy: remedy}
	}
	if m.record() == nil {
		return fail(dr.ErrNotFound, "")
	}
	if err := m.admit(ctx); err != nil {
		return fail(err, "")
	}
	rec := m.record()
	switch {
	case rec.Torn != "":
		return fail(fmt.Errorf("%w: point %s was being copied to it", dr.ErrTorn, rec.Torn), "copy a point to it to the end")
	case rec.making():
		return fail(fmt.Errorf("%w: its disks are not all made", dr.ErrTorn), "prepare it again")
	case rec.Power == dr.On:
		return nil
	case m.drafting():
		return fail(fmt.Errorf("%w: a draft is open", dr.ErrBusy), "")
	}
	power := dr.Power("")
	if h.cfg.Hooks.Start == nil {
		power = dr.On
	}
	m.outdate()
	refit := rec.Refit && rec.Power == dr.Off
	if refit {
		if err := m.ready(ctx, rec); err != nil {
			return fail(err, "")
		}
	}
	if err := m.change(func(r *record) {
		r.forget()
		r.Power, r.Switched, r.New, r.Clean = power, true, false, false
		r.Refit = r.Refit && !refit
		r.cleared(r.Machine, false)
	}); err != nil {
		return fail(err, "")
	}
	if refit {
		m.rescan(rec)
	}
	if h.cfg.Hooks.Start == nil {
		return nil
	}
	if _, err := m.call(ctx, "start", h.cfg.Hooks.Start, 0, nil); err != nil {
		return fail(err, "its power is unknown now: start it again, or stop it")
	}
	if err := m.change(func(r *record) { r.Power = dr.On }); err != nil {
		return fail(err, "")
	}
	return nil
}

// Stop implements [backend.Target]. Whether the machine runs is unknown from
// before the hook is called until it returned nil: if it fails, Start calls the
// hook for starting.
func (h *Host) Stop(ctx context.Context, id dr.MachineID) error {
	return h.off(ctx, "stop", id, h.cfg.Hooks.Stop, false)
}

func (h *Host) off(ctx context.Context, op string, id dr.MachineID, hook Hook, clean bool) error {
	m, err := h.machine(op, id)
	if err != nil {
		return err
	}
	release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if m.record() == nil {
		return &dr.Error{Op: op, Machine: id, Err: dr.ErrNotFound}
	}
	if err := m.admit(ctx); err != nil {
		return &dr.Error{Op: op, Machine: id, Err: err}
	}
	rec := m.record()
	if rec.Power == dr.Off {
		return nil
	}
	if hook == nil {
		if err := h.onSelf(op, id); err != nil {
			return err
		}
	}
	if hook != nil && rec.Power == dr.On {
		// A hook that fails, or is cut off, may have switched it off, or have
		// a guest go down later: a Start must not take it for running then.
		if err := m.change(func(r *record) { r.Power, r.Switched = "", true }); err != nil {
			return &dr.Error{Op: op, Machine: id, Err: err}
		}
	}
	if _, err := m.call(ctx, op, hook, 0, nil); err != nil {
		return &dr.Error{Op: op, Machine: id, Err: err}
	}
	if err := m.change(func(r *record) { r.Power, r.Switched, r.Clean = dr.Off, true, clean }); err != nil {
		return &dr.Error{Op: op, Machine: id, Err: err}
	}
	return nil
}

// drafting tells whether a draft is open.
func (m *machine) drafting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.draft != nil
}

// outdate ends the images of the stopped machine: what they read is about to
// change.
func (m *machine) outdate() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen++
}

package vmware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Start implements backend.Target. What the disks hold is forgotten first. A
// machine that Prepare made, and that has addresses of its own to get, is told
// them before it starts for the first time.
func (v *VSphere) Start(ctx context.Context, id dr.MachineID) error {
	return fail("start", id, "", -1, v.changing(ctx, id, func(m *machine) error {
		if runs, err := startable(m); runs || err != nil {
			return err
		}
		if m.record.Guest != nil {
			if err := v.customize(ctx, m, m.record.Guest); err != nil {
				return fmt.Errorf("set the guest's addresses: %w", err)
			}
		}
		r := m.record
		r.Holds, r.New, r.Guest = "", false, nil
		if err := v.save(ctx, m, r); err != nil {
			return err
		}
		_, err := v.effect(ctx, m, func(ctx context.Context) (*object.Task, error) {
			return object.NewVirtualMachine(v.client, m.ref).PowerOn(ctx)
		})
		if isAlready(err, types.VirtualMachinePowerStatePoweredOn) {
			return nil
		}
		return err
	}))
}

// startable tells whether a machine runs already, or why it can't.
func startable(m *machine) (runs bool, err error) {
	if m.record.Torn {
		return false, &explained{dr.ErrTorn, "fill its disks from a recovery point first"}
	}
	if err := m.reachable(); err != nil {
		return false, err
	}
	return powerOf(m.props.Runtime) == dr.On, nil
}

// reachable tells whether what vSphere says of the machine is so now: of one
// whose host is lost it repeats what it knew last.
func (m *machine) reachable() error {
	s := m.props.Runtime.ConnectionState
	if s == "" || s == types.VirtualMachineConnectionStateConnected {
		return nil
	}
	return &explained{fmt.Errorf("vSphere doesn't know whether the machine runs: it is %s", spaced(string(s))), "connect its host again, make its files reachable, or register it anew"}
}

// Stop implements backend.Target.
func (v *VSphere) Stop(ctx context.Context, id dr.MachineID) error {
	return fail("stop", id, "", -1, v.changingAny(ctx, id, func(m *machine) error { return v.powerOff(ctx, m) }))
}

func (v *VSphere) powerOff(ctx context.Context, m *machine) error {
	if m.off() {
		return nil
	}
	_, err := v.effect(ctx, m, func(ctx context.Context) (*object.Task, error) {
		return object.NewVirtualMachine(v.client, m.ref).PowerOff(ctx)
	})
	if isAlready(err, types.VirtualMachinePowerStatePoweredOff) {
		return nil
	}
	return err
}

// isAlready tells whether a change of power failed because nothing was to do.
func isAlready(err error, want types.VirtualMachinePowerState) bool {
	switch f := faultOf(err).(type) {
	case types.InvalidPowerState:
		return f.ExistingState == want
	case *types.InvalidPowerState:
		return f.ExistingState == want
	}
	return false
}

// pollPower is how often a guest that shuts down is looked at.
const pollPower = time.Second

// Shutdown implements backend.Shutdowner, by the guest's tools.
func (v *VSphere) Shutdown(ctx context.Context, id dr.MachineID) error {
	asked := false
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, pollPower) {
		m, err := v.findAny(ctx, id)
		if err == nil {
			err = v.admit(ctx, m)
		}
		if err == nil && m.guard.owed {
			err = v.rememberLocked(ctx, m)
			if errors.Is(err, dr.ErrConflict) { // somebody in this process was faster
				continue
			}
		}
		if err != nil {
			return fail("shut down", id, "", -1, err)
		}
		if m.off() {
			return nil
		}
		if m.props.Runtime.PowerState == types.VirtualMachinePowerStateSuspended {
			return fail("shut down", id, "", -1, &explained{fmt.Errorf("%w: the machine is suspended, and its guest can't be asked", dr.ErrConflict),
				"resume it, or fail over without shutting down: what is in its memory is lost then"})
		}
		if !asked {
			if err := object.NewVirtualMachine(v.client, m.ref).ShutdownGuest(v.guarded(ctx, m)); err != nil {
				err = explain(err)
				switch faultOf(err).(type) {
				case types.ToolsUnavailable, *types.ToolsUnavailable:
					err = &explained{err, "VMware Tools don't run in the guest, so that it can't be asked: shut it down from inside, or fail over without shutting down"}
				case types.InvalidPowerState, *types.InvalidPowerState:
					err = nil // it went off, or on, meanwhile: look again
				}
				if err != nil {
					return fail("shut down", id, "", -1, err)
				}
			} else {
				asked = true
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fail("shut down", id, "", -1, fmt.Errorf("the guest was asked and is not off: %w", ctx.Err()))
		}
	}
}

// Probe implements backend.Prober: it waits for the heartbeat of the guest's
// tools, or, of a guest without tools, for the machine to run.
func (v *VSphere) Probe(ctx context.Context, id dr.MachineID) (backend.Evidence, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*pollPower) {
		m, err := v.findAny(ctx, id)
		if err != nil {
			return backend.Evidence{}, fail("probe", id, "", -1, err)
		}
		on := m.props.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
		if g := m.props.Guest; on && g != nil && g.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
			what := "the guest's tools answer"
			if g.HostName != "" {
				what += ": " + oneLine(g.HostName)
			}
			if g.IpAddress != "" {
				what += " at " + oneLine(g.IpAddress)
			}
			return backend.Evidence{Kind: "heartbeat", What: what}, nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			state := "is off"
			if on {
				state = "runs, but the guest's tools don't answer"
			}
			return backend.Evidence{}, fail("probe", id, "", -1, fmt.Errorf("the machine %s: %w", state, ctx.Err()))
		}
	}
}

// oneLine takes foreign text's line breaks out, and bounds it.
func oneLine(s string) string {
	b := []byte(s[:min(len(s), 200)])
	for i := range b {
		if b[i] < ' ' {
			b[i] = ' '
		}
	}
	return string(b)
}

// changing runs f with the machine as it is now, one change of a machine at a
// time, if the fences of ctx admit it.
func (v *VSphere) changing(ctx context.Context, id dr.MachineID, f func(*machine) error) error {
	return v.changingAny(ctx, id, func(m *machine) error {
		if m.unread != nil {
			return m.unread
		}
		return f(m)
	})
}

// changingAny is changing for what needs no record.
func (v *VSphere) changingAny(ctx context.Context, id dr.MachineID, f func(*machine) error) error {
	unlock, err := v.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := v.findAny(ctx, id)
	if err != nil {
		return err
	}
	if err := v.admit(ctx, m); err != nil {
		return err
	}
	if err := f(m); err != nil {
		return err
	}
	return v.remember(ctx, m)
}

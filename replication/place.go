package replication

import (
	"errors"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// locate joins a place with an error that may know its place already: what the
// cause says itself is kept, what it left out is filled in, and nothing is
// said twice.
func locate(at *dr.Error) error {
	cause, ok := at.Err.(*dr.Error)
	if !ok {
		return at
	}
	e := *cause
	if e.Op == "" {
		e.Op = at.Op
	}
	if e.Side == "" {
		e.Side = at.Side
	}
	if e.Site == "" {
		e.Site = at.Site
	}
	if e.Machine == "" {
		e.Machine = at.Machine
	}
	if e.Point == "" {
		e.Point = at.Point
	}
	if e.Disk == "" {
		e.Disk, e.Off = at.Disk, at.Off
	}
	if e.Remedy == "" {
		e.Remedy = at.Remedy
	}
	return &e
}

// join is errors.Join that leaves one error alone as it is.
func join(err, more error) error {
	switch {
	case more == nil:
		return err
	case err == nil:
		return more
	}
	return errors.Join(err, more)
}

// fail names the place of an error of a cycle.
func (c *Cycle) fail(op string, side dr.Side, m dr.MachineID, p dr.PointID, err error, remedy string) error {
	return locate(&dr.Error{Op: op, Side: side, Site: c.site(side), Machine: m, Point: p, Err: err, Remedy: remedy})
}

func (c *Cycle) site(side dr.Side) string {
	switch side {
	case dr.SourceSide:
		return c.SourceSite
	case dr.StoreSide:
		return c.StoreSite
	}
	return ""
}

// placed tells an error of Copy in the words of a cycle, whose target is a
// store.
func (c *Cycle) placed(err error, line dr.MachineID, name dr.PointID) error {
	e, ok := err.(*dr.Error)
	if !ok {
		return err
	}
	at := *e
	if at.Side == dr.TargetSide {
		at.Side, at.Machine = dr.StoreSide, line
	}
	if at.Site == "" {
		at.Site = c.site(at.Side)
	}
	if at.Point == "" {
		at.Point = name
	}
	if at.Remedy == "" && !dr.IsPermanent(err) {
		at.Remedy = "the next cycle goes on from here if both sides can, else it begins anew"
	}
	return &at
}

// remedy is what a person can do about a failed capture or draft.
func remedy(err error) string {
	switch {
	case errors.Is(err, dr.ErrTorn):
		return "the machine's disks are half written: copy a recovery point to it first"
	case errors.Is(err, dr.ErrNotConsistent):
		return "ask for a weaker consistency, or see in the guest why it can't be quiesced"
	case errors.Is(err, dr.ErrBusy):
		return "wait for the other cycle or flow of this machine to end"
	case errors.Is(err, dr.ErrRunning):
		return "switch the machine off"
	}
	return ""
}

package hyperv

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// explained carries a remedy to where the place is known.
type explained struct {
	err    error
	remedy string
}

func (e *explained) Error() string { return e.err.Error() }
func (e *explained) Unwrap() error { return e.err }

// explain makes what a host reported an error that callers can branch on, and
// that says what to do.
func explain(err error) error {
	var x *explained
	if err == nil || errors.As(err, &x) {
		return err
	}
	say := func(sentinel error, remedy string) error {
		return &explained{fmt.Errorf("%w: %w", sentinel, err), remedy}
	}
	switch {
	case errors.Is(err, host.ErrNotFound):
		return say(dr.ErrNotFound, "")
	case errors.Is(err, host.ErrNamespace):
		return say(dr.ErrUnsupported, "install the Hyper-V role on the host")
	case errors.Is(err, host.ErrDenied):
		return say(fs.ErrPermission, "make the account a member of the host's Hyper-V Administrators, and of Administrators for its files; package hyperv's documentation lists what is needed")
	case errors.Is(err, host.ErrBusy), errors.Is(err, host.ErrInUse):
		return say(dr.ErrBusy, "something else is at work on the machine or holds one of its files: a backup, a migration, a merge; it is tried again")
	case errors.Is(err, host.ErrExists):
		return say(dr.ErrExists, "")
	case errors.Is(err, host.ErrFull):
		return say(errNoRoom, "make room on the volume, or choose another folder")
	case errors.Is(err, host.ErrTrackingLost):
		return say(dr.ErrChangesLost, "")
	case errors.Is(err, host.ErrUnreachable):
		return &explained{err, "see whether the host is up, and its services Hyper-V Virtual Machine Management and Windows Management Instrumentation run"}
	case errors.Is(err, host.ErrUnsupported):
		return say(dr.ErrUnsupported, "")
	}
	return err
}

var errNoRoom = errors.New("the volume is full")

// fail says where an error happened. An error that says so already stays.
func fail(op string, id dr.MachineID, disk dr.DiskID, off int64, err error) error {
	if err == nil {
		return nil
	}
	var known *dr.Error
	if errors.As(err, &known) {
		return err
	}
	err = explain(err)
	out := &dr.Error{Op: op, Machine: id, Disk: disk, Off: off, Err: err}
	var x *explained
	if errors.As(err, &x) {
		out.Remedy = x.remedy
	}
	return out
}

func withPoint(err error, p dr.PointID) error {
	if e, ok := err.(*dr.Error); ok && e.Point == "" {
		e.Point = p
	}
	return err
}

func isNotFound(err error) bool {
	return errors.Is(err, dr.ErrNotFound) || errors.Is(err, host.ErrNotFound)
}

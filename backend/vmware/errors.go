package vmware

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"

	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// faultOf is the fault of the API that an error carries, however deep, or nil.
func faultOf(err error) types.AnyType {
	if failed, ok := err.(task.Error); ok {
		return failed.Fault()
	}
	switch {
	case err == nil:
		return nil
	case soap.IsSoapFault(err):
		return soap.ToSoapFault(err).VimFault()
	case soap.IsVimFault(err):
		return soap.ToVimFault(err)
	}
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return faultOf(x.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range x.Unwrap() {
			if f := faultOf(inner); f != nil {
				return f
			}
		}
	}
	return nil
}

// explain makes a fault an error that callers can branch on, and that says what
// to do. Errors that are no faults stay as they are.
func explain(err error) error {
	say := func(sentinel error, remedy string) error {
		return &explained{err: fmt.Errorf("%w: %w", sentinel, err), remedy: remedy}
	}
	switch f := faultOf(err).(type) {
	case types.ManagedObjectNotFound, *types.ManagedObjectNotFound:
		return say(dr.ErrNotFound, "")
	case types.NoPermission:
		return say(fs.ErrPermission, noPermission(&f))
	case *types.NoPermission:
		return say(fs.ErrPermission, noPermission(f))
	case types.InvalidLogin, *types.InvalidLogin:
		return say(fs.ErrPermission, "check User and Password")
	case types.TaskInProgress, *types.TaskInProgress:
		return say(dr.ErrBusy, "another task is working on the machine; it is tried again")
	case types.FileLocked, *types.FileLocked:
		return say(dr.ErrBusy, "a file of the machine is locked: another backup may be reading it, or a disk may still be attached to a proxy")
	case types.ConcurrentAccess, *types.ConcurrentAccess:
		return say(dr.ErrConflict, "")
	case types.DuplicateName, *types.DuplicateName:
		return say(dr.ErrExists, "there is a machine of that name in the folder: choose another name, or another folder")
	case types.NoDiskSpace, *types.NoDiskSpace:
		return say(errNoRoom, "make room on the datastore, or choose another one")
	case types.InvalidPowerState:
		return powerState(f.ExistingState, say)
	case *types.InvalidPowerState:
		return powerState(f.ExistingState, say)
	}
	return err
}

var errNoRoom = errors.New("the datastore is full")

func noPermission(f *types.NoPermission) string {
	if f.PrivilegeId == "" {
		return "the account lacks a privilege; package vmware's documentation lists those that are needed"
	}
	return "give the account the privilege " + f.PrivilegeId
}

func powerState(is types.VirtualMachinePowerState, say func(error, string) error) error {
	if is == types.VirtualMachinePowerStatePoweredOn {
		return say(dr.ErrRunning, "")
	}
	return say(dr.ErrConflict, "the machine is "+string(is))
}

// explained carries a remedy to where the place is known.
type explained struct {
	err    error
	remedy string
}

func (e *explained) Error() string { return e.err.Error() }
func (e *explained) Unwrap() error { return e.err }

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

func isNotFound(err error) bool { return errors.Is(err, dr.ErrNotFound) }

// withoutURL takes the address out of an error of a transfer: it is a ticket.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

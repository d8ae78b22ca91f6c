package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	guestops "github.com/vmware/govmomi/guest"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// The kinds of guests that can be entered.
const (
	linux   = "linux"
	windows = "windows"
)

// door is the way into one running guest, by its tools.
type door struct {
	v         *VSphere
	m         *machine
	os        string // linux or windows
	auth      *types.NamePasswordAuthentication
	processes *guestops.ProcessManager
	files     *guestops.FileManager
}

const remedyTools = "start VMware Tools (open-vm-tools) in the guest, and see that they are of a current version"

// toolsRun tells whether the guest of a machine can be talked to, or why not.
func (m *machine) toolsRun() error {
	if err := m.reachable(); err != nil {
		return err
	}
	if powerOf(m.props.Runtime) != dr.On {
		return &explained{fmt.Errorf("%w: the machine is not running", dr.ErrConflict), "start it"}
	}
	g := m.props.Guest
	if g == nil || g.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return &explained{fmt.Errorf("%w: VMware Tools don't run in the guest", dr.ErrUnsupported), remedyTools}
	}
	return nil
}

// enter asks for the guest's credentials and opens its door; nothing is
// sent to the guest yet.
func (v *VSphere) enter(ctx context.Context, m *machine) (*door, error) {
	if err := m.toolsRun(); err != nil {
		return nil, err
	}
	if v.options.GuestAuth == nil {
		return nil, &explained{fmt.Errorf("%w: there are no credentials for the guest", dr.ErrUnsupported), "set Options.GuestAuth"}
	}
	d := &door{v: v, m: m, os: m.describe().OS}
	if d.os != linux && d.os != windows {
		return nil, &explained{fmt.Errorf("%w: no script for a guest of the kind %q", dr.ErrUnsupported, oneLine(d.os)), ""}
	}
	user, password, err := v.options.GuestAuth(ctx, m.describe())
	if err != nil {
		return nil, fmt.Errorf("credentials for the guest: %w", err)
	}
	if user == "" {
		return nil, &explained{fmt.Errorf("%w: Options.GuestAuth names no user for this machine", dr.ErrUnsupported), "give it one"}
	}
	d.auth = &types.NamePasswordAuthentication{Username: user, Password: password}
	if v.client.ServiceContent.GuestOperationsManager == nil {
		return nil, fmt.Errorf("%w: this vSphere has no guest operations", dr.ErrUnsupported)
	}
	om := guestops.NewOperationsManager(v.client, m.ref)
	if d.processes, err = om.ProcessManager(ctx); err != nil {
		return nil, explain(err)
	}
	if d.files, err = om.FileManager(ctx); err != nil {
		return nil, explain(err)
	}
	return d, nil
}

// patience is how often what the tools refuse for the moment is asked again.
const (
	firstAsk  = 100 * time.Millisecond
	lastAsk   = 2 * time.Second
	loginAsks = 6
)

// ask makes one call to the guest. Tools that are busy, or that come up only
// now, refuse it without an effect, and are asked again.
func (d *door) ask(ctx context.Context, call func() error) error {
	wait := firstAsk
	for n := 1; ; n++ {
		err := explainGuest(call())
		if err == nil || n == loginAsks || !errors.Is(err, errNotNow) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
		wait = min(2*wait, lastAsk)
	}
}

// errNotNow: the guest's tools don't take operations at the moment.
var errNotNow = errors.New("the guest's tools do not answer")

// explainGuest is explain for what guests refuse.
func explainGuest(err error) error {
	say := func(sentinel error, remedy string) error {
		return &explained{err: fmt.Errorf("%w: %w", sentinel, err), remedy: remedy}
	}
	switch f := faultOf(err).(type) {
	case types.InvalidGuestLogin, *types.InvalidGuestLogin:
		return say(fs.ErrPermission, "check the user and the password that Options.GuestAuth gives for this machine; a local account, or DOMAIN\\user")
	case types.GuestPermissionDenied, *types.GuestPermissionDenied:
		return say(fs.ErrPermission, "give Options.GuestAuth's user more rights in the guest: root, or an administrator")
	case types.GuestOperationsUnavailable, *types.GuestOperationsUnavailable, types.ToolsUnavailable, *types.ToolsUnavailable:
		return say(errNotNow, remedyTools)
	case types.TaskInProgress, *types.TaskInProgress:
		return say(errNotNow, "another task is working on the machine; it is tried again")
	case types.OperationDisabledByGuest, *types.OperationDisabledByGuest:
		return say(dr.ErrUnsupported, "allow guest operations in the guest's tools.conf, section [guestoperations]")
	case types.OperationNotSupportedByGuest, *types.OperationNotSupportedByGuest, types.GuestComponentsOutOfDate, *types.GuestComponentsOutOfDate:
		return say(dr.ErrUnsupported, "update VMware Tools in the guest")
	case types.FileNotFound, *types.FileNotFound:
		return say(dr.ErrNotFound, "")
	case types.GuestProcessNotFound, *types.GuestProcessNotFound:
		return say(dr.ErrNotFound, "")
	case types.InvalidPowerState:
		return notRunning(f.ExistingState, say)
	case *types.InvalidPowerState:
		return notRunning(f.ExistingState, say)
	}
	return explain(err)
}

func notRunning(is types.VirtualMachinePowerState, say func(error, string) error) error {
	return say(dr.ErrConflict, "the machine is "+string(is)+", and its guest can't be asked")
}

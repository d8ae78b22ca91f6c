package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

const guestPassword = "hunter2-of-the-guest"

// withGuest gives the backend credentials for all guests.
func withGuest(o *Options) {
	o.GuestAuth = func(context.Context, dr.Machine) (string, string, error) { return "root", guestPassword, nil }
}

// login is a guest that lets us in.
func login(g vmwaretest.Guest) vmwaretest.Guest {
	g.Users = map[string]string{"root": guestPassword}
	return g
}

// open is a door into the guest of a pit.
func (p *pit) open() *door {
	p.t.Helper()
	d, err := p.v.enter(p.t.Context(), p.look())
	require.NoError(p.t, err)
	return d
}

func TestInspectWithoutCredentials(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib))
	t.Parallel() // vcsim is set up one at a time
	p.vm.SetGuest(vmwaretest.Guest{HostName: "web", FullName: "Debian GNU/Linux 12 (64-bit)", Family: "linuxGuest"})
	f, err := p.v.Inspect(t.Context(), p.id)
	require.NoError(t, err)
	require.Equal(t, "linux", f.OS)
	require.Equal(t, "Debian GNU/Linux 12 (64-bit)", f.Release)
	require.Equal(t, backend.Yes, f.Agents["vmware-tools"].Answer)
	require.Equal(t, backend.Unknown, f.DHCP.Answer, "tools that say nothing of DHCP have not said no")
	require.Equal(t, backend.Unknown, f.RemoteAccess.Answer)
	require.Contains(t, strings.Join(f.Unknown, "\n"), "remote access")
	require.Contains(t, strings.Join(f.Unknown, "\n"), "Options.GuestAuth")
	_, can := dr.As[backend.Quiescer](p.v)
	require.False(t, can, "a flow that needs it must be refused before its first step")

	p.vm.SetGuest(vmwaretest.Guest{Tools: vmwaretest.ToolsMissing})
	_, err = p.v.Inspect(t.Context(), p.id)
	require.ErrorIs(t, err, dr.ErrUnsupported)
	require.ErrorContains(t, err, "start VMware Tools")
	require.NoError(t, p.vm.PowerOff())
	_, err = p.v.Inspect(t.Context(), p.id)
	require.ErrorIs(t, err, dr.ErrConflict)
}

// What the guest answers is read, and what keeps us out is said.
func TestInspectAsksTheGuest(t *testing.T) {
	var logged bytes.Buffer
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib), withGuest, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
	t.Parallel() // vcsim is set up one at a time
	p.vm.SetGuest(login(vmwaretest.Guest{Shell: shortFolder(t)}))
	f, err := p.v.Inspect(t.Context(), p.id)
	require.NoError(t, err)
	require.Equal(t, "guest operations", f.From)
	require.Equal(t, "linux", f.OS)
	require.Equal(t, backend.Yes, f.Agents["vmware-tools"].Answer)
	require.Empty(t, p.vm.GuestFiles())
	require.Empty(t, p.vm.Programs())

	g := vmwaretest.Guest{Users: map[string]string{"root": "another"}}
	p.vm.SetGuest(g)
	f, err = p.v.Inspect(t.Context(), p.id)
	require.NoError(t, err)
	require.Equal(t, "VMware Tools", f.From)
	require.Contains(t, f.Unknown[len(f.Unknown)-1], "check the user and the password")
	require.NotContains(t, fmt.Sprint(f)+logged.String(), guestPassword)
}

func TestGuestRefusals(t *testing.T) {
	for name, x := range map[string]struct {
		fault types.BaseMethodFault
		is    error
		says  string
	}{
		"wrong login":     {&types.InvalidGuestLogin{}, fs.ErrPermission, "GuestAuth"},
		"no rights":       {&types.GuestPermissionDenied{}, fs.ErrPermission, "administrator"},
		"tools are gone":  {&types.GuestOperationsUnavailable{}, errNotNow, "start VMware Tools"},
		"forbidden":       {&types.OperationDisabledByGuest{}, dr.ErrUnsupported, "tools.conf"},
		"old tools":       {&types.GuestComponentsOutOfDate{}, dr.ErrUnsupported, "update VMware Tools"},
		"off":             {&types.InvalidPowerState{ExistingState: types.VirtualMachinePowerStatePoweredOff}, dr.ErrConflict, "poweredOff"},
		"no such program": {&types.FileNotFound{}, dr.ErrNotFound, "start /bin/sh"},
		"not allowed":     {&types.NoPermission{PrivilegeId: "VirtualMachine.GuestOperations.Execute"}, fs.ErrPermission, "GuestOperations.Execute"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPit(t, vmwaretest.Options{}, oneDisk(mib), withGuest)
			t.Parallel() // vcsim is set up one at a time
			p.vm.SetGuest(login(vmwaretest.Guest{OnProgram: func(context.Context, vmwaretest.GuestProgram) int { return 0 }}))
			d := p.open()
			p.sim.Fault(vmwaretest.Fault{Call: "StartProgramInGuest", Err: x.fault, Times: -1})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _, err := d.runScript(ctx, "true")
			err = fail("inspect", p.id, "", -1, err)
			require.ErrorIs(t, err, x.is)
			require.ErrorContains(t, err, x.says)
			require.NotContains(t, err.Error(), guestPassword)
			require.Empty(t, p.vm.GuestFiles())
		})
	}
}

// Every call fails once, before or after its effect, its transfer breaks, or the
// session is gone: the script has run or there is an error, and nothing is left.
func TestRunScriptUnderFaults(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib), withGuest)
	t.Parallel() // vcsim is set up one at a time
	p.vm.SetGuest(login(vmwaretest.Guest{Shell: shortFolder(t)}))
	d := p.open()
	run := func() (string, error) {
		out, exit, err := d.runScript(t.Context(), "echo hello; exit 3")
		if err == nil {
			require.Equal(t, 3, exit)
		}
		return string(out), err
	}
	out, err := run()
	require.NoError(t, err)
	require.Equal(t, "hello\n", out)
	cured := 0
	for _, call := range []string{"CreateTemporaryDirectoryInGuest", "ListFilesInGuest", "InitiateFileTransferToGuest", "PUT /guest", "StartProgramInGuest",
		"ListProcessesInGuest", "InitiateFileTransferFromGuest", "GET /guest", "DeleteDirectoryInGuest"} {
		for _, f := range []vmwaretest.Fault{{Err: &types.GuestOperationsUnavailable{}}, {Drop: true}, {When: vmwaretest.AfterEffect, Drop: true}} {
			f.Call = call
			armed := p.sim.Fault(f)
			out, err := run()
			require.Equal(t, 1, armed.Hits(), "%s %+v", call, f)
			armed.Remove()
			if err == nil {
				cured++
				require.Equal(t, "hello\n", out)
			}
			require.NotContains(t, fmt.Sprint(err), guestPassword)
			require.NotContains(t, fmt.Sprint(err), "/guest/", "the address of a transfer is a ticket")
		}
	}
	require.Greater(t, cured, 15, "of 27")
	next := p.v.session.next
	for _, call := range []string{"CreateTemporaryDirectoryInGuest", "InitiateFileTransferToGuest", "StartProgramInGuest", "ListProcessesInGuest", "DeleteDirectoryInGuest"} {
		p.v.session.next = &replaced{next, p.sim, call, 1}
		out, err := run()
		require.NoError(t, err, call)
		require.Equal(t, "hello\n", out)
	}
	// What could not be removed at the time is by the next call, when it is old.
	p.vm.AgeGuestFiles(2 * time.Hour)
	_, err = run()
	require.NoError(t, err)
	require.Empty(t, p.vm.GuestFiles())
}

func TestRunScriptEnds(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib), withGuest)
	t.Parallel() // vcsim is set up one at a time
	p.vm.SetGuest(login(vmwaretest.Guest{Shell: shortFolder(t)}))
	d := p.open()
	_, _, err := d.runScript(t.Context(), "head -c 2000000 /dev/zero")
	require.ErrorContains(t, err, "more than")

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	_, _, err = d.runScript(ctx, "sleep 100 & wait")
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, p.vm.GuestFiles())
	require.Eventually(t, func() bool { return len(p.vm.Programs()) == 0 }, time.Minute, time.Millisecond)

	time.AfterFunc(300*time.Millisecond, func() { _ = p.vm.PowerOff() })
	_, _, err = d.runScript(t.Context(), "sleep 100 & wait")
	require.ErrorIs(t, err, dr.ErrConflict)
}

// A folder that somebody uses, or that isn't ours, is left.
func TestSweepOfGuestsLeavesOthers(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib), withGuest)
	p.vm.SetGuest(login(vmwaretest.Guest{OnProgram: func(context.Context, vmwaretest.GuestProgram) int { return 0 }}))
	d := p.open()
	_, err := d.files.CreateTemporaryDirectory(t.Context(), d.auth, "theirs-", "", "")
	require.NoError(t, err)
	_, err = d.folder(t.Context(), "")
	require.NoError(t, err)
	p.vm.AgeGuestFiles(2 * time.Hour)
	_, err = d.folder(t.Context(), "")
	require.NoError(t, err)
	_, err = d.folder(t.Context(), "")
	require.NoError(t, err)
	var names []string
	for _, f := range p.vm.GuestFiles() {
		names = append(names, f[:10])
	}
	require.Equal(t, []string{"/tmp/lifeb", "/tmp/lifeb", "/tmp/their"}, names)
}

func TestWindowsScript(t *testing.T) {
	var mu sync.Mutex
	var ran []string
	p := newPit(t, vmwaretest.Options{OnGuestProgram: func(_ context.Context, g vmwaretest.GuestProgram) int {
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, g.Path+" "+g.Arguments)
		for _, f := range g.VM.GuestFiles() {
			if script, ok := strings.CutSuffix(f, `\run.ps1`); ok {
				text, _ := g.VM.GuestFile(f)
				_ = g.VM.PutGuestFile(script+`\out`, append([]byte("\xef\xbb\xbf"), text...))
			}
		}
		return 0
	}}, oneDisk(mib), withGuest)
	p.vm.SetGuest(login(vmwaretest.Guest{Family: "windowsGuest"}))
	out, _, err := p.open().runScript(t.Context(), "Get-Date")
	require.NoError(t, err)
	require.Equal(t, "Get-Date", string(out))
	require.Contains(t, ran[0], `powershell.exe -NoProfile`)
	require.NotContains(t, ran[0], guestPassword)
	require.Empty(t, p.vm.GuestFiles())

	q, ok := dr.As[backend.Quiescer](p.v)
	require.True(t, ok)
	_, _, err = q.Quiesce(t.Context(), p.id, dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrUnsupported)
	require.ErrorContains(t, err, "ten seconds")
}

// Paths that a guest makes up are not made part of a command.
func TestGuestPathsAreNotBelieved(t *testing.T) {
	for p, ok := range map[string]bool{"/dev/shm/lifeboat-x1": true, "/tmp/a b": false, "/tmp/$(reboot)": false, "/tmp/../etc": false, "": false, "/tmp/a'b": false} {
		require.Equal(t, ok, safePath(p, linux), p)
	}
	require.True(t, safePath(`C:\Users\ADMINI~1\AppData\Local\Temp\lifeboat-vmware12`, windows))
	require.False(t, safePath(`C:\a' ; reboot '`, windows))
}

func TestGuestAuthFails(t *testing.T) {
	broken := errors.New("the vault is sealed")
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib), func(o *Options) {
		o.GuestAuth = func(context.Context, dr.Machine) (string, string, error) { return "", "", broken }
	})
	f, err := p.v.Inspect(t.Context(), p.id)
	require.NoError(t, err)
	require.Contains(t, f.Unknown[len(f.Unknown)-1], "sealed")
	q, _ := dr.As[backend.Quiescer](p.v)
	_, _, err = q.Quiesce(t.Context(), p.id, dr.CrashConsistent)
	require.ErrorIs(t, err, broken)
}

func TestCheckAsksForWhatGuestsNeed(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, oneDisk(mib), withGuest)
	p.sim.Deny("VirtualMachine.GuestOperations.Execute")
	found, err := p.v.Check(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Contains(t, found[0].Text, "GuestOperations.Execute")
	p = newPit(t, vmwaretest.Options{}, oneDisk(mib))
	p.sim.Deny("VirtualMachine.GuestOperations.Execute")
	found, err = p.v.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, found, "nobody needs it without credentials")
}

// after does something when a call has returned.
type after struct {
	soap.RoundTripper
	call string
	then func()
}

func (a *after) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	err := a.RoundTripper.RoundTrip(ctx, req, res)
	if callName(req) == a.call {
		a.then()
	}
	return err
}

// A snapshot that took longer than the guest may stay frozen is not kept under
// what it can't promise.
func TestCaptureOutlastsTheFreeze(t *testing.T) {
	p := newPit(t, vmwaretest.Options{OnGuestProgram: heldGuest}, oneDisk(mib), withGuest)
	p.vm.SetGuest(login(vmwaretest.Guest{}))
	q, _ := dr.As[backend.Quiescer](p.v)
	_, thaw, err := q.Quiesce(t.Context(), p.id, dr.FileSystemConsistent)
	require.NoError(t, err)
	p.v.session.next = &after{p.v.session.next, "CreateSnapshot_Task", func() {
		p.v.held.mu.Lock()
		defer p.v.held.mu.Unlock()
		p.v.held.all[p.id].ends = time.Now()
	}}
	_, err = p.v.Capture(t.Context(), p.id, "late", dr.FileSystemConsistent)
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.Zero(t, p.vm.Snapshots())
	require.NoError(t, thaw(t.Context()))
}

// heldGuest says what guestfreeze.sh says, and holds the simulator's guest.
func heldGuest(ctx context.Context, p vmwaretest.GuestProgram) int {
	file := strings.TrimSuffix(p.Arguments, "run.sh") + "state"
	state := fmt.Sprintf("lifeboat-freeze 1\npid %d\nholding\n", p.PID)
	say := func(line string) {
		state += line + "\n"
		_ = p.VM.PutGuestFile(file, []byte(state))
	}
	say("froze ext4 /")
	p.VM.Freeze()
	say("frozen")
	<-ctx.Done()
	say("asked")
	p.VM.Thaw()
	say("thawed")
	return 0
}

package vmwaretest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/guest/toolbox"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// tools is govmomi's own client of guest operations.
func (r *rig) tools(user, password string) *toolbox.Client {
	r.t.Helper()
	c, err := toolbox.NewClient(context.Background(), r.c.Client, r.vm, &types.NamePasswordAuthentication{Username: user, Password: password})
	require.NoError(r.t, err)
	return c
}

func TestGuestOperations(t *testing.T) {
	started := make(chan vmwaretest.GuestProgram, 1)
	r := newRig(t, vmwaretest.Options{OnGuestProgram: func(ctx context.Context, p vmwaretest.GuestProgram) int {
		started <- p
		<-ctx.Done()
		return 7
	}}, vmwaretest.VMSpec{})
	r.vm.SetGuest(vmwaretest.Guest{Users: map[string]string{"root": "toor"}})
	ctx, c := t.Context(), r.tools("root", "toor")

	dir, err := c.FileManager.CreateTemporaryDirectory(ctx, c.Authentication, "p-", "-s", "")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(dir, "/tmp/p-") && strings.HasSuffix(dir, "-s"), dir)
	up := soap.DefaultUpload
	require.NoError(t, c.Upload(ctx, strings.NewReader("hello"), dir+"/f", up, &types.GuestPosixFileAttributes{}, true))
	body, _, err := c.Download(ctx, dir+"/f")
	require.NoError(t, err)
	got, err := io.ReadAll(body)
	require.NoError(t, errors.Join(err, body.Close()))
	require.Equal(t, "hello", string(got))
	list, err := c.FileManager.ListFiles(ctx, c.Authentication, dir, 0, 10, "^f")
	require.NoError(t, err)
	require.Equal(t, "f", list.Files[0].Path)
	require.EqualValues(t, 5, list.Files[0].Size)

	pid, err := c.ProcessManager.StartProgram(ctx, c.Authentication, &types.GuestProgramSpec{ProgramPath: "/bin/wait", Arguments: "for it"})
	require.NoError(t, err)
	require.Equal(t, vmwaretest.GuestProgram{VM: r.vm, User: "root", Path: "/bin/wait", Arguments: "for it", PID: pid}, <-started)
	require.Len(t, r.vm.Programs(), 1)
	require.NoError(t, c.ProcessManager.TerminateProcess(ctx, c.Authentication, pid))
	require.Eventually(t, func() bool {
		ps, err := c.ProcessManager.ListProcesses(ctx, c.Authentication, []int64{pid})
		return err == nil && len(ps) == 1 && ps[0].EndTime != nil && ps[0].ExitCode == 7
	}, time.Minute, time.Millisecond)
	require.ErrorContains(t, c.ProcessManager.TerminateProcess(ctx, c.Authentication, pid), "GuestProcessNotFound")

	require.ErrorContains(t, c.FileManager.DeleteDirectory(ctx, c.Authentication, dir, false), "DirectoryNotEmpty")
	require.NoError(t, c.FileManager.DeleteDirectory(ctx, c.Authentication, dir, true))
	require.Empty(t, r.vm.GuestFiles())

	wrong := r.tools("root", "wrong")
	_, err = wrong.ProcessManager.ListProcesses(ctx, wrong.Authentication, nil)
	require.ErrorContains(t, err, "InvalidGuestLogin")
	r.sim.Deny("VirtualMachine.GuestOperations.Execute")
	_, err = c.ProcessManager.StartProgram(ctx, c.Authentication, &types.GuestProgramSpec{ProgramPath: "/bin/true"})
	require.ErrorContains(t, err, "denied")
	r.sim.Deny()

	// A power cut ends programs and leaves files; a guest without tools tells nothing.
	_, err = c.ProcessManager.StartProgram(ctx, c.Authentication, &types.GuestProgramSpec{ProgramPath: "/bin/wait"})
	require.NoError(t, err)
	require.NoError(t, r.vm.PutGuestFile("/var/f", []byte("kept")))
	require.NoError(t, r.vm.PowerLoss())
	require.Empty(t, r.vm.Programs())
	_, err = c.ProcessManager.ListProcesses(ctx, c.Authentication, nil)
	require.ErrorContains(t, err, "InvalidPowerState")
	require.NoError(t, r.vm.PowerOn())
	kept, err := r.vm.GuestFile("/var/f")
	require.NoError(t, err)
	require.Equal(t, "kept", string(kept))
	r.vm.SetGuest(vmwaretest.Guest{Tools: vmwaretest.ToolsMissing})
	_, err = c.ProcessManager.ListProcesses(ctx, c.Authentication, nil)
	require.ErrorContains(t, err, "GuestOperationsUnavailable")
}

// Who writes to the disks of a frozen guest waits; memory goes on.
func TestGuestOperationsOfAFrozenGuest(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	r.vm.SetGuest(vmwaretest.Guest{Users: map[string]string{"root": "toor"}})
	c := r.tools("root", "toor")
	r.vm.Freeze()
	require.ErrorIs(t, r.vm.Write(r.disk(), []byte("x"), 0), vmwaretest.ErrFrozen)
	_, err := c.FileManager.CreateTemporaryDirectory(t.Context(), c.Authentication, "p", "", "/dev/shm")
	require.NoError(t, err)
	made := make(chan error, 1)
	go func() {
		_, err := c.FileManager.CreateTemporaryDirectory(context.Background(), c.Authentication, "p", "", "/tmp")
		made <- err
	}()
	select {
	case <-made:
		require.Fail(t, "a frozen disk was written")
	case <-time.After(50 * time.Millisecond):
	}
	r.vm.Thaw()
	require.NoError(t, <-made)
}

// Scripts are run for real, and end with a power cut.
func TestGuestShell(t *testing.T) {
	tool(t, "sh")
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	r.vm.SetGuest(vmwaretest.Guest{Users: map[string]string{"root": "toor"}, Shell: t.TempDir()})
	ctx, c := t.Context(), r.tools("root", "toor")
	dir, err := c.FileManager.CreateTemporaryDirectory(ctx, c.Authentication, "p", "", "/tmp")
	require.NoError(t, err)
	script := "echo $1 >" + dir + "/out\nsleep 100 & wait\n"
	require.NoError(t, c.Upload(ctx, bytes.NewReader([]byte(script)), dir+"/run.sh", soap.DefaultUpload, &types.GuestPosixFileAttributes{}, true))
	_, err = c.ProcessManager.StartProgram(ctx, c.Authentication, &types.GuestProgramSpec{ProgramPath: "/bin/sh", Arguments: dir + "/run.sh hello"})
	require.NoError(t, err)
	require.Eventually(t, func() bool { out, _ := r.vm.GuestFile(dir + "/out"); return string(out) == "hello\n" }, time.Minute, time.Millisecond)
	_, err = r.vm.GuestFile("/etc/passwd")
	require.Error(t, err, "this machine's files are not the guest's")
	require.Error(t, c.ProcessManager.TerminateProcess(ctx, c.Authentication, 1), "nor are its processes")
	require.NoError(t, r.vm.PowerOff())
	require.Empty(t, r.vm.Programs())
}

package azuretest_test

import (
	"errors"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

// What an operation fails with is told as Azure does: status 200 and a code.
func TestAFailedOperationKeepsItsCode(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	for _, code := range []string{"AllocationFailed", "OverconstrainedAllocationRequest", "QuotaExceeded", "InternalServerError"} {
		name := strings.ToLower(code)
		os := *must(w.disk(name+"-os", emptyDisk(1)))(t).ID
		nic := *must(w.nic(name+"-nic", nicModel(w.subnet("app"), "")))(t).ID
		w.FailLRO(func(c azuretest.Call) string {
			if c.Method == "PUT" && strings.HasSuffix(c.Path, "/virtualMachines/"+name) {
				return code
			}
			return ""
		})
		_, err := w.vm(name, vmModel(os, nic))
		refused(t, err, 200, code)
		v := must(w.vms.Get(t.Context(), rg, name, nil))(t)
		require.Equal(t, "Failed", *v.Properties.ProvisioningState, "the machine is there nevertheless")
		require.Empty(t, w.power(name))
		view := must(w.vms.InstanceView(t.Context(), rg, name, nil))(t)
		require.Equal(t, "ProvisioningState/failed/"+code, *view.Statuses[0].Code)
		w.FailLRO(nil)
		v2 := must(w.vm(name, vmModel(os, nic)))(t)
		require.Equal(t, "Succeeded", *v2.Properties.ProvisioningState)
		require.Equal(t, *v.Properties.VMID, *v2.Properties.VMID)
		require.Equal(t, "running", w.power(name))
	}
	// A start that fails leaves the machine deallocated.
	require.NoError(t, w.deallocate("quotaexceeded"))
	w.FailLRO(func(azuretest.Call) string { return "AllocationFailed" })
	refused(t, w.start("quotaexceeded"), 200, "AllocationFailed")
	require.Equal(t, "deallocated", w.power("quotaexceeded"))
	// What fails to be made is not there, but for machines and network resources.
	_, err := w.disk("none", emptyDisk(1))
	refused(t, err, 200, "AllocationFailed")
	_, err = w.disks.Get(t.Context(), rg, "none", nil)
	refused(t, err, 404, "ResourceNotFound")
}

func TestALostAnswerIsRepeatedInVain(t *testing.T) {
	w := newWorld(t, azuretest.Options{Polls: 3})
	os := *must(w.disk("os", emptyDisk(1)))(t).ID
	nic := *must(w.nic("nic", nicModel(w.subnet("app"), "")))(t).ID
	var lost atomic.Int32
	w.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Method == "PUT" && strings.Contains(c.Path, "/virtualMachines/") && lost.Add(1) <= 2 {
			return &azuretest.Fault{Lost: true, Effect: true}
		}
		return nil
	})
	v := must(w.vm("web", vmModel(os, nic)))(t)
	require.EqualValues(t, 3, lost.Load())
	again := must(w.vm("web", vmModel(os, nic)))(t)
	require.Equal(t, *v.Properties.VMID, *again.Properties.VMID)
	require.Equal(t, "running", w.power("web"))

	p, err := w.vms.BeginCreateOrUpdate(t.Context(), rg, "web", vmModel(os, nic), &armcompute.VirtualMachinesClientBeginCreateOrUpdateOptions{IfNoneMatch: ptr("*")})
	_, err = await(t.Context(), p, err)
	refused(t, err, 412, "PreconditionFailed")
}

// An operation whose client is gone ends as others ask for what it works on.
func TestALostClientLeavesNothingUnderWay(t *testing.T) {
	w := newWorld(t, azuretest.Options{Polls: 2})
	w.machine("web")
	_, err := w.vms.BeginDeallocate(t.Context(), rg, "web", nil)
	require.NoError(t, err)
	_, err = w.vms.BeginStart(t.Context(), rg, "web", nil)
	refused(t, err, 409, "Conflict")
	require.Equal(t, "deallocating", w.power("web"))
	require.Equal(t, "deallocated", w.power("web"))
	require.NoError(t, w.start("web"))
}

func TestAResumedPollerGoesOn(t *testing.T) {
	w := newWorld(t, azuretest.Options{Polls: 3})
	w.machine("web")
	p := must(w.vms.BeginDeallocate(t.Context(), rg, "web", nil))(t)
	token := must(p.ResumeToken())(t)
	p = must(w.vms.BeginDeallocate(t.Context(), "", "", &armcompute.VirtualMachinesClientBeginDeallocateOptions{ResumeToken: token}))(t)
	must(await(t.Context(), p, nil))(t)
	require.Equal(t, "deallocated", w.power("web"))
}

func TestForcedDeletionPreempts(t *testing.T) {
	w := newWorld(t, azuretest.Options{Polls: 5})
	w.machine("web")
	stop := must(w.vms.BeginPowerOff(t.Context(), rg, "web", nil))(t)
	_, err := w.vms.BeginDelete(t.Context(), rg, "web", nil)
	refused(t, err, 409, "Conflict")
	p, err := w.vms.BeginDelete(t.Context(), rg, "web", &armcompute.VirtualMachinesClientBeginDeleteOptions{ForceDeletion: ptr(true)})
	must(await(t.Context(), p, err))(t)
	_, err = await(t.Context(), stop, nil)
	refused(t, err, 200, "OperationPreempted")
	for _, id := range w.Resources() {
		require.NotContains(t, id, "virtualmachines")
	}
}

func TestHooksSeeGuestsComeAndGo(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	var mu sync.Mutex
	var seen []string
	w.OnStart(func(id string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprint("start ", w.Write(rg, "web", -1, block('s'), 0)))
	})
	w.OnStop(func(id string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprint("stop ", w.Write(rg, "web", -1, block('t'), 0)))
	})
	w.machine("web")
	p, err := w.vms.BeginRestart(t.Context(), rg, "web", nil)
	must(await(t.Context(), p, err))(t)
	off, err := w.vms.BeginPowerOff(t.Context(), rg, "web", nil)
	must(await(t.Context(), off, err))(t)
	require.Equal(t, "stopped", w.power("web"))
	require.NoError(t, w.start("web"))
	require.NoError(t, w.deallocate("web"))
	require.NoError(t, w.Power(rg, "web", true))
	require.NoError(t, w.Power(rg, "web", false))
	require.Equal(t, strings.Fields("start <nil> stop <nil> start <nil> stop <nil> start <nil> stop <nil> start <nil> stop <nil>"), strings.Fields(strings.Join(seen, " ")))
}

func TestAHungGuestIsSwitchedOffInTheEnd(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	w.machine("web")
	require.NoError(t, w.Hang(rg, "web", true))
	p := must(w.vms.BeginPowerOff(t.Context(), rg, "web", nil))(t)
	polls := 0
	for ; !p.Done(); polls++ {
		_, err := p.Poll(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, 10, polls)
	require.NoError(t, w.start("web"))
	p = must(w.vms.BeginPowerOff(t.Context(), rg, "web", &armcompute.VirtualMachinesClientBeginPowerOffOptions{SkipShutdown: ptr(true)}))(t)
	_, err := p.Poll(t.Context())
	require.NoError(t, err)
	require.True(t, p.Done())
}

func TestMachinesChange(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	w.machine("web")
	update := func(m armcompute.VirtualMachineUpdate) (armcompute.VirtualMachine, error) {
		p, err := w.vms.BeginUpdate(t.Context(), rg, "web", m, nil)
		r, err := await(t.Context(), p, err)
		return r.VirtualMachine, err
	}
	v := must(update(armcompute.VirtualMachineUpdate{Tags: map[string]*string{"a": ptr("b")}}))(t)
	require.Equal(t, "b", *v.Tags["a"])
	require.Len(t, v.Properties.StorageProfile.DataDisks, 1)

	other := *must(w.disk("other", emptyDisk(2)))(t).ID
	swap := armcompute.VirtualMachineUpdate{Properties: &armcompute.VirtualMachineProperties{StorageProfile: &armcompute.StorageProfile{
		OSDisk: &armcompute.OSDisk{ManagedDisk: &armcompute.ManagedDiskParameters{ID: &other}},
	}}}
	_, err := update(swap)
	refused(t, err, 409, "PropertyChangeNotAllowed")
	require.NoError(t, w.deallocate("web"))
	v = must(update(swap))(t)
	require.Equal(t, "other", *v.Properties.StorageProfile.OSDisk.Name)
	require.EqualValues(t, 2, *v.Properties.StorageProfile.OSDisk.DiskSizeGB)
	require.Equal(t, armcompute.DiskStateUnattached, *must(w.disks.Get(t.Context(), rg, "web-os", nil))(t).Properties.DiskState)
	require.Equal(t, armcompute.DiskStateReserved, *must(w.disks.Get(t.Context(), rg, "other", nil))(t).Properties.DiskState)

	data := *must(w.disks.Get(t.Context(), rg, "web-data", nil))(t).ID
	p, err := w.vms.BeginAttachDetachDataDisks(t.Context(), rg, "web", armcompute.AttachDetachDataDisksRequest{
		DataDisksToDetach: []*armcompute.DataDisksToDetach{{DiskID: &data}},
		DataDisksToAttach: []*armcompute.DataDisksToAttach{{DiskID: must(w.disk("third", emptyDisk(1)))(t).ID}},
	}, nil)
	r := must(await(t.Context(), p, err))(t)
	require.Equal(t, "third", *r.DataDisks[0].Name)

	// What was told can be sent back, with a change.
	got := must(w.vms.Get(t.Context(), rg, "web", &armcompute.VirtualMachinesClientGetOptions{Expand: ptr(armcompute.InstanceViewTypesInstanceView)}))(t)
	require.NotNil(t, got.Properties.InstanceView)
	got.Properties.StorageProfile.DataDisks = nil
	v = must(w.vm("web", got.VirtualMachine))(t)
	require.Empty(t, v.Properties.StorageProfile.DataDisks)
	require.Nil(t, v.Properties.InstanceView)
}

func TestListsArePaged(t *testing.T) {
	w := newWorld(t, azuretest.Options{PageSize: 2})
	for i := range 5 {
		require.NoError(t, w.AddVM(rg, fmt.Sprint("vm", i), azuretest.VM{Subnet: "net/app", Off: true}))
	}
	pager := w.vms.NewListPager(rg, nil)
	var names []string
	pages := 0
	for ; pager.More(); pages++ {
		for _, v := range must(pager.NextPage(t.Context()))(t).Value {
			names = append(names, *v.Name)
		}
	}
	require.Equal(t, 3, pages)
	require.Equal(t, []string{"vm0", "vm1", "vm2", "vm3", "vm4"}, names)
	all := w.vms.NewListAllPager(&armcompute.VirtualMachinesClientListAllOptions{StatusOnly: ptr("true")})
	require.Equal(t, "PowerState/deallocated", *must(all.NextPage(t.Context()))(t).Value[0].Properties.InstanceView.Statuses[1].Code)
}

func TestCommandsRunOneAtATime(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, azuretest.Options{OnRunCommand: func(vm string, script []string) (string, error) {
		if script[0] == "wait" {
			close(begun)
			<-release
		}
		return strings.Repeat("x", 5000) + strings.Join(script, ";"), errors.New("exit status 1")
	}})
	w.machine("web")
	run := func(command string, script ...*string) (armcompute.RunCommandResult, error) {
		p, err := w.vms.BeginRunCommand(t.Context(), rg, "web", armcompute.RunCommandInput{CommandID: &command, Script: script}, nil)
		r, err := await(t.Context(), p, err)
		return r.RunCommandResult, err
	}
	done := make(chan error)
	go func() {
		_, err := run("RunShellScript", ptr("wait"))
		done <- err
	}()
	<-begun
	_, err := run("RunShellScript", ptr("wait"))
	refused(t, err, 409, "Conflict")
	close(release)
	require.NoError(t, <-done)
	r := must(run("RunPowerShellScript", ptr("a"), ptr("b")))(t)
	require.Len(t, *r.Value[0].Message, 4096)
	require.True(t, strings.HasSuffix(*r.Value[0].Message, "xa;b"))
	require.Equal(t, "exit status 1", *r.Value[1].Message)
	require.NoError(t, w.Hang(rg, "web", true))
	_, err = run("RunShellScript", ptr("a"))
	refused(t, err, 200, "VMAgentStatusCommunicationError")
	require.NoError(t, w.deallocate("web"))
	_, err = run("RunShellScript", ptr("a"))
	refused(t, err, 409, "OperationNotAllowed")
}

func TestTheConsoleIsShown(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	require.NoError(t, w.AddVM(rg, "web", azuretest.VM{Subnet: "net/app", BootDiagnostics: true}))
	r := must(w.vms.RetrieveBootDiagnosticsData(t.Context(), rg, "web", nil))(t)
	get := func(url string) io.ReadCloser {
		a := must(http.Get(url))(t)
		t.Cleanup(func() { a.Body.Close() })
		require.Equal(t, 200, a.StatusCode)
		return a.Body
	}
	m := must(png.Decode(get(*r.ConsoleScreenshotBlobURI)))(t)
	_, _, blue, _ := m.At(0, 0).RGBA()
	require.NotZero(t, blue)
	log := must(io.ReadAll(get(*r.SerialConsoleLogBlobURI)))(t)
	require.Contains(t, string(log), "web login:")
	w.machine("plain")
	_, err := w.vms.RetrieveBootDiagnosticsData(t.Context(), rg, "plain", nil)
	refused(t, err, 409, "OperationNotAllowed")
}

func TestWritesOfAMachineAreThrottled(t *testing.T) {
	at := &clock{now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
	w := newWorld(t, azuretest.Options{Clock: at.Now, Limits: azuretest.Limits{VMWrites: 3}})
	w.machine("web")
	require.NoError(t, w.deallocate("web"))
	require.NoError(t, w.start("web"))
	o := w.ClientOptions()
	o.Retry.MaxRetries = -1
	c := must(armcompute.NewVirtualMachinesClient(w.Subscription(), w.Credential(), o))(t)
	_, err := c.BeginDeallocate(t.Context(), rg, "web", nil)
	refused(t, err, 429, "OperationNotAllowed")
	var re *azcore.ResponseError
	require.ErrorAs(t, err, &re)
	require.NotEmpty(t, re.RawResponse.Header.Get("Retry-After"))
	at.now = at.now.Add(15 * time.Second)
	require.NoError(t, w.deallocate("web"))
}

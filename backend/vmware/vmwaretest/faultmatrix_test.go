package vmwaretest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// trial is a machine on which one call is made, with a client of its own.
type trial struct {
	*rig
	snap types.ManagedObjectReference
	off  *object.VirtualMachine // a second machine, powered off
	offV *vmwaretest.VM
	n    int
}

func (tr *trial) finder() *find.Finder {
	f := find.NewFinder(tr.c.Client)
	dc, err := f.Datacenter(context.Background(), "DC0")
	require.NoError(tr.t, err)
	return f.SetDatacenter(dc)
}

func (tr *trial) end(task *object.Task, err error) error {
	_, err = tr.try(task, err)
	return err
}

func (tr *trial) exported(ctx context.Context) *nfc.Lease {
	lease, err := tr.obj.ExportSnapshot(ctx, &tr.snap)
	require.NoError(tr.t, err)
	return lease
}

// calls are the calls that a backend makes. Each prepares what it needs, then
// returns the call itself; effect, where it isn't nil, tells whether the call
// has done what it is for.
var calls = map[string]func(*trial, context.Context) (call func() error, effect func() bool){
	"RetrieveServiceContent": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { _, err := methods.GetServiceContent(ctx, tr.c); return err }, nil
	},
	"Login": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		before := tr.sim.Sessions()
		return func() error {
			c, err := vim25.NewClient(ctx, soap.NewClient(tr.sim.URL, true))
			if err != nil {
				return err
			}
			return session.NewManager(c).Login(ctx, tr.sim.URL.User)
		}, func() bool { return tr.sim.Sessions() > before }
	},
	"Logout": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		c, err := govmomi.NewClient(ctx, tr.sim.URL, true)
		require.NoError(tr.t, err)
		before := tr.sim.Sessions()
		return func() error { return c.Logout(ctx) }, func() bool { return tr.sim.Sessions() < before }
	},
	"RetrievePropertiesEx": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { _, err := retrieve(ctx, tr, 0); return err }, nil
	},
	"ContinueRetrievePropertiesEx": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error {
			res, err := retrieve(ctx, tr, 1)
			if err != nil {
				return err
			}
			_, err = methods.ContinueRetrievePropertiesEx(ctx, tr.c, &types.ContinueRetrievePropertiesEx{This: tr.c.ServiceContent.PropertyCollector, Token: res.Returnval.Token})
			return err
		}, nil
	},
	"CreateContainerView": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error {
			_, err := view.NewManager(tr.c.Client).CreateContainerView(ctx, tr.c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
			return err
		}, nil
	},
	"CreateFilter": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return createFilter(ctx, tr) }, nil
	},
	"WaitForUpdatesEx": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		require.NoError(tr.t, createFilter(ctx, tr))
		return func() error {
			_, err := methods.WaitForUpdatesEx(ctx, tr.c, &types.WaitForUpdatesEx{This: tr.c.ServiceContent.PropertyCollector, Options: &types.WaitOptions{MaxWaitSeconds: types.NewInt32(0)}})
			return err
		}, nil
	},
	"CreateSnapshot_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return tr.end(tr.obj.CreateSnapshot(ctx, "n", "", false, false)) }, func() bool { return tr.vm.Snapshots() == 2 }
	},
	"CreateSnapshotEx_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error {
			res, err := methods.CreateSnapshotEx_Task(ctx, tr.c, &types.CreateSnapshotEx_Task{This: tr.obj.Reference(), Name: "n", QuiesceSpec: &types.VirtualMachineGuestQuiesceSpec{}})
			if err != nil {
				return err
			}
			return object.NewTask(tr.c.Client, res.Returnval).Wait(ctx)
		}, func() bool { return tr.vm.Snapshots() == 2 }
	},
	"RemoveSnapshot_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return tr.end(tr.obj.RemoveSnapshot(ctx, "s", false, nil)) }, func() bool { return tr.vm.Snapshots() == 0 }
	},
	"QueryChangedDiskAreas": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { _, _, err := tr.query(tr.snap, tr.disk(), "*"); return err }, nil
	},
	"ReconfigVM_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error {
			return tr.end(tr.obj.Reconfigure(ctx, types.VirtualMachineConfigSpec{Annotation: "x"}))
		}, func() bool { return tr.props("config").Config.Annotation == "x" }
	},
	"CreateVM_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		name := fmt.Sprint("made", tr.n)
		f := tr.finder()
		pool, err := f.ResourcePool(ctx, "C0/Resources")
		require.NoError(tr.t, err)
		folder, err := f.Folder(ctx, "/DC0/vm")
		require.NoError(tr.t, err)
		return func() error {
			return tr.end(folder.CreateVM(ctx, types.VirtualMachineConfigSpec{Name: name, GuestId: "otherGuest", Files: &types.VirtualMachineFileInfo{VmPathName: "[vmfs-0]"}}, pool, nil))
		}, func() bool { vm, err := f.VirtualMachine(ctx, name); return err == nil && vm != nil }
	},
	"Destroy_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return tr.end(tr.off.Destroy(ctx)) }, func() bool { return tr.sim.VM(tr.off.Reference()) == nil }
	},
	"UnregisterVM": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return tr.off.Unregister(ctx) }, func() bool { return tr.sim.VM(tr.off.Reference()) == nil }
	},
	"PowerOnVM_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return tr.end(tr.off.PowerOn(ctx)) }, func() bool { return tr.offV.Running() }
	},
	"PowerOffVM_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return tr.end(tr.obj.PowerOff(ctx)) }, func() bool { return !tr.vm.Running() }
	},
	"ShutdownGuest": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { return tr.obj.ShutdownGuest(ctx) }, nil
	},
	"ExportSnapshot": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { _, err := tr.obj.ExportSnapshot(ctx, &tr.snap); return err }, func() bool { return tr.sim.Leases() == 1 }
	},
	"ExportVm": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error { _, err := tr.off.Export(ctx); return err }, func() bool { return tr.sim.Leases() == 1 }
	},
	"ImportVApp": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		f := tr.finder()
		pool, err := f.ResourcePool(ctx, "C0/Resources")
		require.NoError(tr.t, err)
		folder, err := f.Folder(ctx, "/DC0/vm")
		require.NoError(tr.t, err)
		return func() error {
			_, err := pool.ImportVApp(ctx, &types.VirtualMachineImportSpec{ConfigSpec: types.VirtualMachineConfigSpec{
				Name: fmt.Sprint("import", tr.n), GuestId: "otherGuest", Files: &types.VirtualMachineFileInfo{VmPathName: "[vmfs-0]"},
			}}, folder, nil)
			return err
		}, func() bool { return tr.sim.Leases() == 1 }
	},
	"HttpNfcLeaseProgress": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		lease := tr.exported(ctx)
		return func() error { return lease.Progress(ctx, 5) }, nil
	},
	"HttpNfcLeaseGetManifest": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		lease := tr.exported(ctx)
		return func() error { return manifest(ctx, lease) }, nil
	},
	"HttpNfcLeaseComplete": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		lease := tr.exported(ctx)
		return func() error { return lease.Complete(ctx) }, func() bool { return tr.sim.Leases() == 0 }
	},
	"HttpNfcLeaseAbort": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		lease := tr.exported(ctx)
		return func() error { return lease.Abort(ctx, nil) }, func() bool { return tr.sim.Leases() == 0 }
	},
	"ConsolidateVMDisks_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		tr.vm.FailConsolidation(1)
		tr.removeSnapshot("s")
		return func() error { return tr.end(tr.consolidate(ctx)) }, func() bool { return !tr.props("runtime").Runtime.ConsolidationNeeded }
	},
	"FindByUuid": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error {
			_, err := object.NewSearchIndex(tr.c.Client).FindByUuid(ctx, nil, "none", true, types.NewBool(true))
			return err
		}, nil
	},
	"CustomizeVM_Task": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error {
			return tr.end(tr.off.Customize(ctx, types.CustomizationSpec{
				Identity:      &types.CustomizationLinuxPrep{HostName: &types.CustomizationFixedName{Name: "x"}, Domain: "test"},
				NicSettingMap: []types.CustomizationAdapterMapping{{Adapter: types.CustomizationIPSettings{Ip: &types.CustomizationDhcpIpGenerator{}}}},
			}))
		}, func() bool { return len(tr.offV.Customizations()) == 1 }
	},
	"MakeDirectory": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		f := tr.finder()
		dc, err := f.Datacenter(ctx, "DC0")
		require.NoError(tr.t, err)
		return func() error {
			return object.NewFileManager(tr.c.Client).MakeDirectory(ctx, fmt.Sprintf("[vmfs-0] dir%d", tr.n), dc, true)
		}, nil
	},
	"AcquireGenericServiceTicket": func(tr *trial, ctx context.Context) (func() error, func() bool) {
		return func() error {
			_, err := session.NewManager(tr.c.Client).AcquireGenericServiceTicket(ctx, &types.SessionManagerHttpServiceRequestSpec{Method: "httpGet", Url: tr.sim.URL.String()})
			return err
		}, nil
	},
}

func retrieve(ctx context.Context, tr *trial, most int32) (*types.RetrievePropertiesExResponse, error) {
	return methods.RetrievePropertiesEx(ctx, tr.c, &types.RetrievePropertiesEx{
		This: tr.c.ServiceContent.PropertyCollector, SpecSet: []types.PropertyFilterSpec{filter(tr)}, Options: types.RetrieveOptions{MaxObjects: most},
	})
}

func filter(tr *trial) types.PropertyFilterSpec {
	return types.PropertyFilterSpec{
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name"}}},
		ObjectSet: []types.ObjectSpec{{Obj: tr.obj.Reference()}, {Obj: tr.off.Reference()}},
	}
}

func createFilter(ctx context.Context, tr *trial) error {
	_, err := methods.CreateFilter(ctx, tr.c, &types.CreateFilter{This: tr.c.ServiceContent.PropertyCollector, Spec: filter(tr)})
	return err
}

func (tr *trial) begin(sim *vmwaretest.Simulator, n int) {
	ctx := context.Background()
	var err error
	tr.rig, tr.n = &rig{t: tr.t, sim: sim}, n
	tr.c, err = govmomi.NewClient(ctx, sim.URL, true)
	require.NoError(tr.t, err)
	add := func(name string, off bool) (*vmwaretest.VM, *object.VirtualMachine) {
		vm, err := sim.AddVM(vmwaretest.VMSpec{Name: fmt.Sprint(name, n), ChangeTracking: true, Off: off, Disks: []vmwaretest.DiskSpec{{Size: mib}}, NICs: []vmwaretest.NICSpec{{}}})
		require.NoError(tr.t, err)
		return vm, object.NewVirtualMachine(tr.c.Client, vm.Reference())
	}
	tr.vm, tr.obj = add("on", false)
	tr.offV, tr.off = add("off", true)
	tr.snap, err = tr.vm.AddSnapshot("s", "")
	require.NoError(tr.t, err)
}

// TestFaultMatrix lets every call fail at every moment, and then go on.
func TestFaultMatrix(t *testing.T) {
	sim := vmwaretest.New(t, vmwaretest.Options{})
	n := 0
	for name, prepare := range calls {
		for _, when := range []vmwaretest.When{vmwaretest.BeforeEffect, vmwaretest.AfterEffect, vmwaretest.InsteadOfTask, vmwaretest.AfterTask} {
			for _, drop := range []bool{false, true} {
				if when > vmwaretest.AfterEffect && (drop || !strings.HasSuffix(name, "_Task")) {
					continue
				}
				n++
				t.Run(fmt.Sprintf("%s/%d/drop=%v", name, when, drop), func(t *testing.T) {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					tr := &trial{rig: &rig{t: t}}
					tr.begin(sim, n)
					defer sim.ExpireLeases()
					call, effect := prepare(tr, ctx)
					armed := sim.Fault(vmwaretest.Fault{Call: name, When: when, Drop: drop, Err: &types.HostCommunication{}})
					err := call()
					armed.Remove()
					require.Error(t, err)
					require.Equal(t, 1, armed.Hits())
					if !drop {
						require.True(t, fault.Is(err, &types.HostCommunication{}), "%v", err)
					}
					after := when == vmwaretest.AfterEffect || when == vmwaretest.AfterTask
					if effect != nil {
						require.Equal(t, after, effect())
					}
					if !after {
						require.NoError(t, call(), "the same call, afterwards")
						if effect != nil {
							require.True(t, effect())
						}
					}
					if name != "Logout" {
						require.NoError(t, tr.c.Logout(ctx))
					}
				})
			}
		}
	}
}

// TestTaskFaultsOnOtherCalls are faults of tasks on a call that is none.
func TestTaskFaultsOnOtherCalls(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	snap := r.snapshot("s")
	for _, when := range []vmwaretest.When{vmwaretest.InsteadOfTask, vmwaretest.AfterTask} {
		r.sim.Fault(vmwaretest.Fault{Call: "ExportSnapshot", When: when, Err: &types.HostCommunication{}})
		_, err := r.obj.ExportSnapshot(ctx, &snap)
		require.True(t, fault.Is(err, &types.HostCommunication{}), "%v", err)
	}
	require.Equal(t, 1, r.sim.Leases())
}

// TestLoginAfterLostAnswer logs in again on the same connection after the first
// login's answer was lost: its session is an orphan, and in nobody's way.
func TestLoginAfterLostAnswer(t *testing.T) {
	ctx := context.Background()
	sim := vmwaretest.New(t, vmwaretest.Options{})
	c, err := vim25.NewClient(ctx, soap.NewClient(sim.URL, true))
	require.NoError(t, err)
	m := session.NewManager(c)
	sim.Fault(vmwaretest.Fault{Call: "Login", When: vmwaretest.AfterEffect})
	require.Error(t, m.Login(ctx, sim.URL.User))
	require.NoError(t, m.Login(ctx, sim.URL.User))
	require.Equal(t, 2, sim.Sessions())
	sim.Fault(vmwaretest.Fault{Call: "Logout", When: vmwaretest.AfterEffect, Drop: true})
	require.Error(t, m.Logout(ctx))
	require.NoError(t, m.Login(ctx, sim.URL.User))
	var folder mo.Folder
	require.NoError(t, object.NewRootFolder(c).Properties(ctx, c.ServiceContent.RootFolder, []string{"name"}, &folder))
}

// TestTransferFaults fails transfers before and after their effect, and in the
// middle of their bytes.
func TestTransferFaults(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{Off: true})
	ds, err := find.NewFinder(r.c.Client).Datastore(ctx, "/DC0/datastore/vmfs-0")
	require.NoError(t, err)
	client := &r.c.Client.Client.Client
	do := func(method, file, body string) (int, string, error) {
		req, err := http.NewRequest(method, ds.NewURL(file).String(), strings.NewReader(body))
		require.NoError(t, err)
		res, err := client.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		return res.StatusCode, string(got), err
	}
	must := func(method, file, body string) (int, string) {
		code, got, err := do(method, file, body)
		require.NoError(t, err)
		return code, got
	}
	const file = "web/new-flat.vmdk"
	r.sim.Fault(vmwaretest.Fault{Call: "PUT /folder", Status: 507})
	code, _ := must("PUT", file, "before")
	require.Equal(t, 507, code)
	code, _ = must("GET", file, "")
	require.Equal(t, http.StatusNotFound, code)
	r.sim.Fault(vmwaretest.Fault{Call: "PUT /folder", When: vmwaretest.AfterEffect})
	code, _ = must("PUT", file, "after")
	require.Equal(t, 500, code)
	_, got := must("GET", file, "")
	require.Equal(t, "after", got)
	r.sim.Fault(vmwaretest.Fault{Call: "PUT /folder", AfterBytes: 3})
	_, _, err = do("PUT", file, "broken off")
	require.Error(t, err)
	_, got = must("GET", file, "")
	require.Equal(t, "after", got, "a whole PUT that broke off changed nothing")
	r.sim.Fault(vmwaretest.Fault{Call: "GET /folder", AfterBytes: 3})
	_, got, err = do("GET", file, "")
	require.Error(t, err)
	require.Equal(t, "aft", got)
	code, got = must("GET", file, "")
	require.Equal(t, 200, code)
	require.Equal(t, "after", got)
}

func manifest(ctx context.Context, lease *nfc.Lease) error {
	_, err := lease.GetManifest(ctx)
	return err
}

// TestLeaseTransferFaults are the same for the bytes of leases.
func TestLeaseTransferFaults(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	r.write(r.disk(), []byte("x"), 0)
	tr := &trial{rig: r, snap: r.snapshot("s")}
	lease := tr.exported(ctx)
	info, err := lease.Wait(ctx, nil)
	require.NoError(t, err)
	get := func() (int, int, error) {
		res, err := r.c.Client.Client.Client.Get(info.Items[0].URL.String())
		if err != nil {
			return 0, 0, err
		}
		defer res.Body.Close()
		p, err := io.ReadAll(res.Body)
		return res.StatusCode, len(p), err
	}
	_, whole, err := get()
	require.NoError(t, err)
	for _, when := range []vmwaretest.When{vmwaretest.BeforeEffect, vmwaretest.AfterEffect, vmwaretest.InsteadOfTask, vmwaretest.AfterTask} {
		r.sim.Fault(vmwaretest.Fault{Call: "GET /nfc", When: when, Status: 503})
		code, _, err := get()
		require.NoError(t, err)
		require.Equal(t, 503, code)
	}
	r.sim.Fault(vmwaretest.Fault{Call: "GET /nfc", AfterBytes: 1000})
	_, n, err := get()
	require.Error(t, err)
	require.Equal(t, 1000, n)
	r.sim.Fault(vmwaretest.Fault{Call: "GET /nfc", Drop: true})
	_, _, err = get()
	require.Error(t, err)
	code, n, err := get()
	require.NoError(t, err)
	require.Equal(t, []int{200, whole}, []int{code, n})
	require.Equal(t, 1, r.sim.Leases())
}

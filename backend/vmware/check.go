package vmware

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// privilege is something that the account must be allowed to do.
type privilege struct {
	id      string
	capture bool     // without it nothing can be captured; else nothing can be failed over to
	on      []string // what it is asked of: types of managed objects
}

// privileges are those that the package's documentation lists.
var privileges = []privilege{
	{"VirtualMachine.State.CreateSnapshot", true, onMachines},
	{"VirtualMachine.State.RemoveSnapshot", true, onMachines},
	{"VirtualMachine.Provisioning.DiskRandomRead", true, onMachines},
	{"VirtualMachine.Config.ChangeTracking", true, onMachines},
	{"VirtualMachine.Config.AdvancedConfig", true, onMachines},
	{"VirtualMachine.Config.AddNewDisk", false, onMachines},
	{"VirtualMachine.Config.AddExistingDisk", false, onMachines},
	{"VirtualMachine.Config.AddRemoveDevice", false, onMachines},
	{"VirtualMachine.Config.RemoveDisk", false, onMachines},
	{"VirtualMachine.Config.DiskExtend", false, onMachines},
	{"VirtualMachine.Config.EditDevice", false, onMachines},
	{"VirtualMachine.Config.Settings", false, onMachines},
	{"VirtualMachine.Interact.PowerOn", false, onMachines},
	{"VirtualMachine.Interact.PowerOff", false, onMachines},
	{"VirtualMachine.Inventory.Create", false, onMachines},
	{"VirtualMachine.Inventory.Delete", false, onMachines},
	{"VirtualMachine.Provisioning.DiskRandomAccess", false, onMachines},
	{"VirtualMachine.Provisioning.GetVmFiles", false, onMachines},
	{"VirtualMachine.Provisioning.Customize", false, onMachines},
	{"Datastore.AllocateSpace", false, []string{"Datastore"}},
	{"Datastore.Browse", false, []string{"Datastore"}},
	{"Datastore.FileManagement", false, []string{"Datastore"}},
	{"Network.Assign", false, []string{"Network"}},
	{"Resource.AssignVMToPool", false, []string{"ResourcePool"}},
	{"VApp.Export", false, onMachines},
}

var onMachines = []string{"Datacenter", "Folder", "VirtualMachine"}

// Check tells what about the account and the server will keep this backend from
// working: privileges that are lacking, an API that is too old, clocks that
// differ, a licence whose API only reads. Its codes are "api-version",
// "privilege-missing", "privilege-partial", "clock-skew" and "licence-read-only".
// Finding nothing is no promise: a privilege may be granted on one machine and
// lack on the next.
func (v *VSphere) Check(ctx context.Context) ([]backend.Problem, error) {
	var p problems
	about := v.client.ServiceContent.About
	if oldAPI(about.ApiVersion) {
		p.block("api-version", "", fmt.Sprintf("%s speaks version %s of the API, and 6.5 is needed", about.FullName, about.ApiVersion), "upgrade it")
	}
	if err := v.checkClock(ctx, &p); err != nil {
		return nil, fail("check vSphere", "", "", -1, err)
	}
	if err := v.checkPrivileges(ctx, &p); err != nil {
		return nil, fail("check vSphere", "", "", -1, err)
	}
	v.checkLicence(ctx, &p)
	return p, nil
}

// oldAPI tells whether a version is below 6.5. What can't be read is not.
func oldAPI(version string) bool {
	parts := strings.Split(version, ".")
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	minor := 0
	if len(parts) > 1 {
		minor, _ = strconv.Atoi(parts[1])
	}
	return major < 6 || major == 6 && minor < 5
}

// guestPrivileges are asked for only where there are credentials for guests.
var guestPrivileges = []privilege{
	{"VirtualMachine.GuestOperations.Query", false, onMachines},
	{"VirtualMachine.GuestOperations.Modify", false, onMachines},
	{"VirtualMachine.GuestOperations.Execute", false, onMachines},
}

// maxSkew is how far clocks may be apart before points' times mislead people.
const maxSkew = time.Minute

func (v *VSphere) checkClock(ctx context.Context, p *problems) error {
	before := time.Now()
	there, err := methods.GetCurrentTime(ctx, v.client)
	if err != nil {
		return err
	}
	if d := skew(before, time.Now(), *there); d != 0 {
		p.warn("clock-skew", "", fmt.Sprintf("its clock and ours are %s apart: the times of points and of its own log don't agree", d.Round(time.Second)), "synchronise both with NTP")
	}
	return nil
}

// skew is by how much a clock that was read between two moments of ours is
// certainly wrong, or 0 if that is no more than maxSkew.
func skew(before, after, there time.Time) time.Duration {
	var d time.Duration
	switch {
	case there.Before(before):
		d = before.Sub(there)
	case there.After(after):
		d = there.Sub(after)
	}
	if d <= maxSkew {
		return 0
	}
	return d
}

// checkPrivileges asks at the root folder, and, for what lacks there, where else
// it may be granted.
func (v *VSphere) checkPrivileges(ctx context.Context, p *problems) error {
	wanted := privileges
	if v.options.GuestAuth != nil {
		wanted = slices.Concat(privileges, guestPrivileges)
	}
	var all []string
	for _, x := range wanted {
		all = append(all, x.id)
	}
	held, err := v.privileges(ctx, all, v.client.ServiceContent.RootFolder)
	if err != nil {
		return err
	}
	var lacking []privilege
	for _, x := range wanted {
		if !held[x.id] {
			lacking = append(lacking, x)
		}
	}
	somewhere, err := v.grantedBelow(ctx, lacking)
	if err != nil {
		return err
	}
	for _, x := range lacking {
		if somewhere[x.id] {
			p.warn("privilege-partial", "", fmt.Sprintf("the account has the privilege %s on a part of the inventory only", x.id), "see that the machines, folders, datastores and networks that are used are in it")
			continue
		}
		*p = append(*p, backend.Problem{Code: "privilege-missing", Blocker: x.capture,
			Text: fmt.Sprintf("the account lacks the privilege %s", x.id), Remedy: "add it to the account's role"})
	}
	return nil
}

// grantedBelow tells which privileges are granted on anything that they are
// asked of.
func (v *VSphere) grantedBelow(ctx context.Context, lacking []privilege) (map[string]bool, error) {
	granted := map[string]bool{}
	lacking = slices.Clone(lacking)
	for len(lacking) > 0 {
		// Those that are asked of the same things together.
		on := lacking[0].on
		var ids []string
		lacking = slices.DeleteFunc(lacking, func(x privilege) bool {
			same := slices.Equal(x.on, on)
			if same {
				ids = append(ids, x.id)
			}
			return same
		})
		var props []types.PropertySpec
		for _, kind := range on {
			props = append(props, types.PropertySpec{Type: kind, PathSet: []string{"name"}})
		}
		for page, err := range v.below(ctx, pageSize, props...) {
			if err != nil {
				return nil, err
			}
			var refs []types.ManagedObjectReference
			for _, o := range page {
				refs = append(refs, o.Obj)
			}
			held, err := v.privileges(ctx, ids, refs...)
			if err != nil {
				return nil, err
			}
			for id := range held {
				granted[id] = true
			}
			if ids = slices.DeleteFunc(ids, func(id string) bool { return held[id] }); len(ids) == 0 {
				break
			}
		}
	}
	return granted, nil
}

// privileges tells which of them this session holds on at least one of refs.
func (v *VSphere) privileges(ctx context.Context, ids []string, refs ...types.ManagedObjectReference) (map[string]bool, error) {
	am := v.client.ServiceContent.AuthorizationManager
	held := map[string]bool{}
	if am == nil || len(refs) == 0 {
		return held, nil
	}
	user, err := v.sessionOf(ctx)
	if err != nil {
		return nil, err
	}
	res, err := methods.HasPrivilegeOnEntities(ctx, v.client, &types.HasPrivilegeOnEntities{This: *am, Entity: refs, SessionId: user.Key, PrivId: ids})
	if unknownCall(err) { // to hosts, and to old servers
		return v.fetchPrivileges(ctx, *am, ids, refs, user.UserName)
	}
	if err != nil {
		return nil, explain(err)
	}
	for _, e := range res.Returnval {
		for _, a := range e.PrivAvailability {
			if a.IsGranted {
				held[a.PrivId] = true
			}
		}
	}
	return held, nil
}

func (v *VSphere) fetchPrivileges(ctx context.Context, am types.ManagedObjectReference, ids []string, refs []types.ManagedObjectReference, user string) (map[string]bool, error) {
	res, err := methods.FetchUserPrivilegeOnEntities(ctx, v.client, &types.FetchUserPrivilegeOnEntities{This: am, Entities: refs, UserName: user})
	if err != nil {
		return nil, explain(err)
	}
	held := map[string]bool{}
	for _, e := range res.Returnval {
		for _, id := range e.Privileges {
			if slices.Contains(ids, id) {
				held[id] = true
			}
		}
	}
	return held, nil
}

func unknownCall(err error) bool {
	switch faultOf(err).(type) {
	case types.NotSupported, types.NotImplemented, types.MethodNotFound:
		return true
	}
	return false
}

func (v *VSphere) sessionOf(ctx context.Context) (*types.UserSession, error) {
	var m mo.SessionManager
	for page, err := range v.pages(ctx, 1, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: *v.client.ServiceContent.SessionManager}},
		PropSet:   []types.PropertySpec{{Type: "SessionManager", PathSet: []string{"currentSession"}}},
	}) {
		if err != nil {
			return nil, err
		}
		if err := mo.LoadObjectContent(page, &m); err != nil {
			return nil, err
		}
	}
	if m.CurrentSession == nil {
		return nil, fmt.Errorf("vSphere doesn't tell which session this is")
	}
	return m.CurrentSession, nil
}

// checkLicence looks for the free ESXi, whose API only reads. Accounts that may
// not see licences learn nothing, and that is no problem.
func (v *VSphere) checkLicence(ctx context.Context, p *problems) {
	lm := v.client.ServiceContent.LicenseManager
	if lm == nil || v.client.IsVC() {
		return
	}
	var m mo.LicenseManager
	for page, err := range v.pages(ctx, 1, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: *lm}},
		PropSet:   []types.PropertySpec{{Type: "LicenseManager", PathSet: []string{"licenses"}}},
	}) {
		if err != nil || mo.LoadObjectContent(page, &m) != nil {
			v.options.Log.DebugContext(ctx, "licence not read", "error", err)
			return
		}
	}
	for _, l := range m.Licenses {
		if readOnlyLicence(l) {
			p.block("licence-read-only", "", fmt.Sprintf("the host has the licence %q, whose API only reads: no snapshot can be made", l.Name), "give the host a paid licence")
		}
	}
}

// readOnlyLicence tells whether it is that of the free ESXi: its edition was
// esxBasic, and later has no name but the product's.
func readOnlyLicence(l types.LicenseManagerLicenseInfo) bool {
	edition := strings.ToLower(l.EditionKey)
	return edition == "esxbasic" || strings.HasPrefix(edition, "esx.hypervisor")
}

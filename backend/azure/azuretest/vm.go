package azuretest

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// Power states, as the instance view tells them.
const (
	starting     = "starting"
	running      = "running"
	stopping     = "stopping"
	stopped      = "stopped"
	deallocating = "deallocating"
	deallocated  = "deallocated"
)

// vm is a virtual machine.
type vm struct {
	entry
	model  armcompute.VirtualMachine // as it was asked for
	rev    int                       // of the model, which the ETag tells
	vmID   string
	power  string // "" until it was started for the first time
	guest  bool   // runs and may write; changed with guests held
	hung   bool
	failed string // the code of the last operation, if that failed
	size   SKU
	os     *disk
	data   map[int32]*disk // by LUN
	nics   []*nic
}

func vmRoutes() []route {
	const at = compute + "virtualMachines/*"
	return slices.Concat([]route{
		handle("GET", at, (*Cloud).getVM),
		handle("PUT", at, (*Cloud).putVM),
		handle("PATCH", at, (*Cloud).patchVM),
		handle("DELETE", at, (*Cloud).deleteVM),
		handle("GET", at+"/instanceView", (*Cloud).getInstanceView),
		handle("POST", at+"/start", (*Cloud).startVM),
		handle("POST", at+"/powerOff", (*Cloud).powerOffVM),
		handle("POST", at+"/deallocate", (*Cloud).deallocateVM),
		handle("POST", at+"/restart", (*Cloud).restartVM),
		handle("POST", at+"/attachDetachDataDisks", (*Cloud).attachDetach),
		handle("POST", at+"/retrieveBootDiagnosticsData", (*Cloud).bootDiagnostics),
		handle("POST", at+"/runCommand", (*Cloud).runCommand),
		handle("GET", compute+"virtualMachines", func(c *Cloud, q *request) (reply, error) {
			if _, err := c.groupOf(q); err != nil {
				return reply{}, err
			}
			return page(c, q, func(v *vm) bool { return alike(v.group, q.group()) }, c.listed(q))
		}),
		handle("GET", inSubscription+"/providers/Microsoft.Compute/virtualMachines", func(c *Cloud, q *request) (reply, error) {
			return page(c, q, nil, c.listed(q))
		}),
	})
}

// allocated tells whether the machine has a host: it costs quota, and its disks
// can't be read past it.
func (v *vm) allocated() bool { return v.power != deallocated && v.power != "" }

func (v *vm) disks() []*disk {
	list := []*disk{v.os}
	for _, lun := range v.luns() {
		list = append(list, v.data[lun])
	}
	return list
}

func (v *vm) luns() []int32 {
	var luns []int32
	for lun := range v.data {
		luns = append(luns, lun)
	}
	slices.Sort(luns)
	return luns
}

// entries are all that operations on the machine keep busy, itself first.
func (v *vm) entries() []*entry {
	list := []*entry{&v.entry}
	for _, d := range v.disks() {
		list = append(list, &d.entry)
	}
	for _, n := range v.nics {
		list = append(list, &n.entry)
	}
	return list
}

func (v *vm) etag() string { return fmt.Sprintf("\"%d\"", v.rev) }

// match refuses a request that was made of another model than there is.
func (v *vm) match(q *request) error {
	if want := q.Header.Get("If-Match"); want != "" && want != "*" && want != v.etag() {
		return refuse(http.StatusPreconditionFailed, "PreconditionFailed", "the resource '%s' has the ETag %s now", v.id, v.etag())
	}
	return nil
}

func (v *vm) view(*Cloud) any { return v.show() }

func (v *vm) show() armcompute.VirtualMachine {
	m, p := v.model, *v.model.Properties
	m.Etag = to.Ptr(v.etag())
	m.ID, m.Name, m.Type, m.Location, m.Tags, m.Zones = &v.id, &v.name, &v.kind, &v.location, v.tags, v.zones
	m.Properties = &p
	p.VMID, p.ProvisioningState, p.TimeCreated = &v.vmID, &v.state, &v.made
	storage := *p.StorageProfile
	p.StorageProfile = &storage
	os := *storage.OSDisk
	os.DiskSizeGB = to.Ptr(gib(v.os.bytes())) // it may have grown
	storage.OSDisk, storage.DataDisks = &os, []*armcompute.DataDisk{}
	for _, was := range v.model.Properties.StorageProfile.DataDisks {
		d := *was
		d.DiskSizeGB = to.Ptr(gib(v.data[*d.Lun].bytes()))
		storage.DataDisks = append(storage.DataDisks, &d)
	}
	p.HardwareProfile = &armcompute.HardwareProfile{VMSize: to.Ptr(armcompute.VirtualMachineSizeTypes(v.size.Name))}
	return m
}

func status(code, text string) *armcompute.InstanceViewStatus {
	return &armcompute.InstanceViewStatus{Code: &code, Level: to.Ptr(armcompute.StatusLevelTypesInfo), DisplayStatus: &text}
}

func (v *vm) instanceView(c *Cloud) *armcompute.VirtualMachineInstanceView {
	provisioning := status("ProvisioningState/succeeded", "Provisioning succeeded")
	switch v.state {
	case "Succeeded":
	case "Failed":
		provisioning = status("ProvisioningState/failed/"+v.failed, "Provisioning failed")
		provisioning.Level = to.Ptr(armcompute.StatusLevelTypesError)
	default:
		provisioning = status("ProvisioningState/updating", "Updating")
	}
	m := &armcompute.VirtualMachineInstanceView{
		Statuses:         []*armcompute.InstanceViewStatus{provisioning},
		HyperVGeneration: to.Ptr(armcompute.HyperVGenerationType(v.os.generation())),
	}
	if v.power != "" {
		m.Statuses = append(m.Statuses, status("PowerState/"+v.power, "VM "+v.power))
	}
	for _, d := range v.disks() {
		m.Disks = append(m.Disks, &armcompute.DiskInstanceView{Name: &d.name, Statuses: []*armcompute.InstanceViewStatus{status("ProvisioningState/succeeded", "Provisioning succeeded")}})
	}
	if v.guest {
		agent := status("ProvisioningState/succeeded", "Ready")
		if v.hung {
			agent = status("ProvisioningState/Unavailable", "Not Ready")
		}
		m.VMAgent = &armcompute.VirtualMachineAgentInstanceView{VMAgentVersion: to.Ptr("simulated"), Statuses: []*armcompute.InstanceViewStatus{agent}}
	}
	if v.diagnosed() {
		screenshot, serial := c.consoleURLs(v)
		m.BootDiagnostics = &armcompute.BootDiagnosticsInstanceView{ConsoleScreenshotBlobURI: &screenshot, SerialConsoleLogBlobURI: &serial}
	}
	return m
}

// generation is V1 where the disk does not say.
func (d *disk) generation() armcompute.HyperVGeneration {
	return *either(d.model.Properties.HyperVGeneration, armcompute.HyperVGenerationV1)
}

func (c *Cloud) getVM(q *request) (reply, error) {
	v, err := need[*vm](c, q.id)
	if err != nil {
		return reply{}, err
	}
	m := v.show()
	if alike(q.query.Get("$expand"), "instanceView") {
		m.Properties.InstanceView = v.instanceView(c)
	}
	return ok(m)
}

// listed is how a list tells a machine.
func (c *Cloud) listed(q *request) func(*vm) any {
	return func(v *vm) any {
		m := v.show()
		if alike(q.query.Get("statusOnly"), "true") || alike(q.query.Get("$expand"), "instanceView") {
			m.Properties.InstanceView = v.instanceView(c)
		}
		return m
	}
}

func (c *Cloud) getInstanceView(q *request) (reply, error) {
	v, err := need[*vm](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	return ok(v.instanceView(c))
}

// machine finds the one whose action is in the path, unless it is busy.
func (c *Cloud) machine(q *request) (*vm, error) {
	v, err := need[*vm](c, q.owner(1))
	if err != nil {
		return nil, err
	}
	return v, c.free(&v.entry)
}

func (c *Cloud) deleteVM(q *request) (reply, error) {
	v, had := look[*vm](c, q.id)
	if !had {
		return gone()
	}
	// Forced, it takes over from what is under way.
	if err := c.free(&v.entry); err != nil && q.query.Get("forceDeletion") != "true" {
		return reply{}, err
	}
	if err := c.throttle(v.id); err != nil {
		return reply{}, err
	}
	c.preempt(&v.entry)
	op := c.accept(q, "Deleting", v.entries()...)
	if v.guest {
		op.before = c.stopHooks(v)
	}
	op.end = func() { c.removeVM(v) }
	op.failed = func() { v.failed = op.code }
	return reply{status: http.StatusAccepted, op: op}, nil
}

// removeVM takes with it what is to be deleted with it, unless a lock keeps
// that.
func (c *Cloud) removeVM(v *vm) {
	c.setGuest(v, false)
	c.drop(v)
	p := v.model.Properties
	remove := func(d *disk, with *armcompute.DiskDeleteOptionTypes) {
		c.own(d, nil)
		if val(with) == armcompute.DiskDeleteOptionTypesDelete && c.lockOn(d.id, true) == nil {
			c.end(&d.contents)
			c.drop(d)
		}
	}
	remove(v.os, p.StorageProfile.OSDisk.DeleteOption)
	for _, d := range p.StorageProfile.DataDisks {
		remove(v.data[*d.Lun], d.DeleteOption)
	}
	for i, n := range v.nics {
		n.owner = nil
		with := p.NetworkProfile.NetworkInterfaces[i].Properties
		if with != nil && val(with.DeleteOption) == armcompute.DeleteOptionsDelete && c.lockOn(n.id, true) == nil {
			c.removeInterface(n)
		}
	}
}

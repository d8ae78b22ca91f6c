package azuretest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// ErrNotRunning says that a guest can't read or write: its machine is off.
var ErrNotRunning = errors.New("the machine is not running")

// VM describes a machine for [Cloud.AddVM].
type VM struct {
	Size       string // Standard_D2s_v5 if ""
	Generation string // V1 or V2; V2 if ""
	OS         string // Windows or Linux; Linux if ""
	OSDisk     int64  // bytes, a whole number of MiB; 64 MiB if 0
	// Data disks by LUN, in bytes, whole numbers of MiB.
	Data map[int]int64
	// DiskSKU is the kind of storage; Premium_LRS if "".
	DiskSKU string
	// Subnet is the ID of the subnet of its one interface, or the path
	// "network/subnet" within the machine's group.
	Subnet string
	// Address is the interface's static address; dynamic if "".
	Address         string
	Zone            string // none if ""
	Tags            map[string]string
	TrustedLaunch   bool
	BootDiagnostics bool
	Off             bool // deallocated
}

// AddVM makes a machine as a customer has it: NAME, with the disks NAME-os and
// NAME-data<LUN>, which are empty, and the interface NAME-nic. The group is made
// if need be, the subnet must be there.
func (c *Cloud) AddVM(group, name string, m VM) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.makeGroup(group)
	tags := map[string]*string{}
	for k, v := range m.Tags {
		tags[k] = &v
	}
	var zones []*string
	if m.Zone != "" {
		zones = []*string{&m.Zone}
	}
	v := &vm{entry: c.made(g, "Microsoft.Compute/virtualMachines", name, tags, zones), vmID: c.newID()}
	if _, there := look[*vm](c, v.id); there {
		return refuse(http.StatusConflict, "Conflict", "VM %s is there already", name)
	}
	n, err := c.addInterface(g, name, m)
	if err != nil {
		return err
	}
	attach := func(d *disk) *armcompute.ManagedDiskParameters { return &armcompute.ManagedDiskParameters{ID: &d.id} }
	os, err := c.addDisk(g, name+"-os", m, cmp.Or(m.OSDisk, 64<<20), zones, true)
	if err != nil {
		return err
	}
	storage := &armcompute.StorageProfile{OSDisk: &armcompute.OSDisk{
		CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), OSType: os.model.Properties.OSType, ManagedDisk: attach(os),
	}}
	for lun := range 64 {
		size, ok := m.Data[lun]
		if !ok {
			continue
		}
		d, err := c.addDisk(g, fmt.Sprintf("%s-data%d", name, lun), m, size, zones, false)
		if err != nil {
			return err
		}
		storage.DataDisks = append(storage.DataDisks, &armcompute.DataDisk{
			Lun: to.Ptr(int32(lun)), CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), ManagedDisk: attach(d),
		})
	}
	model := armcompute.VirtualMachine{Tags: tags, Zones: zones, Properties: &armcompute.VirtualMachineProperties{
		HardwareProfile: &armcompute.HardwareProfile{VMSize: to.Ptr(armcompute.VirtualMachineSizeTypes(cmp.Or(m.Size, "Standard_D2s_v5")))},
		StorageProfile:  storage,
		NetworkProfile:  &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{{ID: &n.id}}},
		DiagnosticsProfile: &armcompute.DiagnosticsProfile{
			BootDiagnostics: &armcompute.BootDiagnostics{Enabled: &m.BootDiagnostics},
		},
	}}
	if m.TrustedLaunch {
		model.Properties.SecurityProfile = &armcompute.SecurityProfile{
			SecurityType: to.Ptr(armcompute.SecurityTypesTrustedLaunch),
			UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: to.Ptr(true), VTpmEnabled: to.Ptr(true)},
		}
	}
	b, err := c.plan(v, model)
	if err != nil {
		return err
	}
	v.state, v.power = "Succeeded", deallocated
	c.put(v)
	c.adopt(v, model, b)
	if !m.Off {
		c.turnOn(v)
	}
	return nil
}

func (c *Cloud) addDisk(g *resourceGroup, name string, m VM, size int64, zones []*string, os bool) (*disk, error) {
	if size < vhd.Unit || size%vhd.Unit != 0 || size > maxDisk {
		return nil, bad("disk %s of %d bytes: want a whole number of MiB", name, size)
	}
	p := &armcompute.DiskProperties{CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionEmpty)}}
	if os {
		p.OSType = to.Ptr(armcompute.OperatingSystemTypes(cmp.Or(m.OS, "Linux")))
		p.HyperVGeneration = to.Ptr(armcompute.HyperVGeneration(cmp.Or(m.Generation, "V2")))
		if m.TrustedLaunch {
			p.SecurityProfile = &armcompute.DiskSecurityProfile{SecurityType: to.Ptr(armcompute.DiskSecurityTypesTrustedLaunch)}
		}
	}
	d := &disk{
		entry:    c.made(g, "Microsoft.Compute/disks", name, nil, zones),
		contents: contents{pages: emptyPages(size), unique: c.newID()},
		model:    armcompute.Disk{Properties: p, SKU: &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypes(cmp.Or(m.DiskSKU, "Premium_LRS")))}},
	}
	d.state = "Succeeded"
	c.put(d)
	return d, nil
}

func (c *Cloud) addInterface(g *resourceGroup, name string, m VM) (*nic, error) {
	sub := m.Subnet
	if net, part, short := strings.Cut(sub, "/"); short && net != "" {
		sub = g.id + "/providers/Microsoft.Network/virtualNetworks/" + net + "/subnets/" + part
	}
	n := &nic{entry: c.made(g, "Microsoft.Network/networkInterfaces", name+"-nic", nil, nil), guid: c.newID()}
	ip := &armnetwork.InterfaceIPConfigurationPropertiesFormat{
		Primary: to.Ptr(true), Subnet: &armnetwork.Subnet{ID: &sub}, PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodDynamic),
	}
	if m.Address != "" {
		ip.PrivateIPAllocationMethod, ip.PrivateIPAddress = to.Ptr(armnetwork.IPAllocationMethodStatic), &m.Address
	}
	n.model = armnetwork.Interface{Properties: &armnetwork.InterfacePropertiesFormat{
		EnableAcceleratedNetworking: to.Ptr(false),
		IPConfigurations:            []*armnetwork.InterfaceIPConfiguration{{Name: to.Ptr("ipconfig1"), Properties: ip}},
	}}
	list, err := c.addresses(n, n.model)
	if err != nil {
		return nil, err
	}
	n.addresses, n.state = list, "Succeeded"
	c.put(n)
	return n, nil
}

func vmID(group, name string) string {
	return groupID(group) + "/providers/Microsoft.Compute/virtualMachines/" + name
}

// Power starts or deallocates a machine, as a person would: what it is busy
// with ends first. Hooks are called.
func (c *Cloud) Power(group, name string, on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := need[*vm](c, vmID(group, name))
	if err != nil {
		return err
	}
	c.settle(&v.entry)
	if on == (v.power == running) {
		return nil
	}
	if on {
		if err := c.mayStart(v); err != nil {
			return err
		}
		c.turnOn(v)
		return nil
	}
	if v.guest {
		c.mu.Unlock()
		c.stopHooks(v)()
		c.mu.Lock()
	}
	c.setGuest(v, false)
	if v.power != "" {
		v.power = deallocated
	}
	return nil
}

// turnOn gives up the lock while hooks run.
func (c *Cloud) turnOn(v *vm) {
	v.power, v.state, v.failed = running, "Succeeded", ""
	c.setGuest(v, true)
	c.mu.Unlock()
	c.startHooks(v)()
	c.mu.Lock()
}

// Hang makes the guest of a machine hang, or go on: it does not shut down then,
// so that a stop takes ten times as many polls, until Azure switches it off; its
// agent answers no commands and takes part in no restore point that is more than
// crash-consistent.
func (c *Cloud) Hang(group, name string, hung bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := need[*vm](c, vmID(group, name))
	if err != nil {
		return err
	}
	v.hung = hung
	return nil
}

// guestDisk returns a disk of a running machine, with guests held for reading
// until done is called.
func (c *Cloud) guestDisk(group, name string, lun int) (d *disk, done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := need[*vm](c, vmID(group, name))
	if err != nil {
		return nil, nil, err
	}
	c.guests.RLock()
	d = v.os
	if lun >= 0 {
		d = v.data[int32(lun)]
	}
	switch {
	case !v.guest:
		err = fmt.Errorf("%s: %w", name, ErrNotRunning)
	case d == nil:
		err = bad("VM %s has no disk at LUN %d", name, lun)
	default:
		return d, c.guests.RUnlock, nil
	}
	c.guests.RUnlock()
	return nil, nil, err
}

// Write is what the guest of a machine writes to the disk at a LUN; -1 is the
// OS disk. Offsets and lengths are multiples of 512 within the disk. It fails
// with ErrNotRunning unless the machine runs.
func (c *Cloud) Write(group, vm string, lun int, p []byte, off int64) error {
	d, done, err := c.guestDisk(group, vm, lun)
	if err != nil {
		return err
	}
	defer done()
	return d.write(p, off)
}

// Read is what the guest reads. See [Cloud.Write].
func (c *Cloud) Read(group, vm string, lun int, p []byte, off int64) error {
	d, done, err := c.guestDisk(group, vm, lun)
	if err != nil {
		return err
	}
	defer done()
	return d.read(p, off)
}

// DiskWrite writes to a disk by its ID, whatever its state: the footer behind
// the disk can't be reached.
func (c *Cloud) DiskWrite(diskID string, p []byte, off int64) error {
	c.mu.Lock()
	d, err := need[*disk](c, diskID)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return d.write(p, off)
}

// DiskRead reads from a disk by its ID, whatever its state.
func (c *Cloud) DiskRead(diskID string, p []byte, off int64) error {
	c.mu.Lock()
	d, err := need[*disk](c, diskID)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return d.read(p, off)
}

func (d *contents) write(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > d.bytes() {
		return fmt.Errorf("%d bytes at %d of a disk of %d", len(p), off, d.bytes())
	}
	return d.pages.writeAt(p, off)
}

func (d *contents) read(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > d.bytes() {
		return io.ErrUnexpectedEOF
	}
	_, err := d.pages.readAt(p, off)
	return err
}

// Disks returns the IDs of a machine's disks: the OS disk, then the data disks
// by LUN.
func (c *Cloud) Disks(group, vmName string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, err := need[*vm](c, vmID(group, vmName))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, d := range v.disks() {
		ids = append(ids, d.id)
	}
	return slices.Clip(ids), nil
}

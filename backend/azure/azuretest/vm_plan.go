package azuretest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// build is what a model of a machine refers to.
type build struct {
	size SKU
	os   *disk
	data map[int32]*disk
	nics []*nic
}

func invalid(format string, a ...any) error {
	return refuse(http.StatusBadRequest, "InvalidParameter", format, a...)
}

// plan finds what a model refers to, and refuses what Azure would: v is the
// machine that is to become so.
func (c *Cloud) plan(v *vm, m armcompute.VirtualMachine) (build, error) {
	var b build
	p := m.Properties
	switch {
	case p == nil || p.HardwareProfile == nil || p.HardwareProfile.VMSize == nil:
		return b, invalid("Required parameter 'vm.hardwareProfile.vmSize' is missing (null).")
	case p.StorageProfile == nil || p.StorageProfile.OSDisk == nil:
		return b, invalid("Required parameter 'vm.storageProfile.osDisk' is missing (null).")
	case p.NetworkProfile == nil || len(p.NetworkProfile.NetworkInterfaces) == 0:
		return b, invalid("Virtual Machine '%s' must have at least one network interface.", v.name)
	case len(v.zones) > 1:
		return b, bad("a VM can be in one zone only")
	case p.AvailabilitySet != nil && len(v.zones) > 0:
		return b, bad("Virtual Machines deployed to an Availability Set can't be in an availability zone.")
	}
	size, ok := c.sku(string(*p.HardwareProfile.VMSize))
	if !ok {
		return b, invalid("The value %s provided for the VM size is not valid.", *p.HardwareProfile.VMSize)
	}
	b.size = size
	if v.model.Properties == nil || !alike(v.size.Name, size.Name) {
		if err := size.available(v.zones, c.o.Location); err != nil {
			return b, err
		}
	}
	if p.AvailabilitySet != nil {
		if _, err := need[*availabilitySet](c, reference(p.AvailabilitySet)); err != nil {
			return b, err
		}
	}
	if err := c.planDisks(v, p, &b); err != nil {
		return b, err
	}
	return b, c.planInterfaces(v, p, &b)
}

func (c *Cloud) planDisks(v *vm, p *armcompute.VirtualMachineProperties, b *build) error {
	os := p.StorageProfile.OSDisk
	switch {
	case val(os.CreateOption) != armcompute.DiskCreateOptionTypesAttach:
		return invalid("create option %q of the OS disk is not simulated, only Attach", val(os.CreateOption))
	case p.OSProfile != nil:
		return invalid("Parameter 'osProfile' is not allowed.")
	case os.OSType == nil:
		return invalid("Required parameter 'osDisk.osType' is missing (null).")
	}
	var err error
	if b.os, err = c.attachable(v, os.ManagedDisk, b.size); err != nil {
		return err
	}
	if !b.size.boots(b.os.generation()) {
		return bad("The selected VM size '%s' cannot boot Hypervisor Generation '%s'.", b.size.Name, strings.TrimPrefix(string(b.os.generation()), "V"))
	}
	if gib(b.os.bytes()) > 4095 {
		return invalid("the OS disk has %d GiB, more than 4,095", gib(b.os.bytes()))
	}
	if err := trusted(p, b); err != nil {
		return err
	}
	b.data = map[int32]*disk{}
	for _, want := range p.StorageProfile.DataDisks {
		if val(want.ToBeDetached) {
			continue
		}
		switch lun := want.Lun; {
		case lun == nil:
			return invalid("Required parameter 'dataDisk.lun' is missing (null).")
		case *lun < 0 || *lun > 63:
			return invalid("the value %d of parameter 'dataDisk.lun' is out of range", *lun)
		case b.data[*lun] != nil:
			return invalid("A disk with LUN %d is there already.", *lun)
		case val(want.CreateOption) != armcompute.DiskCreateOptionTypesAttach:
			return invalid("create option %q of a data disk is not simulated, only Attach", val(want.CreateOption))
		}
		d, err := c.attachable(v, want.ManagedDisk, b.size)
		if err != nil {
			return err
		}
		for _, other := range b.data {
			if other == d {
				return invalid("disk %s is named twice", d.name)
			}
		}
		if d == b.os {
			return invalid("disk %s is named twice", d.name)
		}
		b.data[*want.Lun] = d
	}
	if len(b.data) > b.size.MaxDataDisks {
		return notAllowed("The maximum number of data disks allowed to be attached to a VM of this size is %d.", b.size.MaxDataDisks)
	}
	return nil
}

// trusted holds the security of the machine against that of its OS disk.
func trusted(p *armcompute.VirtualMachineProperties, b *build) error {
	asked := p.SecurityProfile != nil && val(p.SecurityProfile.SecurityType) == armcompute.SecurityTypesTrustedLaunch
	sec := b.os.model.Properties.SecurityProfile
	has := sec != nil && val(sec.SecurityType) == armcompute.DiskSecurityTypesTrustedLaunch
	switch {
	case asked != has:
		return bad("The security type of the VM is not compatible with the security type of attached OS Disk %s.", b.os.name)
	case asked && b.os.generation() != armcompute.HyperVGenerationV2:
		return bad("Security type TrustedLaunch needs Hypervisor Generation 2.")
	case asked && b.size.TrustedLaunchDisabled:
		return bad("The VM size '%s' is not supported for TrustedLaunch.", b.size.Name)
	}
	return nil
}

// attachable finds a disk that may be this machine's.
func (c *Cloud) attachable(v *vm, ref *armcompute.ManagedDiskParameters, size SKU) (*disk, error) {
	if ref == nil || ref.ID == nil {
		return nil, invalid("Required parameter 'managedDisk.id' is missing (null).")
	}
	d, ok := look[*disk](c, *ref.ID)
	premium := func() bool {
		return d.model.SKU != nil && strings.HasPrefix(string(val(d.model.SKU.Name)), "Premium")
	}
	switch {
	case !ok:
		return nil, refuse(http.StatusNotFound, "ResourceNotFound", "The Resource '%s' was not found.", *ref.ID)
	case d.owner != nil && d.owner == v:
		return d, nil
	case d.owner != nil:
		return nil, refuse(http.StatusConflict, "ConflictingUserInput", "Disk '%s' cannot be attached as the disk is already owned by VM '%s'.", d.id, d.owner.id)
	case c.free(&d.entry) != nil:
		return nil, c.free(&d.entry)
	case d.upload != noUpload:
		return nil, notAllowed("Disk %s cannot be attached: it waits for an upload, in state %s.", d.name, d.status(c))
	case d.shared(c) != nil:
		return nil, notAllowed("Disk %s cannot be attached: it has an active shared access signature.", d.name)
	case !sameZones(d.zones, v.zones):
		return nil, bad("Disk %s cannot be attached to the VM because it is in zone '%s', the VM in '%s'.", d.name, zoneNames(d.zones), zoneNames(v.zones))
	case premium() && !size.PremiumIO:
		return nil, invalid("VM size %s does not support the storage account type %s of disk %s.", size.Name, *d.model.SKU.Name, d.name)
	}
	return d, nil
}

func (c *Cloud) planInterfaces(v *vm, p *armcompute.VirtualMachineProperties, b *build) error {
	refs := p.NetworkProfile.NetworkInterfaces
	if len(refs) > b.size.MaxNICs {
		return bad("The VM size '%s' allows %d network interfaces, not %d.", b.size.Name, b.size.MaxNICs, len(refs))
	}
	primaries := 0
	for _, ref := range refs {
		n, err := refer[*nic](c, val(ref.ID), v.id)
		if err != nil {
			return err
		}
		switch {
		case n.owner != nil && n.owner != v:
			return refuse(http.StatusBadRequest, "NicInUse", "Network Interface %s is used by existing resource %s.", n.id, n.owner.id)
		case n.owner == nil && c.free(&n.entry) != nil:
			return c.free(&n.entry)
		case slices.Contains(b.nics, n):
			return invalid("network interface %s is named twice", n.name)
		case n.accelerated() && !b.size.AcceleratedNetworking:
			return refuse(http.StatusBadRequest, "VMSizeIsNotPermittedToEnableAcceleratedNetworking", "VM size %s is not permitted to enable accelerated networking on %s.", b.size.Name, n.id)
		case len(b.nics) > 0 && n.vnet() != b.nics[0].vnet():
			return refuse(http.StatusBadRequest, "SubnetsNotInSameVnet", "network interfaces of VM %s are in different virtual networks", v.name)
		}
		if ref.Properties != nil && val(ref.Properties.Primary) {
			primaries++
		}
		b.nics = append(b.nics, n)
	}
	if len(refs) > 1 && primaries != 1 {
		return refuse(http.StatusBadRequest, "VirtualMachineMustHaveOneNetworkInterfaceAsPrimary", "VM %s must have one network interface set as primary", v.name)
	}
	return nil
}

// adopt makes the machine what was planned. What it no longer has is free.
func (c *Cloud) adopt(v *vm, m armcompute.VirtualMachine, b build) {
	c.guests.Lock() // a guest may write to a disk that is detached
	defer c.guests.Unlock()
	had := map[*disk]bool{}
	if v.model.Properties != nil {
		for _, d := range v.disks() {
			had[d] = true
		}
		for _, n := range v.nics {
			n.owner = nil
		}
	}
	v.rev++
	v.tags, v.size, v.os, v.data, v.nics = m.Tags, b.size, b.os, b.data, b.nics
	p := *m.Properties
	m.Properties, p.InstanceView = &p, nil
	storage := *p.StorageProfile
	p.StorageProfile = &storage
	place := func(d *disk, ref *armcompute.ManagedDiskParameters) (*armcompute.ManagedDiskParameters, *string, *int32) {
		c.own(d, v)
		delete(had, d)
		now := *ref
		now.ID = &d.id
		if d.model.SKU != nil {
			now.StorageAccountType = to.Ptr(armcompute.StorageAccountTypes(val(d.model.SKU.Name)))
		}
		return &now, &d.name, to.Ptr(gib(d.bytes()))
	}
	os := *storage.OSDisk
	os.ManagedDisk, os.Name, os.DiskSizeGB = place(v.os, os.ManagedDisk)
	os.DeleteOption = either(os.DeleteOption, armcompute.DiskDeleteOptionTypesDetach)
	storage.OSDisk = &os
	asked := storage.DataDisks
	storage.DataDisks = []*armcompute.DataDisk{}
	for _, want := range asked {
		if val(want.ToBeDetached) {
			continue
		}
		d := *want
		d.ManagedDisk, d.Name, d.DiskSizeGB = place(v.data[*d.Lun], d.ManagedDisk)
		d.DeleteOption = either(d.DeleteOption, armcompute.DiskDeleteOptionTypesDetach)
		storage.DataDisks = append(storage.DataDisks, &d)
	}
	for d := range had {
		c.own(d, nil)
	}
	refs := *p.NetworkProfile
	p.NetworkProfile, refs.NetworkInterfaces = &refs, slices.Clone(refs.NetworkInterfaces)
	for i, n := range v.nics {
		n.owner = v
		c.plug(n)
		ref := *refs.NetworkInterfaces[i]
		ref.ID = &n.id
		refs.NetworkInterfaces[i] = &ref
	}
	v.model = m
}

func (c *Cloud) setGuest(v *vm, on bool) {
	c.guests.Lock()
	defer c.guests.Unlock()
	if v.guest != on {
		for _, d := range v.disks() {
			d.owned = c.o.Clock().UTC()
		}
	}
	v.guest = on
}

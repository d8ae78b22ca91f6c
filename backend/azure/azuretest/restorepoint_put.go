package azuretest

import (
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

func (c *Cloud) putRestorePoint(q *request) (reply, error) {
	m, err := decode[armcompute.RestorePoint](q)
	if err != nil {
		return reply{}, err
	}
	of, err := parent[*collection](c, q)
	if err != nil {
		return reply{}, err
	}
	if p, had := look[*restorePoint](c, q.id); had {
		// The same again answers what is there; nothing of it can be changed.
		if err := c.free(&p.entry); err != nil {
			return reply{}, err
		}
		return reply{status: http.StatusCreated, body: p.view(c)}, nil
	}
	v, there := look[*vm](c, of.source)
	if !there {
		return reply{}, refuse(http.StatusNotFound, "ResourceNotFound", "The Resource '%s' was not found.", of.source)
	}
	if err := c.free(&v.entry); err != nil {
		return reply{}, err
	}
	props := m.Properties
	if props == nil {
		props = &armcompute.RestorePointProperties{}
	}
	if props.SourceRestorePoint != nil {
		return reply{}, invalid("copies of restore points are not simulated")
	}
	p := &restorePoint{entry: c.child(&of.entry, "restorePoints", q.name()), of: of, source: v.id, excluded: props.ExcludeDisks}
	p.mode = armcompute.ConsistencyModeTypesCrashConsistent
	crash := val(props.ConsistencyMode) == p.mode
	switch {
	case props.ConsistencyMode != nil && !crash:
		return reply{}, invalid("The value %s of parameter 'consistencyMode' is invalid: it may be CrashConsistent or be left out.", *props.ConsistencyMode)
	case crash:
	case v.os.isLinux():
		p.mode = armcompute.ConsistencyModeTypesFileSystemConsistent
	default:
		p.mode = armcompute.ConsistencyModeTypesApplicationConsistent
	}
	if err := c.tooSoon(v, crash); err != nil {
		return reply{}, err
	}
	disks := slices.DeleteFunc(v.disks(), func(d *disk) bool { return excludes(p.excluded, d) })
	if len(disks) == 0 {
		return reply{}, invalid("all disks of VM %s are excluded", v.name)
	}
	c.freezeAll(p, disks)
	p.metadata = metadata(v, p)
	c.put(p)
	for _, d := range p.disks {
		c.put(d)
	}
	op := c.accept(q, "Creating", p.entries()...)
	if v.hung && !crash && op.code == "" { // the guest does not answer
		op.code = "VMAgentStatusCommunicationError"
	}
	op.failed = func() { c.removePoint(p) }
	return reply{status: http.StatusCreated, body: p.view(c), op: op}, nil
}

func (d *disk) isLinux() bool {
	return val(d.model.Properties.OSType) == armcompute.OperatingSystemTypesLinux
}

// metadata tells what the machine was, and which point is of which disk.
func metadata(v *vm, p *restorePoint) *armcompute.RestorePointSourceMetadata {
	m := v.show().Properties
	storage := &armcompute.RestorePointSourceVMStorageProfile{DiskControllerType: m.StorageProfile.DiskControllerType}
	pointOf := func(d *disk) *armcompute.DiskRestorePointAttributes {
		for _, r := range p.disks {
			if r.source == d.id {
				return &armcompute.DiskRestorePointAttributes{ID: &r.id}
			}
		}
		return nil // excluded
	}
	os := m.StorageProfile.OSDisk
	storage.OSDisk = &armcompute.RestorePointSourceVMOSDisk{
		Name: os.Name, Caching: os.Caching, DiskSizeGB: os.DiskSizeGB, ManagedDisk: os.ManagedDisk, DiskRestorePoint: pointOf(v.os),
		OSType: to.Ptr(armcompute.OperatingSystemType(val(os.OSType))),
	}
	for _, d := range m.StorageProfile.DataDisks {
		storage.DataDisks = append(storage.DataDisks, &armcompute.RestorePointSourceVMDataDisk{
			Lun: d.Lun, Name: d.Name, Caching: d.Caching, DiskSizeGB: d.DiskSizeGB, ManagedDisk: d.ManagedDisk, DiskRestorePoint: pointOf(v.data[*d.Lun]),
		})
	}
	return &armcompute.RestorePointSourceMetadata{
		StorageProfile: storage, HardwareProfile: m.HardwareProfile, DiagnosticsProfile: m.DiagnosticsProfile,
		HyperVGeneration: to.Ptr(armcompute.HyperVGenerationTypes(v.os.generation())), LicenseType: m.LicenseType,
		Location: &v.location, SecurityProfile: m.SecurityProfile, VMID: &v.vmID,
	}
}

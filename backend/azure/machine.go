package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// machine is a machine as it is now: its record, if it has one, and what Azure
// has, if it has anything yet.
type machine struct {
	id     dr.MachineID
	at     place
	rec    record
	has    bool // a record
	etag   azcore.ETag
	seen   time.Time // when it was asked for
	vm     *armcompute.VirtualMachine
	power  dr.Power
	halted bool // off, but still allocated: it keeps its host and costs its price
	disks  []attached
}

// attached is a managed disk of a machine.
type attached struct {
	lun  int32 // -1: the OS disk
	id   string
	disk *armcompute.Disk
}

// config is what dr.Machine.Config of this backend holds.
type config struct {
	ID   string            `json:"id"`
	Size string            `json:"size,omitempty"`
	Zone string            `json:"zone,omitempty"`
	Tags map[string]string `json:"tags,omitempty"`
}

// Machine implements backend.Source. The ID of a machine that this library
// didn't make is its vmId, which no other machine ever has.
func (a *Azure) Machine(ctx context.Context, id dr.MachineID) (dr.Machine, error) {
	m, err := a.find(ctx, id)
	if err != nil {
		return dr.Machine{}, fail("look up the machine", id, "", -1, err)
	}
	d, err := a.describe(ctx, m)
	return d, fail("look up the machine", id, "", -1, err)
}

// find looks a machine up, with its disks.
func (a *Azure) find(ctx context.Context, id dr.MachineID) (*machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := id.Validate(); err != nil {
		return nil, err
	}
	m := &machine{id: id, seen: time.Now()}
	rec, etag, err := a.load(ctx, id)
	switch {
	case err == nil:
		m.rec, m.has, m.etag, m.at = rec, true, etag, rec.at()
	case !errors.Is(err, dr.ErrNotFound):
		return nil, err
	case isReplicaID(id):
		return nil, fmt.Errorf("%w: machine %s", dr.ErrNotFound, id)
	}
	if !isReplicaID(id) {
		if m.at, err = a.locate(ctx, id); err != nil {
			return nil, err
		}
	}
	if m.has && isReplicaID(id) && m.rec.VMID == "" && m.rec.staged() {
		m.power = dr.Off
		return m, nil
	}
	if err := a.look(ctx, m); err != nil {
		return nil, err
	}
	if m.vm == nil && m.rec.VMID != "" {
		return nil, remedied(fmt.Errorf("%w: machine %s of resource group %s", dr.ErrNotFound, m.at.name, m.at.group), "somebody has deleted it; what it left is removed with the replica")
	}
	if m.vm == nil {
		m.power = dr.Off
	}
	return m, nil
}

// locate finds a machine of a vmId. Where one was found before it is asked for
// there first.
func (a *Azure) locate(ctx context.Context, id dr.MachineID) (place, error) {
	key := strings.ToLower(string(id))
	a.mu.Lock()
	at, known := a.found[key]
	a.mu.Unlock()
	if known {
		return at, nil
	}
	for vm, err := range a.listed(ctx) {
		if err != nil {
			return place{}, err
		}
		if vm.Properties != nil && strings.EqualFold(deref(vm.Properties.VMID), key) {
			return parseID(deref(vm.ID))
		}
	}
	return place{}, fmt.Errorf("%w: no machine with the vmId %s in the resource groups %q", dr.ErrNotFound, id, a.groups)
}

// listed yields the machines of all groups, and remembers where they are.
func (a *Azure) listed(ctx context.Context) iter.Seq2[*armcompute.VirtualMachine, error] {
	return func(yield func(*armcompute.VirtualMachine, error) bool) {
		for _, group := range a.groups {
			pages := a.vms.NewListPager(group, nil)
			for pages.More() {
				page, err := pages.NextPage(ctx)
				if err != nil {
					yield(nil, explain(err))
					return
				}
				for _, vm := range page.Value {
					if at, err := parseID(deref(vm.ID)); err == nil && vm.Properties != nil && vm.Properties.VMID != nil {
						a.mu.Lock()
						a.found[strings.ToLower(*vm.Properties.VMID)] = at
						a.mu.Unlock()
					}
					if !yield(vm, nil) {
						return
					}
				}
			}
		}
	}
}

// look reads a machine and its disks off Azure. A machine of the name that is
// another one counts as none.
func (a *Azure) look(ctx context.Context, m *machine) error {
	resp, err := a.vms.Get(ctx, m.at.group, m.at.name, &armcompute.VirtualMachinesClientGetOptions{Expand: to.Ptr(armcompute.InstanceViewTypesInstanceView)})
	if err != nil && !isNotFound(err) {
		return explain(err)
	}
	m.vm, m.disks = nil, nil
	if err == nil && resp.Properties != nil && m.is(&resp.VirtualMachine) {
		m.vm = &resp.VirtualMachine
		m.power, m.halted = powerOf(m.vm.Properties.InstanceView)
		if m.power == "" && deref(m.vm.Properties.ProvisioningState) == "Failed" {
			m.power = dr.Off // Azure had no room for it, and never started it
		}
	}
	if m.vm == nil && !isReplicaID(m.id) {
		a.mu.Lock()
		delete(a.found, strings.ToLower(string(m.id)))
		a.mu.Unlock()
		return fmt.Errorf("%w: the machine %s of resource group %s is another one now, or gone", dr.ErrNotFound, m.at.name, m.at.group)
	}
	refs := m.references()
	has := len(refs)
	for _, d := range m.rec.Disks { // disks that no machine has yet
		if d.Disk != "" && !slices.ContainsFunc(refs, func(r attached) bool { return sameID(r.id, d.Disk) }) {
			refs = append(refs, attached{lun: d.LUN, id: d.Disk})
		}
	}
	return a.all(ctx, len(refs), func(ctx context.Context, i int) error {
		at, err := parseID(refs[i].id)
		if err != nil {
			return err
		}
		d, err := a.disks.Get(ctx, at.group, at.name, nil)
		if isNotFound(err) {
			return nil // deleted meanwhile, or by a person
		}
		if err != nil {
			return explain(err)
		}
		if i >= has && m.vm != nil && deref(d.Tags[tagMachine]) != string(m.id) {
			return nil // detached by a person: none of the machine's any more
		}
		refs[i].disk = &d.Disk
		return nil
	}, func() { m.disks = slices.DeleteFunc(refs, func(r attached) bool { return r.disk == nil }) })
}

// is tells whether the machine found under a name is the one that is meant.
func (m *machine) is(vm *armcompute.VirtualMachine) bool {
	if isReplicaID(m.id) {
		return deref(vm.Tags[tagMachine]) == string(m.id)
	}
	return strings.EqualFold(deref(vm.Properties.VMID), string(m.id))
}

// references lists the managed disks of the machine.
func (m *machine) references() []attached {
	if m.vm == nil || m.vm.Properties.StorageProfile == nil {
		return nil
	}
	var refs []attached
	sp := m.vm.Properties.StorageProfile
	if sp.OSDisk != nil && sp.OSDisk.ManagedDisk != nil {
		refs = append(refs, attached{lun: -1, id: deref(sp.OSDisk.ManagedDisk.ID)})
	}
	for _, d := range sp.DataDisks {
		if d.ManagedDisk != nil {
			refs = append(refs, attached{lun: deref(d.Lun), id: deref(d.ManagedDisk.ID)})
		}
	}
	return refs
}

// unmanaged tells of disks that are page blobs of a storage account, which
// Azure retires and this library doesn't read.
func (m *machine) unmanaged() bool {
	if m.vm == nil || m.vm.Properties.StorageProfile == nil {
		return false
	}
	sp := m.vm.Properties.StorageProfile
	return sp.OSDisk != nil && sp.OSDisk.Vhd != nil || slices.ContainsFunc(sp.DataDisks, func(d *armcompute.DataDisk) bool { return d.Vhd != nil })
}

func powerOf(view *armcompute.VirtualMachineInstanceView) (p dr.Power, halted bool) {
	if view == nil {
		return "", false
	}
	for _, s := range view.Statuses {
		switch deref(s.Code) {
		case "PowerState/running", "PowerState/starting":
			return dr.On, false
		case "PowerState/deallocated":
			return dr.Off, false
		case "PowerState/stopped":
			return dr.Off, true
		}
	}
	return "", false
}

// failure is what Azure says of a machine that it could not make.
func (m *machine) failure() error {
	code := "no code"
	if v := m.vm.Properties.InstanceView; v != nil {
		for _, s := range v.Statuses {
			if c, ok := strings.CutPrefix(strings.ToLower(deref(s.Code)), "provisioningstate/failed/"); ok {
				code = deref(s.Code)[len(deref(s.Code))-len(c):]
			}
		}
	}
	err := fmt.Errorf("%w: the machine could not be made: %s", errRefused, code)
	return remedied(err, remedies[code].remedy)
}

// live finds the managed disk of a resource ID.
func (m *machine) live(id string) (attached, bool) {
	i := slices.IndexFunc(m.disks, func(d attached) bool { return sameID(d.id, id) })
	if id == "" || i < 0 {
		return attached{}, false
	}
	return m.disks[i], true
}

// refresh brings a record's disks up to date with what the machine has: a
// person may have attached, detached or grown some.
func (m *machine) refresh(r *record) {
	r.Disks = slices.DeleteFunc(r.Disks, func(d diskRecord) bool {
		_, there := m.live(d.Disk)
		return m.vm != nil && d.Blob == "" && d.Disk != "" && !there
	})
	for _, d := range m.disks {
		if slices.ContainsFunc(r.Disks, func(x diskRecord) bool {
			return sameID(x.Disk, d.id) || slices.ContainsFunc(x.Replaced, func(old string) bool { return sameID(old, d.id) })
		}) {
			continue
		}
		r.Disks = append(r.Disks, diskRecord{ID: diskID(d.disk), Name: deref(d.disk.Name), Size: deref(d.disk.Properties.DiskSizeBytes),
			Boot: d.lun < 0, LUN: d.lun, Disk: d.id, Unique: deref(d.disk.Properties.UniqueID), Actual: deref(d.disk.Properties.DiskSizeBytes)})
	}
	for i := range r.Disks {
		d := &r.Disks[i]
		if x, ok := m.live(d.Disk); ok && d.Blob == "" && deref(x.disk.Properties.DiskSizeBytes) != d.Actual {
			d.Size, d.Actual = deref(x.disk.Properties.DiskSizeBytes), deref(x.disk.Properties.DiskSizeBytes)
		}
	}
}

// diskID is the ID of a managed disk: the one that it stands for, or Azure's
// own, which no other disk ever has.
func diskID(d *armcompute.Disk) dr.DiskID {
	if t := deref(d.Tags[tagDisk]); t != "" {
		return dr.DiskID(t)
	}
	return dr.DiskID(strings.ToLower(deref(d.Properties.UniqueID)))
}

// holds is the point that the disks hold, if nothing can have been written to
// them since that was recorded.
func (m *machine) holds(r *record) dr.PointID {
	if r.Torn || r.Holds == "" || m.power == dr.On {
		return ""
	}
	if !m.untouched(r) {
		return ""
	}
	return r.Holds
}

// untouched tells whether no machine can have written to the managed disks since
// their content was recorded.
func (m *machine) untouched(r *record) bool {
	for _, d := range r.Disks {
		if d.Blob != "" || d.Disk == "" {
			continue
		}
		x, ok := m.live(d.Disk)
		if !ok || deref(x.disk.Properties.UniqueID) != d.Unique || !deref(x.disk.Properties.LastOwnershipUpdateTime).Equal(d.Owned) {
			return false
		}
	}
	return true
}

// own notes what the managed disks are like now, so that holds can tell.
func (m *machine) own(r *record) {
	for i := range r.Disks {
		if x, ok := m.live(r.Disks[i].Disk); ok && r.Disks[i].Blob == "" {
			r.Disks[i].Unique = deref(x.disk.Properties.UniqueID)
			r.Disks[i].Owned = deref(x.disk.Properties.LastOwnershipUpdateTime)
		}
	}
}

// current is the record as it should be now; one that isn't there is made.
func (m *machine) current() record {
	r := m.rec
	r.Disks = slices.Clone(m.rec.Disks)
	if !m.has {
		r = record{ID: m.id, Group: m.at.group, Name: m.at.name, VMID: string(m.id)}
	}
	m.refresh(&r)
	return r
}

// describe tells of the machine in the words of all backends.
func (a *Azure) describe(ctx context.Context, m *machine) (dr.Machine, error) {
	r := m.current()
	d := dr.Machine{ID: m.id, Name: m.at.name, Power: m.power}
	for _, x := range r.Disks {
		d.Disks = append(d.Disks, dr.Disk{ID: x.ID, Name: x.Name, Size: x.Size, Boot: x.Boot})
	}
	if m.vm == nil {
		if p := r.Placement; p != nil {
			like := p.Machine
			d.Firmware, d.SecureBoot, d.CPUs, d.Memory, d.OS, d.NICs = like.Firmware, like.SecureBoot, like.CPUs, like.Memory, like.OS, like.NICs
		}
		return d, nil
	}
	props := m.vm.Properties
	c := config{ID: deref(m.vm.ID), Tags: map[string]string{}}
	for k, v := range m.vm.Tags {
		c.Tags[k] = deref(v)
	}
	if len(m.vm.Zones) > 0 {
		c.Zone = deref(m.vm.Zones[0])
	}
	if props.HardwareProfile != nil {
		c.Size = string(deref(props.HardwareProfile.VMSize))
		if s, err := a.sizes.of(ctx, a, c.Size); err == nil {
			d.CPUs, d.Memory = s.cpus, s.memory
		}
	}
	if sp := props.StorageProfile; sp != nil && sp.OSDisk != nil {
		d.OS = strings.ToLower(string(deref(sp.OSDisk.OSType)))
	}
	for _, x := range m.disks {
		if x.lun < 0 {
			switch deref(x.disk.Properties.HyperVGeneration) {
			case armcompute.HyperVGenerationV1:
				d.Firmware = dr.BIOS
			case armcompute.HyperVGenerationV2:
				d.Firmware = dr.UEFI
			}
		}
	}
	if s := props.SecurityProfile; s != nil && s.UefiSettings != nil {
		d.SecureBoot = deref(s.UefiSettings.SecureBootEnabled)
	}
	var err error
	if d.NICs, err = a.cards(ctx, m); err != nil {
		return dr.Machine{}, err
	}
	d.Config, err = json.Marshal(c)
	return d, err
}

// Machines implements backend.Lister: the machines of the resource groups.
// Replicas that never started are no machines of Azure yet, and not listed.
func (a *Azure) Machines(ctx context.Context) iter.Seq2[dr.Machine, error] {
	return func(yield func(dr.Machine, error) bool) {
		for vm, err := range a.listed(ctx) {
			if err != nil {
				yield(dr.Machine{}, fail("list machines", "", "", -1, err))
				return
			}
			id := dr.MachineID(strings.ToLower(deref(vm.Properties.VMID)))
			if tag := dr.MachineID(deref(vm.Tags[tagMachine])); isReplicaID(tag) && tag.Validate() == nil {
				// A copy of a replica carries its tags too.
				if r, _, err := a.load(ctx, tag); err == nil && strings.EqualFold(r.VMID, string(id)) {
					id = tag
				}
			}
			m, err := a.Machine(ctx, id)
			if errors.Is(err, dr.ErrNotFound) {
				continue // deleted meanwhile
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Start implements backend.Target. The first time it makes what Azure runs:
// managed disks of the page blobs, cards, a machine. Cut off anywhere, the next
// Start finds what is there already. A machine whose disks a draft has written
// anew gets these in place of the old, which are deleted if this library made
// them, and kept if it didn't.
func (a *Azure) Start(ctx context.Context, id dr.MachineID) error {
	m, err := a.find(ctx, id)
	if err != nil {
		return fail("start", id, "", -1, err)
	}
	if ctx, err = a.raise(ctx, m); err != nil {
		return fail("start", id, "", -1, err)
	}
	return fail("start", id, "", -1, a.start(ctx, m))
}

func (a *Azure) start(ctx context.Context, m *machine) error {
	if m.current().Torn {
		return remedied(dr.ErrTorn, "fill its disks from a recovery point first")
	}
	if m.power == dr.On {
		return a.settle(ctx, m)
	}
	if m.power != dr.Off {
		return fmt.Errorf("%w: the machine is stopping or starting", dr.ErrBusy)
	}
	if !m.has && m.vm != nil { // nobody ever said what it holds
		return a.boot(ctx, m)
	}
	r, err := a.update(ctx, m.id, nil, func(r *record) error {
		if r.Torn {
			return dr.ErrTorn
		}
		n := len(r.Disks)
		m.refresh(r)
		if r.Holds == "" && !r.New && len(r.Disks) == n {
			return errUnchanged
		}
		r.Holds, r.New = "", false
		return nil
	})
	if err != nil {
		return err
	}
	m.rec = r
	if r, err = a.asDisks(ctx, m, r); err != nil {
		return err
	}
	m.rec = r
	if m.vm == nil || r.VMID == "" {
		err = a.makeVM(ctx, m, &r)
	} else {
		err = a.swap(ctx, m, &r)
	}
	if err != nil {
		return err
	}
	return a.settle(ctx, m)
}

// settle does what is left to do for a machine that runs: to record which it is,
// and to delete what its start, or one that was cut off, has left.
func (a *Azure) settle(ctx context.Context, m *machine) error {
	if !m.has {
		return nil
	}
	r, _, err := a.load(ctx, m.id)
	if errors.Is(err, dr.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.VMID == "" {
		if err := a.recordVM(ctx, m); err != nil {
			return err
		}
	}
	err = a.dropReplaced(ctx, m, r)
	if err == nil && r.Untidy {
		// Bases of earlier drafts tell nothing any more.
		if err = a.release(ctx, m.id, func(dr.PointID) bool { return false }); err == nil {
			err = a.tidy(ctx, m.id)
		}
		if err == nil {
			_, err = a.update(ctx, m.id, nil, func(now *record) error {
				if now.Draft != r.Draft || now.Gen != r.Gen || !now.Untidy {
					return errUnchanged
				}
				now.Untidy = false
				return nil
			})
		}
	}
	if tolerable(err) {
		a.opts.Log.Warn("the machine runs, but what it had before can't be deleted", "machine", m.id, "err", explain(err))
		return nil
	}
	return err
}

// recordVM records which machine a replica is at Azure.
func (a *Azure) recordVM(ctx context.Context, m *machine) error {
	_, err := a.update(ctx, m.id, nil, func(r *record) error {
		id := deref(m.vm.Properties.VMID)
		if r.VMID == id {
			return errUnchanged
		}
		r.VMID = id
		return nil
	})
	return err
}

// makeVM makes a machine, which starts at once, and records which it is.
func (a *Azure) makeVM(ctx context.Context, m *machine, r *record) error {
	o, err := a.optionsOf(r)
	if err != nil {
		return err
	}
	p := *r.Placement
	size, cards, err := a.check(ctx, m, p, o)
	if err != nil {
		return err
	}
	if r.Size == "" || o.Size != "" {
		r.Size = size
	}
	ids, err := a.connect(ctx, r, cards, o)
	if err != nil {
		return err
	}
	vm := a.vmOf(r, o, ids)
	at := r.at()
	var opts armcompute.VirtualMachinesClientBeginCreateOrUpdateOptions
	again := m.vm != nil
	if !again {
		opts.IfNoneMatch = to.Ptr("*") // one of the name may be anybody's
	} else {
		// One whose start has failed takes another size only so.
		if err := a.deallocate(ctx, at); err != nil {
			return err
		}
		if err := a.look(ctx, m); err != nil { // that may have changed what is told of it
			return err
		}
		opts.IfMatch = m.unchanged()
	}
	poll, err := a.vms.BeginCreateOrUpdate(ctx, at.group, at.name, vm, &opts)
	resp, err := await(ctx, a, poll, err)
	if status, _ := codeOf(err); status == http.StatusPreconditionFailed && !again {
		return a.made(ctx, m)
	}
	if err != nil {
		return explain(err)
	}
	m.vm = &resp.VirtualMachine
	if again { // then Azure may have changed it only
		if err := a.boot(ctx, m); err != nil {
			return err
		}
	}
	return a.recordVM(ctx, m)
}

// made waits for a machine that was there already when it was to be made: the
// answer to an earlier request was lost, or it is somebody else's.
func (a *Azure) made(ctx context.Context, m *machine) error {
	for {
		if err := a.look(ctx, m); err != nil {
			return err
		}
		if m.vm == nil {
			return remedied(fmt.Errorf("%w: machine %s of resource group %s is somebody else's", dr.ErrExists, m.at.name, m.at.group), "remove or rename that machine, or remove the replica and prepare it anew under another name")
		}
		switch state := deref(m.vm.Properties.ProvisioningState); state {
		case "Succeeded":
			if m.power != dr.On {
				if err := a.boot(ctx, m); err != nil {
					return err
				}
			}
			return a.recordVM(ctx, m)
		case "Failed", "Canceled":
			return m.failure()
		}
		if err := sleep(ctx, a.opts.Poll); err != nil {
			return err
		}
	}
}

// vmOf is the machine as it is asked for: made of disks, so that Azure changes
// nothing inside the guest.
func (a *Azure) vmOf(r *record, o PlacementOptions, cards []string) armcompute.VirtualMachine {
	like := r.Placement.Machine
	disks := &armcompute.StorageProfile{}
	for _, d := range r.Disks {
		ref := &armcompute.ManagedDiskParameters{ID: to.Ptr(d.Disk)}
		if d.LUN < 0 {
			disks.OSDisk = &armcompute.OSDisk{CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), OSType: osType(like.OS), ManagedDisk: ref, DeleteOption: to.Ptr(armcompute.DiskDeleteOptionTypesDelete)}
			continue
		}
		disks.DataDisks = append(disks.DataDisks, &armcompute.DataDisk{Lun: to.Ptr(d.LUN), CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), ManagedDisk: ref, DeleteOption: to.Ptr(armcompute.DiskDeleteOptionTypesDelete)})
	}
	vm := armcompute.VirtualMachine{Location: to.Ptr(a.opts.Location), Tags: a.tags(r, "", ""), Properties: &armcompute.VirtualMachineProperties{
		HardwareProfile:    &armcompute.HardwareProfile{VMSize: to.Ptr(armcompute.VirtualMachineSizeTypes(r.Size))},
		StorageProfile:     disks,
		NetworkProfile:     &armcompute.NetworkProfile{},
		DiagnosticsProfile: &armcompute.DiagnosticsProfile{BootDiagnostics: &armcompute.BootDiagnostics{Enabled: to.Ptr(true)}},
	}}
	for i, id := range cards {
		vm.Properties.NetworkProfile.NetworkInterfaces = append(vm.Properties.NetworkProfile.NetworkInterfaces, &armcompute.NetworkInterfaceReference{ID: to.Ptr(id),
			Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: to.Ptr(i == 0), DeleteOption: to.Ptr(armcompute.DeleteOptionsDelete)}})
	}
	if o.Zone != "" {
		vm.Zones = []*string{to.Ptr(o.Zone)}
	}
	if o.AvailabilitySet != "" {
		vm.Properties.AvailabilitySet = &armcompute.SubResource{ID: to.Ptr(a.setID(o.AvailabilitySet))}
	}
	if o.License != "" {
		vm.Properties.LicenseType = to.Ptr(o.License)
	}
	if o.Security == "TrustedLaunch" {
		vm.Properties.SecurityProfile = &armcompute.SecurityProfile{SecurityType: to.Ptr(armcompute.SecurityTypesTrustedLaunch),
			UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: to.Ptr(like.SecureBoot), VTpmEnabled: to.Ptr(true)}}
	}
	return vm
}

// swap gives a machine the disks that its record says, and starts it.
func (a *Azure) swap(ctx context.Context, m *machine, r *record) error {
	refs := m.references()
	has := func(d diskRecord) bool {
		return slices.ContainsFunc(refs, func(x attached) bool { return sameID(x.id, d.Disk) })
	}
	if !slices.ContainsFunc(r.Disks, func(d diskRecord) bool { return !has(d) }) {
		return a.boot(ctx, m)
	}
	if m.halted {
		if err := a.deallocate(ctx, m.at); err != nil {
			return err
		}
		if err := a.look(ctx, m); err != nil { // that may have changed what is told of it
			return err
		}
		if m.vm == nil {
			return fmt.Errorf("%w: machine %s of resource group %s", dr.ErrNotFound, m.at.name, m.at.group)
		}
	}
	sp := *m.vm.Properties.StorageProfile
	data := slices.Clone(sp.DataDisks)
	for _, d := range r.Disks {
		if has(d) {
			continue
		}
		ref := &armcompute.ManagedDiskParameters{ID: to.Ptr(d.Disk)}
		if d.LUN < 0 {
			osDisk := *sp.OSDisk
			osDisk.ManagedDisk, osDisk.Name, osDisk.DiskSizeGB, osDisk.CreateOption = ref, nil, nil, to.Ptr(armcompute.DiskCreateOptionTypesAttach)
			if at, err := parseID(d.Disk); err == nil {
				osDisk.Name = to.Ptr(at.name)
			}
			sp.OSDisk = &osDisk
			continue
		}
		now := armcompute.DataDisk{Lun: to.Ptr(d.LUN), DeleteOption: to.Ptr(armcompute.DiskDeleteOptionTypesDelete)}
		i := slices.IndexFunc(data, func(x *armcompute.DataDisk) bool { return deref(x.Lun) == d.LUN })
		if i >= 0 { // what its owner has set stays: caching, and what is deleted with the machine
			now = *data[i]
			data = slices.Delete(data, i, i+1)
		}
		now.CreateOption, now.ManagedDisk, now.Name, now.DiskSizeGB = to.Ptr(armcompute.DiskCreateOptionTypesAttach), ref, nil, nil
		data = append(data, &now)
	}
	sp.DataDisks = data
	p, err := a.vms.BeginUpdate(ctx, m.at.group, m.at.name, armcompute.VirtualMachineUpdate{Properties: &armcompute.VirtualMachineProperties{StorageProfile: &sp}},
		&armcompute.VirtualMachinesClientBeginUpdateOptions{IfMatch: m.unchanged()})
	if _, err = await(ctx, a, p, err); err != nil {
		return fmt.Errorf("exchange the machine's disks: %w", explain(err))
	}
	return a.boot(ctx, m)
}

func (a *Azure) boot(ctx context.Context, m *machine) error {
	p, err := a.vms.BeginStart(ctx, m.at.group, m.at.name, nil)
	_, err = await(ctx, a, p, err)
	return explain(err)
}

// dropReplaced deletes the disks that a machine had before, of those that this
// library made.
func (a *Azure) dropReplaced(ctx context.Context, m *machine, r record) error {
	var done []string
	for _, d := range r.Disks {
		for _, old := range d.Replaced {
			at, err := parseID(old)
			if err != nil {
				return err
			}
			x, err := a.disks.Get(ctx, at.group, at.name, nil)
			switch {
			case isNotFound(err):
			case err != nil:
				return explain(err)
			case deref(x.Tags[tagMachine]) == string(m.id):
				if err := a.dropDisk(ctx, old); err != nil {
					return err
				}
			default:
				a.opts.Log.Warn("a disk that the machine had before it was written from a recovery point is kept, and costs its price until somebody deletes it", "machine", m.id, "disk", old)
			}
			done = append(done, old)
		}
	}
	if len(done) == 0 {
		return nil
	}
	_, err := a.update(ctx, m.id, nil, func(r *record) error {
		for i := range r.Disks {
			r.Disks[i].Replaced = slices.DeleteFunc(r.Disks[i].Replaced, func(old string) bool { return slices.Contains(done, old) })
		}
		return nil
	})
	return err
}

// Stop implements backend.Target: the machine is powered off and deallocated, so
// that it costs no more than its disks.
func (a *Azure) Stop(ctx context.Context, id dr.MachineID) error {
	m, err := a.find(ctx, id)
	if err != nil {
		return fail("stop", id, "", -1, err)
	}
	if ctx, err = a.raise(ctx, m); err != nil {
		return fail("stop", id, "", -1, err)
	}
	if m.vm == nil || m.power == dr.Off && !m.halted {
		return nil
	}
	if m.power != dr.Off {
		p, err := a.vms.BeginPowerOff(ctx, m.at.group, m.at.name, &armcompute.VirtualMachinesClientBeginPowerOffOptions{SkipShutdown: to.Ptr(true)})
		if _, err := await(ctx, a, p, err); err != nil {
			return fail("stop", id, "", -1, err)
		}
	}
	return fail("stop", id, "", -1, a.deallocate(ctx, m.at))
}

func (a *Azure) deallocate(ctx context.Context, at place) error {
	p, err := a.vms.BeginDeallocate(ctx, at.group, at.name, nil)
	_, err = await(ctx, a, p, err)
	return explain(err)
}

// Shutdown implements backend.Shutdowner. It is Azure's power off that asks the
// guest; Azure waits for it as long as it sees fit, which its documentation
// doesn't tell.
func (a *Azure) Shutdown(ctx context.Context, id dr.MachineID) error {
	m, err := a.find(ctx, id)
	if err != nil {
		return fail("shut down", id, "", -1, err)
	}
	if ctx, err = a.raise(ctx, m); err != nil {
		return fail("shut down", id, "", -1, err)
	}
	if m.vm == nil || m.power == dr.Off && !m.halted {
		return nil
	}
	if m.power != dr.Off {
		p, err := a.vms.BeginPowerOff(ctx, m.at.group, m.at.name, &armcompute.VirtualMachinesClientBeginPowerOffOptions{SkipShutdown: to.Ptr(false)})
		if _, err := await(ctx, a, p, err); err != nil {
			return fail("shut down", id, "", -1, err)
		}
	}
	return fail("shut down", id, "", -1, a.deallocate(ctx, m.at))
}

// dropVM deletes a machine. One that isn't there is no error.
func (a *Azure) dropVM(ctx context.Context, at place) error {
	p, err := a.vms.BeginDelete(ctx, at.group, at.name, &armcompute.VirtualMachinesClientBeginDeleteOptions{ForceDeletion: to.Ptr(true)})
	if _, err = await(ctx, a, p, err); err != nil {
		if status, _ := codeOf(err); status != http.StatusNotFound {
			return explain(err)
		}
	}
	return nil
}

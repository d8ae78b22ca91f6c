package azuretest

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

func (c *Cloud) putVM(q *request) (reply, error) {
	m, err := decode[armcompute.VirtualMachine](q)
	if err != nil {
		return reply{}, err
	}
	v, had := look[*vm](c, q.id)
	if had && q.Header.Get("If-None-Match") == "*" {
		return reply{}, refuse(http.StatusPreconditionFailed, "PreconditionFailed", "the resource '%s' is there already", v.id)
	}
	if !had && q.Header.Get("If-Match") != "" {
		return reply{}, refuse(http.StatusPreconditionFailed, "PreconditionFailed", "the resource '%s' is not there", q.id)
	}
	if had {
		if err := v.match(q); err != nil {
			return reply{}, err
		}
		if val(m.Location) == "" || !alike(*m.Location, v.location) {
			return reply{}, refuse(http.StatusConflict, "InvalidResourceLocation", "the resource '%s' is in location '%s'", v.id, v.location)
		}
		return c.changeVM(q, v, m, true, http.StatusOK)
	}
	e, err := c.entry(q, "Microsoft.Compute/virtualMachines", m.Location, m.Tags, m.Zones)
	if err != nil {
		return reply{}, err
	}
	if err := c.throttle(e.id); err != nil {
		return reply{}, err
	}
	v = &vm{entry: e, vmID: c.newID()}
	b, err := c.plan(v, m)
	if err != nil {
		return reply{}, err
	}
	if err := c.quota(b.size, true); err != nil {
		return reply{}, err
	}
	c.put(v)
	c.adopt(v, m, b)
	op := c.boot(q, v, "Creating")
	return reply{status: http.StatusCreated, body: v.view(c), op: op}, nil
}

// boot accepts the first start of a machine. One that fails is there
// nevertheless, with its disks and interfaces, as on Azure.
func (c *Cloud) boot(q *request, v *vm, state string) *operation {
	op := c.accept(q, state, v.entries()...)
	op.end = func() {
		v.failed, v.power = "", running
		c.setGuest(v, true)
	}
	op.failed = func() { v.failed, v.power = op.code, "" }
	op.after = []func(){c.startHooks(v)}
	if op.code == "" {
		v.power = starting
	}
	return op
}

// changeVM makes the machine that of the model: of all there is while it is
// deallocated, of tags, options and data disks at any time.
func (c *Cloud) changeVM(q *request, v *vm, m armcompute.VirtualMachine, whole bool, status int) (reply, error) {
	if err := c.free(&v.entry); err != nil {
		return reply{}, err
	}
	if err := c.throttle(v.id); err != nil {
		return reply{}, err
	}
	if whole && !sameZones(v.zones, m.Zones) {
		return reply{}, changed("zones")
	}
	b, err := c.plan(v, m)
	if err != nil {
		return reply{}, err
	}
	was, now := v.model.Properties, m.Properties
	off := v.power == deallocated || v.power == ""
	switch {
	case !alike(reference(was.AvailabilitySet), reference(now.AvailabilitySet)):
		return reply{}, changed("availabilitySet")
	case !off && v.os != b.os:
		return reply{}, changed("osDisk.managedDisk.id")
	case !off && !slices.Equal(v.nics, b.nics):
		return reply{}, notAllowed("network interfaces of VM %s can be changed while it is deallocated only", v.name)
	case !off && !alike(v.size.Name, b.size.Name):
		return reply{}, notAllowed("the size of VM %s can be changed while it is deallocated only", v.name)
	}
	if v.power == "" { // it never started: again
		if err := c.quota(b.size, false); err != nil {
			return reply{}, err
		}
		c.adopt(v, m, b)
		return reply{status: status, body: v.view(c), op: c.boot(q, v, "Updating")}, nil
	}
	before := v.entries()
	op := c.accept(q, "Updating", before...)
	if op.code == "" {
		c.adopt(v, m, b)
		for _, e := range v.entries() {
			if !slices.Contains(op.on, e) {
				op.also(e)
			}
		}
	}
	op.end = func() { v.failed = "" }
	op.failed = func() { v.failed = op.code }
	return reply{status: status, body: v.view(c), op: op}, nil
}

func changed(property string) error {
	return refuse(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property '%s' is not allowed.", property)
}

func reference(s *armcompute.SubResource) string {
	if s == nil {
		return ""
	}
	return val(s.ID)
}

// patchVM changes what the body names. A list is replaced as a whole.
func (c *Cloud) patchVM(q *request) (reply, error) {
	v, err := need[*vm](c, q.id)
	if err == nil {
		err = v.match(q)
	}
	if err != nil {
		return reply{}, err
	}
	var patch map[string]any
	if err := json.Unmarshal(q.body, &patch); err != nil {
		return reply{}, refuse(http.StatusBadRequest, "InvalidRequestContent", "the body can't be read: %v", err)
	}
	m, err := merged(v.show(), patch)
	if err != nil {
		return reply{}, err
	}
	return c.changeVM(q, v, m, false, http.StatusOK)
}

// merged is the model with the patch in it. Tags are not merged: those of the
// patch, if any, are all.
func merged(m armcompute.VirtualMachine, patch map[string]any) (armcompute.VirtualMachine, error) {
	m.Properties.ProvisioningState, m.Properties.VMID, m.Properties.TimeCreated = nil, nil, nil
	b, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	var old map[string]any
	if err := json.Unmarshal(b, &old); err != nil {
		return m, err
	}
	if _, ok := patch["tags"]; ok {
		delete(old, "tags")
	}
	var merge func(old, patch map[string]any)
	merge = func(old, patch map[string]any) {
		for k, p := range patch {
			o, deep := old[k].(map[string]any)
			if sub, ok := p.(map[string]any); deep && ok {
				merge(o, sub)
			} else {
				old[k] = p
			}
		}
	}
	merge(old, patch)
	if b, err = json.Marshal(old); err != nil {
		return m, err
	}
	var out armcompute.VirtualMachine
	if err := json.Unmarshal(b, &out); err != nil {
		return m, refuse(http.StatusBadRequest, "InvalidRequestContent", "the body can't be read: %v", err)
	}
	return out, nil
}

// attachDetach changes data disks, by their IDs.
func (c *Cloud) attachDetach(q *request) (reply, error) {
	v, err := c.machine(q)
	if err != nil {
		return reply{}, err
	}
	ask, err := decode[armcompute.AttachDetachDataDisksRequest](q)
	if err != nil {
		return reply{}, err
	}
	m := v.show()
	profile := *m.Properties.StorageProfile
	m.Properties.StorageProfile = &profile
	profile.DataDisks = slices.Clone(profile.DataDisks)
	for _, d := range ask.DataDisksToDetach {
		i := slices.IndexFunc(profile.DataDisks, func(x *armcompute.DataDisk) bool { return alike(val(x.ManagedDisk.ID), val(d.DiskID)) })
		if i < 0 {
			return reply{}, bad("disk %s is not attached to VM %s", val(d.DiskID), v.name)
		}
		profile.DataDisks = slices.Delete(profile.DataDisks, i, i+1)
	}
	for _, d := range ask.DataDisksToAttach {
		lun := d.Lun
		for n := int32(0); lun == nil; n++ {
			if !slices.ContainsFunc(profile.DataDisks, func(x *armcompute.DataDisk) bool { return val(x.Lun) == n }) {
				lun = to.Ptr(n)
			}
		}
		profile.DataDisks = append(profile.DataDisks, &armcompute.DataDisk{
			Lun: lun, CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), Caching: d.Caching, DeleteOption: d.DeleteOption,
			ManagedDisk: &armcompute.ManagedDiskParameters{ID: d.DiskID},
		})
	}
	answer, err := c.changeVM(q, v, m, false, http.StatusAccepted)
	if err == nil {
		answer.body = nil
		answer.op.result = func() any { return v.show().Properties.StorageProfile }
	}
	return answer, err
}

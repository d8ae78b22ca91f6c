package azuretest

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// collection holds the restore points of one machine, and outlives it.
type collection struct {
	entry
	source string // the machine's ID
	guid   string
}

// restorePoint is a machine with its disks at one instant.
type restorePoint struct {
	entry
	of       *collection
	source   string
	mode     armcompute.ConsistencyModeTypes
	excluded []*armcompute.APIEntityReference
	metadata *armcompute.RestorePointSourceMetadata
	disks    []*diskRestorePoint
}

// diskRestorePoint is one disk of a restore point.
type diskRestorePoint struct {
	entry
	contents
	family     string
	source     string // the disk's ID
	sourceID   string // the disk's unique ID
	os         *armcompute.OperatingSystemTypes
	generation *armcompute.HyperVGeneration
	security   *armcompute.DiskSecurityProfile
}

func restorePointRoutes() []route {
	const (
		at    = compute + "restorePointCollections/*"
		point = at + "/restorePoints/*"
		disk  = point + "/diskRestorePoints/*"
	)
	return slices.Concat(listRoutes[*collection]("Microsoft.Compute/restorePointCollections"), []route{
		handle("GET", at, (*Cloud).getCollection),
		handle("PUT", at, (*Cloud).putCollection),
		handle("PATCH", at, (*Cloud).patchCollection),
		handle("DELETE", at, (*Cloud).deleteCollection),
		handle("GET", point, (*Cloud).getRestorePoint),
		handle("PUT", point, (*Cloud).putRestorePoint),
		handle("DELETE", point, (*Cloud).deleteRestorePoint),
		handle("GET", point+"/diskRestorePoints", func(c *Cloud, q *request) (reply, error) {
			r, err := need[*restorePoint](c, q.owner(1))
			if err != nil {
				return reply{}, err
			}
			return page(c, q, func(d *diskRestorePoint) bool { return slices.Contains(r.disks, d) }, func(d *diskRestorePoint) any { return d.view(c) })
		}),
		handle("GET", disk, show[*diskRestorePoint]),
		handle("POST", disk+"/beginGetAccess", (*Cloud).grantRestorePoint),
		handle("POST", disk+"/endGetAccess", (*Cloud).revokeRestorePoint),
	})
}

func (r *collection) points(c *Cloud) []*restorePoint {
	return all(c, func(p *restorePoint) bool { return p.of == r })
}

func (r *collection) view(*Cloud) any { return r.show() }

func (r *collection) show() armcompute.RestorePointCollection {
	return armcompute.RestorePointCollection{
		ID: &r.id, Name: &r.name, Type: &r.kind, Location: &r.location, Tags: r.tags,
		Properties: &armcompute.RestorePointCollectionProperties{
			ProvisioningState: &r.state, RestorePointCollectionID: &r.guid,
			Source: &armcompute.RestorePointCollectionSourceProperties{ID: &r.source, Location: &r.location},
		},
	}
}

func (c *Cloud) getCollection(q *request) (reply, error) {
	r, err := need[*collection](c, q.id)
	if err != nil {
		return reply{}, err
	}
	m := r.show()
	if alike(q.query.Get("$expand"), "restorePoints") {
		for _, p := range r.points(c) {
			m.Properties.RestorePoints = append(m.Properties.RestorePoints, to.Ptr(p.show(c)))
		}
	}
	return ok(m)
}

func (c *Cloud) putCollection(q *request) (reply, error) {
	m, err := decode[armcompute.RestorePointCollection](q)
	if err != nil {
		return reply{}, err
	}
	if m.Properties == nil || m.Properties.Source == nil {
		return reply{}, invalid("Required parameter 'restorePointCollection.source.id' is missing (null).")
	}
	source := val(m.Properties.Source.ID)
	if r, had := look[*collection](c, q.id); had {
		if !alike(r.source, source) {
			return reply{}, changed("source.id")
		}
		r.tags = m.Tags
		return ok(r.view(c))
	}
	e, err := c.entry(q, "Microsoft.Compute/restorePointCollections", m.Location, m.Tags, nil)
	if err != nil {
		return reply{}, err
	}
	v, there := look[*vm](c, source)
	if !there {
		return reply{}, refuse(http.StatusNotFound, "ResourceNotFound", "The Resource '%s' was not found.", source)
	}
	e.state = "Succeeded"
	r := &collection{entry: e, source: v.id, guid: c.newID()}
	c.put(r)
	return reply{status: http.StatusCreated, body: r.view(c)}, nil
}

func (c *Cloud) patchCollection(q *request) (reply, error) {
	m, err := decode[armcompute.RestorePointCollectionUpdate](q)
	if err != nil {
		return reply{}, err
	}
	r, err := need[*collection](c, q.id)
	if err != nil {
		return reply{}, err
	}
	if m.Tags != nil {
		r.tags = m.Tags
	}
	return ok(r.view(c))
}

func (c *Cloud) deleteCollection(q *request) (reply, error) {
	r, had := look[*collection](c, q.id)
	if !had {
		return gone()
	}
	entries := []*entry{&r.entry}
	points := r.points(c)
	for _, p := range points {
		if err := c.mayDelete(p); err != nil {
			return reply{}, err
		}
		entries = append(entries, p.entries()...)
	}
	op := c.accept(q, "Deleting", entries...)
	op.end = func() {
		for _, p := range points {
			c.removePoint(p)
		}
		c.drop(r)
	}
	return accepted(op)
}

// mayDelete refuses while a restore point is being made or read.
func (c *Cloud) mayDelete(p *restorePoint) error {
	look[*restorePoint](c, p.id) // time passes for what it is busy with
	if err := c.free(p.entries()...); err != nil {
		return err
	}
	for _, d := range p.disks {
		if d.shared(c) != nil {
			return notAllowed("disk restore point %s has an active shared access signature", d.id)
		}
	}
	return nil
}

func (c *Cloud) removePoint(p *restorePoint) {
	for _, d := range p.disks {
		c.drop(d)
	}
	c.drop(p)
}

func (p *restorePoint) entries() []*entry {
	list := []*entry{&p.entry}
	for _, d := range p.disks {
		list = append(list, &d.entry)
	}
	return list
}

func (p *restorePoint) view(c *Cloud) any { return p.show(c) }

func (p *restorePoint) show(*Cloud) armcompute.RestorePoint {
	return armcompute.RestorePoint{
		ID: &p.id, Name: &p.name, Type: &p.kind,
		Properties: &armcompute.RestorePointProperties{
			ConsistencyMode: &p.mode, ExcludeDisks: p.excluded, SourceMetadata: p.metadata,
			ProvisioningState: &p.state, TimeCreated: &p.made,
		},
	}
}

func (c *Cloud) getRestorePoint(q *request) (reply, error) {
	p, err := need[*restorePoint](c, q.id)
	if err != nil {
		return reply{}, err
	}
	m := p.show(c)
	if alike(q.query.Get("$expand"), "instanceView") {
		view := &armcompute.RestorePointInstanceView{Statuses: []*armcompute.InstanceViewStatus{status("ProvisioningState/succeeded", "Provisioning succeeded")}}
		for _, d := range p.disks {
			view.DiskRestorePoints = append(view.DiskRestorePoints, &armcompute.DiskRestorePointInstanceView{ID: &d.id})
		}
		m.Properties.InstanceView = view
	}
	return ok(m)
}

func (c *Cloud) deleteRestorePoint(q *request) (reply, error) {
	p, had := look[*restorePoint](c, q.id)
	if !had {
		return gone()
	}
	if err := c.mayDelete(p); err != nil {
		return reply{}, err
	}
	op := c.accept(q, "Deleting", p.entries()...)
	op.end = func() { c.removePoint(p) }
	return accepted(op)
}

func (d *diskRestorePoint) view(*Cloud) any {
	return armcompute.DiskRestorePoint{
		ID: &d.id, Name: &d.name, Type: &d.kind,
		Properties: &armcompute.DiskRestorePointProperties{
			CompletionPercent: to.Ptr[float32](100), FamilyID: &d.family, SourceResourceID: &d.source, SourceUniqueID: &d.sourceID,
			SourceResourceLocation: &d.location, OSType: d.os, HyperVGeneration: d.generation, SecurityProfile: d.security,
			TimeCreated: &d.made, ReplicationState: to.Ptr("Succeeded"),
		},
	}
}

// diskOf names the disk restore point in the path.
func (c *Cloud) diskOf(q *request) (*diskRestorePoint, error) {
	return need[*diskRestorePoint](c, q.owner(1))
}

func (c *Cloud) grantRestorePoint(q *request) (reply, error) {
	m, err := accessAsked(q)
	if err != nil {
		return reply{}, err
	}
	d, err := c.diskOf(q)
	if err != nil {
		return reply{}, err
	}
	if err := c.mayRead(&d.entry, &d.contents, d.family, m); err != nil {
		return reply{}, err
	}
	return c.grant(q, &d.entry, &d.contents, m)
}

func (c *Cloud) revokeRestorePoint(q *request) (reply, error) {
	d, err := c.diskOf(q)
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&d.entry); err != nil {
		return reply{}, err
	}
	return c.revoke(q, &d.entry, &d.contents)
}

// tooSoon tells whether a point of this mode comes too soon after the last.
func (c *Cloud) tooSoon(v *vm, crash bool) error {
	least := c.o.Limits.ApplicationInterval
	if crash {
		least = c.o.Limits.CrashInterval
	}
	points := all(c, func(p *restorePoint) bool { return alike(p.source, v.id) })
	if len(points) >= 500 {
		return notAllowed("VM %s has %d restore points, the most that are allowed", v.name, len(points))
	}
	for _, p := range points {
		if (p.mode == armcompute.ConsistencyModeTypesCrashConsistent) != crash {
			continue
		}
		if since := c.o.Clock().Sub(p.made); since < least {
			return notAllowed("Restore points of VM %s must be at least %s apart, the last was made %s ago.", v.name, least, since.Round(time.Second))
		}
	}
	return nil
}

// freezeAll makes the points of disks at one instant: no guest writes meanwhile.
func (c *Cloud) freezeAll(p *restorePoint, disks []*disk) {
	c.guests.Lock()
	defer c.guests.Unlock()
	for _, d := range disks {
		props := d.model.Properties
		id := c.newID()
		r := &diskRestorePoint{
			entry:    c.child(&p.entry, "diskRestorePoints", d.name+"_"+id),
			contents: contents{pages: d.pages.freeze(), unique: id},
			family:   familyOf(d), source: d.id, sourceID: d.unique,
			os: props.OSType, generation: props.HyperVGeneration, security: props.SecurityProfile,
		}
		p.disks = append(p.disks, r)
	}
}

func excludes(list []*armcompute.APIEntityReference, d *disk) bool {
	return slices.ContainsFunc(list, func(r *armcompute.APIEntityReference) bool {
		return strings.EqualFold(val(r.ID), d.id)
	})
}

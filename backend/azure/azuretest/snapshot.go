package azuretest

import (
	"net/http"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// diskSnapshot is a disk at a moment.
type diskSnapshot struct {
	entry
	contents
	model  armcompute.Snapshot
	family string // of incremental ones: the same for all of a disk
}

func snapshotRoutes() []route {
	const at = compute + "snapshots/*"
	return slices.Concat(listRoutes[*diskSnapshot]("Microsoft.Compute/snapshots"), []route{
		handle("GET", at, show[*diskSnapshot]),
		handle("PUT", at, (*Cloud).putSnapshot),
		handle("PATCH", at, (*Cloud).patchSnapshot),
		handle("DELETE", at, (*Cloud).deleteSnapshot),
		handle("POST", at+"/beginGetAccess", (*Cloud).grantSnapshot),
		handle("POST", at+"/endGetAccess", (*Cloud).revokeSnapshot),
	})
}

func (s *diskSnapshot) view(c *Cloud) any {
	m, p := s.model, *s.model.Properties
	m.ID, m.Name, m.Type, m.Location, m.Tags = &s.id, &s.name, &s.kind, &s.location, s.tags
	m.Properties = &p
	size := s.bytes()
	p.DiskSizeBytes, p.DiskSizeGB = &size, to.Ptr(gib(size))
	p.UniqueID, p.TimeCreated, p.ProvisioningState = &s.unique, &s.made, &s.state
	p.DiskState = to.Ptr(armcompute.DiskStateUnattached)
	if s.shared(c) != nil {
		p.DiskState = to.Ptr(armcompute.DiskStateActiveSAS)
	}
	if s.family != "" {
		p.IncrementalSnapshotFamilyID = &s.family
	}
	p.CompletionPercent = to.Ptr[float32](100)
	return m
}

// familyOf is one for each disk, whatever snapshots it has.
func familyOf(d *disk) string { return "family-" + d.unique }

func (c *Cloud) putSnapshot(q *request) (reply, error) {
	m, err := decode[armcompute.Snapshot](q)
	if err != nil {
		return reply{}, err
	}
	p := m.Properties
	if p == nil || p.CreationData == nil || p.CreationData.CreateOption == nil {
		return reply{}, refuse(http.StatusBadRequest, "InvalidParameter", "required parameter 'snapshot.creationData.createOption' is missing")
	}
	if *p.CreationData.CreateOption != armcompute.DiskCreateOptionCopy {
		return reply{}, refuse(http.StatusBadRequest, "InvalidParameter", "create option %s of snapshots is not simulated", *p.CreationData.CreateOption)
	}
	source := val(p.CreationData.SourceResourceID)
	if s, had := look[*diskSnapshot](c, q.id); had {
		was := s.model.Properties
		switch {
		case c.free(&s.entry) != nil:
			return reply{}, c.free(&s.entry)
		case !alike(val(was.CreationData.SourceResourceID), source) || val(was.Incremental) != val(p.Incremental):
			return reply{}, refuse(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property 'creationData' is not allowed.")
		}
		op := c.accept(q, "Updating", &s.entry)
		if op.code == "" {
			s.tags = m.Tags
		}
		return reply{status: http.StatusAccepted, body: s.view(c), op: op}, nil
	}
	e, err := c.entry(q, "Microsoft.Compute/snapshots", m.Location, m.Tags, nil)
	if err != nil {
		return reply{}, err
	}
	d, had := look[*disk](c, source)
	if !had {
		return reply{}, refuse(http.StatusNotFound, "ResourceNotFound", "the source disk '%s' was not found", source)
	}
	if err := c.maySnapshot(d); err != nil {
		return reply{}, err
	}
	if m.SKU == nil {
		m.SKU = &armcompute.SnapshotSKU{Name: to.Ptr(armcompute.SnapshotStorageAccountTypesStandardLRS)}
	}
	s := &diskSnapshot{entry: e, model: m, contents: contents{unique: c.newID()}}
	p.OSType = either(p.OSType, val(d.model.Properties.OSType))
	if *p.OSType == "" {
		p.OSType = nil
	}
	p.HyperVGeneration, p.SecurityProfile = d.model.Properties.HyperVGeneration, d.model.Properties.SecurityProfile
	p.CreationData.SourceUniqueID = &d.unique
	if val(p.Incremental) {
		s.pages, s.family = d.pages.freeze(), familyOf(d)
	} else { // nothing can be compared with a full one
		s.pages = d.pages.copy().freeze()
	}
	c.put(s)
	op := c.accept(q, "Updating", &s.entry)
	op.failed = func() { c.drop(s) }
	return reply{status: http.StatusAccepted, body: s.view(c), op: op}, nil
}

// maySnapshot refuses beyond the limits of a disk.
func (c *Cloud) maySnapshot(d *disk) error {
	if err := c.ready(&d.entry); err != nil {
		return err
	}
	if d.upload != noUpload {
		return notAllowed("disk %s is being uploaded", d.name)
	}
	of := all(c, func(s *diskSnapshot) bool { return alike(val(s.model.Properties.CreationData.SourceResourceID), d.id) })
	if len(of) >= c.o.Limits.SnapshotsADisk {
		return notAllowed("disk %s has %d snapshots, the most that are allowed", d.name, len(of))
	}
	now := c.o.Clock()
	recent := slices.DeleteFunc(c.bursts[d.unique], func(t time.Time) bool { return now.Sub(t) >= 5*time.Minute })
	if len(recent) >= c.o.Limits.SnapshotBurst {
		c.bursts[d.unique] = recent
		return &armError{status: http.StatusTooManyRequests, code: "TooManyRequests", retryAfter: "1",
			message: "the rate of snapshots of disk " + d.name + " is exceeded"}
	}
	c.bursts[d.unique] = append(recent, now)
	return nil
}

func (c *Cloud) patchSnapshot(q *request) (reply, error) {
	m, err := decode[armcompute.SnapshotUpdate](q)
	if err != nil {
		return reply{}, err
	}
	s, err := need[*diskSnapshot](c, q.id)
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&s.entry); err != nil {
		return reply{}, err
	}
	op := c.accept(q, "Updating", &s.entry)
	if op.code == "" && m.Tags != nil {
		s.tags = m.Tags
	}
	return reply{status: http.StatusAccepted, body: s.view(c), op: op}, nil
}

func (c *Cloud) deleteSnapshot(q *request) (reply, error) {
	s, had := look[*diskSnapshot](c, q.id)
	switch {
	case !had:
		return gone()
	case c.free(&s.entry) != nil:
		return reply{}, c.free(&s.entry)
	case s.shared(c) != nil:
		return reply{}, notAllowed("Snapshot %s has an active shared access signature. Call revoke access first.", s.name)
	}
	op := c.accept(q, "Deleting", &s.entry)
	op.end = func() { c.drop(s) }
	return reply{status: http.StatusAccepted, op: op}, nil
}

func (c *Cloud) grantSnapshot(q *request) (reply, error) {
	m, err := accessAsked(q)
	if err != nil {
		return reply{}, err
	}
	s, err := need[*diskSnapshot](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	if err := c.mayRead(&s.entry, &s.contents, s.family, m); err != nil {
		return reply{}, err
	}
	return c.grant(q, &s.entry, &s.contents, m)
}

// mayRead refuses a shared access of what is frozen.
func (c *Cloud) mayRead(e *entry, d *contents, family string, m armcompute.GrantAccessData) error {
	if err := c.free(e); err != nil {
		return err
	}
	if *m.Access != armcompute.AccessLevelRead {
		return refuse(http.StatusBadRequest, "InvalidParameter", "access level %q of a snapshot is not allowed", *m.Access)
	}
	if d.shared(c) != nil || family == "" {
		return nil
	}
	n := len(all(c, func(s *diskSnapshot) bool { return s.family == family && s.shared(c) != nil })) +
		len(all(c, func(r *diskRestorePoint) bool { return r.family == family && r.shared(c) != nil }))
	if n >= c.o.Limits.SASPerFamily {
		return notAllowed("%d snapshots of the same family have an active shared access signature, the most that are allowed", n)
	}
	return nil
}

func (c *Cloud) revokeSnapshot(q *request) (reply, error) {
	s, err := need[*diskSnapshot](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&s.entry); err != nil {
		return reply{}, err
	}
	return c.revoke(q, &s.entry, &s.contents)
}

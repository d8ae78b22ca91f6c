package azuretest

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// disk is a managed disk.
type disk struct {
	entry
	contents
	model  armcompute.Disk // as it was asked for, with what is known of it
	owner  *vm             // that it is attached to
	owned  time.Time       // when that changed last, or its machine started or was deallocated
	upload uploading
}

// uploading is where an upload disk is.
type uploading int

const (
	noUpload uploading = iota
	readyToUpload
	activeUpload
)

func diskRoutes() []route {
	const at = compute + "disks/*"
	return slices.Concat(listRoutes[*disk]("Microsoft.Compute/disks"), []route{
		handle("GET", at, show[*disk]),
		handle("PUT", at, (*Cloud).putDisk),
		handle("PATCH", at, (*Cloud).patchDisk),
		handle("DELETE", at, (*Cloud).deleteDisk),
		handle("POST", at+"/beginGetAccess", (*Cloud).grantDisk),
		handle("POST", at+"/endGetAccess", (*Cloud).revokeDisk),
	})
}

func (d *disk) status(c *Cloud) armcompute.DiskState {
	switch {
	case d.upload == readyToUpload:
		return armcompute.DiskStateReadyToUpload
	case d.upload == activeUpload:
		return armcompute.DiskStateActiveUpload
	case d.shared(c) != nil:
		return armcompute.DiskStateActiveSAS
	case d.owner == nil:
		return armcompute.DiskStateUnattached
	case d.owner.allocated():
		return armcompute.DiskStateAttached
	}
	return armcompute.DiskStateReserved
}

func (d *disk) view(c *Cloud) any {
	m, p := d.model, *d.model.Properties
	m.ID, m.Name, m.Type, m.Location, m.Tags, m.Zones = &d.id, &d.name, &d.kind, &d.location, d.tags, d.zones
	m.Properties = &p
	size := d.bytes()
	p.DiskSizeBytes, p.DiskSizeGB = &size, to.Ptr(gib(size))
	p.UniqueID, p.TimeCreated, p.ProvisioningState, p.DiskState = &d.unique, &d.made, &d.state, to.Ptr(d.status(c))
	if d.owner != nil {
		m.ManagedBy = &d.owner.id
	}
	if !d.owned.IsZero() {
		p.LastOwnershipUpdateTime = &d.owned
	}
	return m
}

// own attaches a disk to a machine, or detaches it.
func (c *Cloud) own(d *disk, v *vm) {
	if d.owner != v {
		d.owned = c.o.Clock().UTC()
	}
	d.owner = v
}

func (c *Cloud) putDisk(q *request) (reply, error) {
	m, err := decode[armcompute.Disk](q)
	if err != nil {
		return reply{}, err
	}
	if m.Properties == nil || m.Properties.CreationData == nil || m.Properties.CreationData.CreateOption == nil {
		return reply{}, refuse(http.StatusBadRequest, "InvalidParameter", "required parameter 'disk.creationData.createOption' is missing")
	}
	if d, had := look[*disk](c, q.id); had {
		return c.changeDisk(q, d, m)
	}
	e, err := c.entry(q, "Microsoft.Compute/disks", m.Location, m.Tags, m.Zones)
	if err != nil {
		return reply{}, err
	}
	if n := len(all[*disk](c, nil)); n >= c.o.Limits.Disks {
		return reply{}, notAllowed("Operation could not be completed as it results in exceeding approved disks quota: %d", c.o.Limits.Disks)
	}
	if m.SKU == nil {
		m.SKU = &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypesStandardLRS)}
	}
	d := &disk{entry: e, model: m}
	if err := c.fill(q.Context(), d); err != nil {
		return reply{}, err
	}
	if _, had := look[*disk](c, q.id); had { // while the source was read
		return reply{}, refuse(http.StatusConflict, "Conflict", "the request failed due to conflict with a concurrent request on %s", d.id)
	}
	d.unique = c.newID()
	d.model.Properties.NetworkAccessPolicy = either(m.Properties.NetworkAccessPolicy, armcompute.NetworkAccessPolicyAllowAll)
	c.put(d)
	op := c.accept(q, "Updating", &d.entry)
	op.failed = func() { c.drop(d) }
	return reply{status: http.StatusAccepted, body: d.view(c), op: op}, nil
}

// either returns what was asked for, or else the default.
func either[T any](asked *T, usual T) *T {
	if asked != nil {
		return asked
	}
	return &usual
}

// changeDisk is a PUT on a disk that is there: the same again, or a larger size
// and other tags. Where its bytes came from can't be changed.
func (c *Cloud) changeDisk(q *request, d *disk, m armcompute.Disk) (reply, error) {
	if err := c.free(&d.entry); err != nil {
		return reply{}, err
	}
	was, now := d.model.Properties.CreationData, m.Properties.CreationData
	if *was.CreateOption != *now.CreateOption || !alike(val(was.SourceResourceID), val(now.SourceResourceID)) ||
		withoutQuery(was.SourceURI) != withoutQuery(now.SourceURI) || val(was.UploadSizeBytes) != val(now.UploadSizeBytes) {
		return reply{}, refuse(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property 'creationData' is not allowed.")
	}
	if !sameZones(d.zones, m.Zones) {
		return reply{}, refuse(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property 'zones' is not allowed.")
	}
	if m.Location == nil || !alike(*m.Location, d.location) {
		return reply{}, refuse(http.StatusConflict, "InvalidResourceLocation", "the resource is already in location '%s'", d.location)
	}
	return c.updateDisk(q, d, m.Properties.DiskSizeGB, m.SKU, func() { d.tags = m.Tags })
}

// withoutQuery leaves out a signature, which may be a new one.
func withoutQuery(url *string) string {
	s, _, _ := strings.Cut(val(url), "?")
	return s
}

func sameZones(a, b []*string) bool {
	return slices.EqualFunc(a, b, func(x, y *string) bool { return val(x) == val(y) })
}

func (c *Cloud) patchDisk(q *request) (reply, error) {
	m, err := decode[armcompute.DiskUpdate](q)
	if err != nil {
		return reply{}, err
	}
	d, err := need[*disk](c, q.id)
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&d.entry); err != nil {
		return reply{}, err
	}
	p := m.Properties
	if p == nil {
		p = &armcompute.DiskUpdateProperties{}
	}
	return c.updateDisk(q, d, p.DiskSizeGB, m.SKU, func() {
		if m.Tags != nil {
			d.tags = m.Tags
		}
		if p.OSType != nil {
			d.model.Properties.OSType = p.OSType
		}
		if p.NetworkAccessPolicy != nil {
			d.model.Properties.NetworkAccessPolicy = p.NetworkAccessPolicy
		}
		if p.PublicNetworkAccess != nil {
			d.model.Properties.PublicNetworkAccess = p.PublicNetworkAccess
		}
	})
}

func (c *Cloud) updateDisk(q *request, d *disk, sizeGB *int32, sku *armcompute.DiskSKU, more func()) (reply, error) {
	size := d.bytes()
	grow := sizeGB != nil && *sizeGB != gib(size)
	switch {
	case !grow:
	case int64(*sizeGB)<<30 < size:
		return reply{}, refuse(http.StatusConflict, "ResizeDiskError", "Disk size reduction is not supported. Current size is %d bytes, requested size is %d bytes.", size, int64(*sizeGB)<<30)
	case d.upload != noUpload:
		return reply{}, notAllowed("disk %s is being uploaded", d.name)
	case d.owner != nil && d.owner.allocated():
		return reply{}, notAllowed("Cannot resize disk %s while it is attached to running VM %s.", d.name, d.owner.name)
	case d.shared(c) != nil:
		return reply{}, notAllowed("Cannot resize disk %s while it has an active shared access signature.", d.name)
	}
	op := c.accept(q, "Updating", &d.entry)
	if op.code == "" {
		if grow {
			if err := d.grow(int64(*sizeGB) << 30); err != nil {
				return reply{}, err
			}
		}
		if sku != nil {
			d.model.SKU = sku
		}
		more()
	}
	return reply{status: http.StatusAccepted, body: d.view(c), op: op}, nil
}

func (c *Cloud) deleteDisk(q *request) (reply, error) {
	d, had := look[*disk](c, q.id)
	if !had {
		return gone()
	}
	switch {
	case c.free(&d.entry) != nil:
		return reply{}, c.free(&d.entry)
	case d.owner != nil:
		return reply{}, notAllowed("Disk %s is attached to VM %s.", d.name, d.owner.id)
	case d.shared(c) != nil:
		return reply{}, notAllowed("Disk %s has an active shared access signature. Call revoke access first.", d.name)
	}
	op := c.accept(q, "Deleting", &d.entry)
	op.end = func() { c.drop(d) }
	return reply{status: http.StatusAccepted, op: op}, nil
}

// GrowDisk makes a disk larger, as its owner would, whatever it is attached to.
// The size is in bytes, a whole number of MiB, without the footer.
func (c *Cloud) GrowDisk(diskID string, size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := need[*disk](c, diskID)
	switch {
	case err != nil:
		return err
	case size < d.bytes() || size%vhd.Unit != 0:
		return bad("a disk of %d bytes can't become one of %d", d.bytes(), size)
	}
	return d.grow(size)
}

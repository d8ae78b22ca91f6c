package azuretest

import (
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

// access is a shared access signature of a disk or a snapshot.
type access struct {
	url   string
	level armcompute.AccessLevel
	until time.Time
}

// shared returns the access that is active, if any: time ends it.
func (d *contents) shared(c *Cloud) *access {
	if d.access != nil && !c.o.Clock().Before(d.access.until) {
		c.end(d)
	}
	return d.access
}

func (c *Cloud) end(d *contents) {
	if d.access != nil {
		c.blobs.revoke(d.access.url)
		d.access = nil
	}
}

// grant accepts an access, or tells the one there is: a second call with the
// same level is no error.
func (c *Cloud) grant(q *request, e *entry, d *contents, m armcompute.GrantAccessData) (reply, error) {
	seconds := val(m.DurationInSeconds)
	if seconds <= 0 {
		return reply{}, refuse(http.StatusBadRequest, "InvalidParameter", "the value %d of parameter 'durationInSeconds' is out of range", seconds)
	}
	state := e.state
	op := c.accept(q, "Updating", e)
	op.failed = func() { e.state = state }
	if op.code == "" {
		a := d.shared(c)
		if a == nil {
			until := c.o.Clock().Add(time.Duration(seconds) * time.Second)
			a = &access{level: *m.Access, until: until}
			a.url = c.blobs.grant(d.pages, *m.Access == armcompute.AccessLevelWrite, until)
			d.access = a
		}
		op.result = func() any { return armcompute.AccessURI{AccessSAS: &a.url} }
	}
	return reply{status: http.StatusAccepted, op: op}, nil
}

func (c *Cloud) revoke(q *request, e *entry, d *contents) (reply, error) {
	state := e.state
	op := c.accept(q, "Updating", e)
	op.failed = func() { e.state = state }
	if op.code == "" {
		c.end(d)
	}
	return reply{status: http.StatusAccepted, op: op}, nil
}

func accessAsked(q *request) (armcompute.GrantAccessData, error) {
	m, err := decode[armcompute.GrantAccessData](q)
	if err == nil && m.Access == nil {
		err = refuse(http.StatusBadRequest, "InvalidParameter", "required parameter 'access' is missing")
	}
	return m, err
}

func (c *Cloud) grantDisk(q *request) (reply, error) {
	m, err := accessAsked(q)
	if err != nil {
		return reply{}, err
	}
	d, err := need[*disk](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&d.entry); err != nil {
		return reply{}, err
	}
	uploads := d.upload != noUpload
	switch *m.Access {
	case armcompute.AccessLevelWrite:
		if !uploads {
			return reply{}, notAllowed("write access is given to disks of create option Upload only, while they wait for their bytes; disk %s does not", d.name)
		}
	case armcompute.AccessLevelRead:
		if uploads {
			return reply{}, notAllowed("disk %s is being uploaded", d.name)
		}
		if d.owner != nil && d.owner.allocated() {
			return reply{}, notAllowed("Cannot grant access to disk %s: it is attached to VM %s, which is not deallocated.", d.name, d.owner.name)
		}
	default:
		return reply{}, refuse(http.StatusBadRequest, "InvalidParameter", "the value %q of parameter 'access' is invalid", *m.Access)
	}
	answer, err := c.grant(q, &d.entry, &d.contents, m)
	if err == nil && answer.op.code == "" && uploads {
		d.upload = activeUpload
	}
	return answer, err
}

func (c *Cloud) revokeDisk(q *request) (reply, error) {
	d, err := need[*disk](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&d.entry); err != nil {
		return reply{}, err
	}
	answer, err := c.revoke(q, &d.entry, &d.contents)
	if err == nil && answer.op.code == "" && d.upload == activeUpload {
		d.upload = noUpload // an upload can't be taken up again
	}
	return answer, err
}

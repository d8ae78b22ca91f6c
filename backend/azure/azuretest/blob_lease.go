package azuretest

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	blobAvailable = "available"
	blobLeased    = "leased"
	blobExpired   = "expired"
	blobBreaking  = "breaking"
	blobBroken    = "broken"
)

// blobLease is who may write to a blob, or delete a container. The zero value
// is nobody in particular.
type blobLease struct {
	id      string
	length  time.Duration // 0: infinite
	ends    time.Time     // of a lease that isn't infinite
	broken  bool          // or breaking
	brokenT time.Time
}

func (l *blobLease) state(now time.Time) string {
	switch {
	case l.id == "":
		return blobAvailable
	case l.broken && now.Before(l.brokenT):
		return blobBreaking
	case l.broken:
		return blobBroken
	case l.length > 0 && !now.Before(l.ends):
		return blobExpired
	}
	return blobLeased
}

func (l *blobLease) locked(now time.Time) bool {
	s := l.state(now)
	return s == blobLeased || s == blobBreaking
}

// write checks a lease ID that comes with a write, if any.
func (l *blobLease) write(now time.Time, id, of string) error {
	if id == "" && l.locked(now) {
		return blobErr(412, "LeaseIdMissing")
	}
	return l.read(now, id, of)
}

// read checks a lease ID that comes with a read, if any.
func (l *blobLease) read(now time.Time, id, of string) error {
	switch state := l.state(now); {
	case id == "":
		return nil
	case state == blobAvailable:
		return blobErr(412, "LeaseNotPresentWith"+of+"Operation")
	case !strings.EqualFold(id, l.id):
		return blobErr(412, "LeaseIdMismatchWith"+of+"Operation")
	case state == blobBroken || state == blobExpired:
		return blobErr(412, "LeaseLost")
	}
	return nil
}

// written forgets a lease that ended: who wrote it off wins over who would
// renew it.
func (l *blobLease) written(now time.Time) {
	if !l.locked(now) {
		*l = blobLease{}
	}
}

// describe tells the lease in the headers of an answer.
func (l *blobLease) describe(now time.Time, h http.Header) {
	state, status, length := l.names(now)
	h.Set("x-ms-lease-state", state)
	h.Set("x-ms-lease-status", status)
	if length != "" {
		h.Set("x-ms-lease-duration", length)
	}
}

func (l *blobLease) names(now time.Time) (state, status, length string) {
	state, status = l.state(now), "unlocked"
	if l.locked(now) {
		status = "locked"
	}
	if state == blobLeased {
		if length = "infinite"; l.length > 0 {
			length = "fixed"
		}
	}
	return state, status, length
}

func (c *blobCall) leaseContainer() error {
	t, err := c.account.container(c.container)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	if err := k.write(t.etag, t.modified); err != nil {
		return err
	}
	return c.lease(&t.lease, t.etag, t.modified)
}

func (c *blobCall) leaseBlob() error {
	o, err := c.object(false)
	if err != nil {
		return err
	}
	defer o.unlock()
	if o.base == nil {
		return blobErr(404, "BlobNotFound")
	}
	k, err := c.conditions("")
	if err != nil {
		return err
	}
	if err := k.write(o.base.etag, o.base.modified); err != nil {
		return err
	}
	return c.lease(&o.lease, o.base.etag, o.base.modified)
}

// lease does what is asked of a lease, whose lock is held.
func (c *blobCall) lease(l *blobLease, etag string, modified time.Time) error {
	id, proposed := c.header("x-ms-lease-id"), c.header("x-ms-proposed-lease-id")
	for name, v := range map[string]string{"x-ms-lease-id": id, "x-ms-proposed-lease-id": proposed} {
		if v == "" {
			continue
		}
		if _, err := uuid.Parse(v); err != nil {
			return blobBadHeader(name)
		}
	}
	h := c.w.Header()
	h.Set("ETag", etag)
	h.Set("Last-Modified", modified.Format(http.TimeFormat))
	action := c.header("x-ms-lease-action")
	if id == "" && (action == "renew" || action == "change" || action == "release") || proposed == "" && action == "change" {
		return &blobError{400, "MissingRequiredHeader", "x-ms-lease-id or x-ms-proposed-lease-id"}
	}
	switch action {
	case "acquire":
		length, err := strconv.Atoi(c.header("x-ms-lease-duration"))
		if err != nil || length != -1 && (length < 15 || length > 60) {
			return blobBadHeader("x-ms-lease-duration")
		}
		if proposed == "" {
			proposed = uuid.NewString()
		}
		if err := l.acquire(c.now, proposed, max(0, time.Duration(length)*time.Second)); err != nil {
			return err
		}
		h.Set("x-ms-lease-id", l.id)
		return c.answer(201)
	case "renew":
		if err := l.renew(c.now, id); err != nil {
			return err
		}
		h.Set("x-ms-lease-id", l.id)
		return c.answer(200)
	case "change":
		if err := l.change(c.now, id, proposed); err != nil {
			return err
		}
		h.Set("x-ms-lease-id", l.id)
		return c.answer(200)
	case "release":
		if l.id == "" || !strings.EqualFold(l.id, id) {
			return blobErr(409, "LeaseIdMismatchWithLeaseOperation")
		}
		*l = blobLease{}
		return c.answer(200)
	case "break":
		period := time.Duration(-1)
		if v := c.header("x-ms-lease-break-period"); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 || n > 60 {
				return blobBadHeader("x-ms-lease-break-period")
			}
			period = time.Duration(n) * time.Second
		}
		left, err := l.end(c.now, period)
		if err != nil {
			return err
		}
		h.Set("x-ms-lease-time", strconv.Itoa(int((left+time.Second-1)/time.Second)))
		return c.answer(202)
	}
	return blobBadHeader("x-ms-lease-action")
}

func (l *blobLease) acquire(now time.Time, id string, length time.Duration) error {
	mine := strings.EqualFold(id, l.id)
	switch l.state(now) {
	case blobLeased:
		if !mine {
			return blobErr(409, "LeaseAlreadyPresent")
		}
	case blobBreaking:
		if mine {
			return blobErr(409, "LeaseIsBreakingAndCannotBeAcquired")
		}
		return blobErr(409, "LeaseAlreadyPresent")
	}
	*l = blobLease{id: id, length: length, ends: now.Add(length)}
	return nil
}

func (l *blobLease) renew(now time.Time, id string) error {
	switch state := l.state(now); {
	case !strings.EqualFold(id, l.id):
		return blobErr(409, "LeaseIdMismatchWithLeaseOperation")
	case state == blobBreaking || state == blobBroken:
		return blobErr(409, "LeaseIsBrokenAndCannotBeRenewed")
	}
	l.ends = now.Add(l.length)
	return nil
}

func (l *blobLease) change(now time.Time, id, proposed string) error {
	switch l.state(now) {
	case blobLeased:
		if !strings.EqualFold(id, l.id) && !strings.EqualFold(proposed, l.id) {
			return blobErr(409, "LeaseIdMismatchWithLeaseOperation")
		}
		l.id = proposed
		return nil
	case blobBreaking:
		if strings.EqualFold(id, l.id) {
			return blobErr(409, "LeaseIsBreakingAndCannotBeChanged")
		}
		return blobErr(409, "LeaseIdMismatchWithLeaseOperation")
	}
	return blobErr(409, "LeaseNotPresentWithLeaseOperation")
}

// end breaks a lease after a period, or after what is left of it if the period
// is negative, and returns how long it still holds.
func (l *blobLease) end(now time.Time, period time.Duration) (time.Duration, error) {
	var left time.Duration
	switch l.state(now) {
	case blobAvailable:
		return 0, blobErr(409, "LeaseNotPresentWithLeaseOperation")
	case blobBreaking:
		left = l.brokenT.Sub(now)
	case blobLeased:
		if l.length > 0 {
			left = l.ends.Sub(now)
		} else {
			left = max(0, period)
		}
	}
	if period >= 0 {
		left = min(left, period)
	}
	l.broken, l.brokenT = true, now.Add(left)
	return left, nil
}

package azuretest

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armlocks"
)

const lockKind = "Microsoft.Authorization/locks"

// lock keeps people from deleting, or writing, what is below its scope.
type lock struct {
	entry
	scope string // lower-cased
	level armlocks.LockLevel
	notes *string
}

func (l *lock) view(*Cloud) any {
	return armlocks.ManagementLockObject{
		ID: &l.id, Name: &l.name, Type: to.Ptr(lockKind),
		Properties: &armlocks.ManagementLockProperties{Level: &l.level, Notes: l.notes},
	}
}

func lockRoutes() []route {
	const at = "**/providers/Microsoft.Authorization/locks"
	return []route{
		handle("PUT", at+"/*", (*Cloud).putLock),
		handle("GET", at+"/*", show[*lock]),
		handle("DELETE", at+"/*", func(c *Cloud, q *request) (reply, error) {
			l, had := look[*lock](c, q.id)
			if !had {
				return gone()
			}
			c.drop(l)
			return reply{status: http.StatusOK}, nil
		}),
		handle("GET", at, func(c *Cloud, q *request) (reply, error) {
			scope := cleanID(q.names[0])
			return page(c, q, func(l *lock) bool { // of the scope, above and below it
				return within(l.scope, scope) || within(scope, l.scope)
			}, func(l *lock) any { return l.view(c) })
		}),
	}
}

// within tells whether an ID is, or is below, another.
func within(id, of string) bool { return id == of || strings.HasPrefix(id, of+"/") }

func (c *Cloud) putLock(q *request) (reply, error) {
	m, err := decode[armlocks.ManagementLockObject](q)
	switch {
	case err != nil:
		return reply{}, err
	case m.Properties == nil || m.Properties.Level == nil:
		return reply{}, refuse(http.StatusBadRequest, "LockLevelInvalid", "a lock needs a level")
	}
	scope := cleanID(q.names[0])
	if _, there := look[resource](c, scope); !there && scope != "/subscriptions/"+subscription {
		return reply{}, refuse(http.StatusNotFound, "ResourceNotFound", "the Resource '%s' was not found", q.names[0])
	}
	_, had := look[*lock](c, q.id)
	l := &lock{
		entry: entry{id: q.id, kind: lockKind, name: q.name(), state: "Succeeded", made: c.o.Clock().UTC()},
		scope: scope, level: *m.Properties.Level, notes: m.Properties.Notes,
	}
	c.put(l)
	if had {
		return ok(l.view(c))
	}
	return reply{status: http.StatusCreated, body: l.view(c)}, nil
}

// lockOn returns a lock that keeps a resource from being deleted, or written.
func (c *Cloud) lockOn(id string, deleting bool) *lock {
	id = cleanID(id)
	for _, l := range all[*lock](c, nil) {
		if within(id, l.scope) && (deleting || l.level == armlocks.LockLevelReadOnly) {
			return l
		}
	}
	return nil
}

// locked refuses a request that a lock forbids. Locks themselves can always be
// changed.
func (c *Cloud) locked(q *request) error {
	if q.Method == http.MethodGet || q.Method == http.MethodHead || strings.Contains(strings.ToLower(q.id), "/providers/microsoft.authorization/locks/") {
		return nil
	}
	l := c.lockOn(q.id, q.Method == http.MethodDelete)
	if l == nil {
		return nil
	}
	return refuse(http.StatusConflict, "ScopeLocked", "The scope '%s' cannot perform %s operation because following scope(s) are locked: '%s'. Please remove the lock and try again.",
		q.id, map[bool]string{true: "delete", false: "write"}[q.Method == http.MethodDelete], l.scope)
}

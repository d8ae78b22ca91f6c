package azuretest

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// entry is what all resources have in common.
type entry struct {
	id       string // as it is told
	kind     string // Microsoft.Compute/disks
	group    string
	name     string
	location string
	tags     map[string]*string
	zones    []*string
	state    string // of provisioning
	made     time.Time
	op       *operation // that is under way
}

func (e *entry) head() *entry { return e }

func (e *entry) network() bool { return strings.HasPrefix(e.kind, "Microsoft.Network/") }

// resource is anything with an ID. View returns its model of the SDK, to be
// encoded at once.
type resource interface {
	head() *entry
	view(c *Cloud) any
}

func (c *Cloud) newID() string {
	c.count++
	return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s/%d", c.server.URL, c.count)).String()
}

func cleanID(id string) string { return strings.ToLower("/" + strings.Trim(id, "/")) }

// look finds a resource. Whoever asks for one lets time pass for what it is busy
// with.
func look[T resource](c *Cloud, id string) (T, bool) {
	r, ok := c.resources[cleanID(id)].(T)
	if ok {
		if op := r.head().op; op != nil && !slices.Contains(c.touched, op) {
			c.touched = append(c.touched, op)
		}
	}
	return r, ok
}

// need finds the resource that a request is about, or part of whose path is
// about it.
func need[T resource](c *Cloud, id string) (T, error) {
	r, ok := look[T](c, id)
	if ok {
		return r, nil
	}
	if path := strings.Split(cleanID(id), "/"); len(path) > 4 && path[3] == "resourcegroups" {
		if _, there := look[*resourceGroup](c, groupID(path[4])); !there {
			return r, refuse(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", path[4])
		}
	}
	return r, refuse(http.StatusNotFound, "ResourceNotFound", "the Resource '%s' was not found", id)
}

// parent finds the resource that the path's last one is to be a part of.
func parent[T resource](c *Cloud, q *request) (T, error) {
	r, err := need[T](c, q.owner(2))
	var e *armError
	if errors.As(err, &e) && e.code == "ResourceNotFound" {
		e.code = "ParentResourceNotFound"
	}
	return r, err
}

// refer finds a resource that another refers to.
func refer[T resource](c *Cloud, id, from string) (T, error) {
	r, ok := look[T](c, id)
	if !ok {
		return r, refuse(http.StatusBadRequest, "InvalidResourceReference",
			"Resource %s referenced by resource %s was not found", id, from)
	}
	return r, nil
}

// owner is the ID in a path that goes on with an action or a child.
func (q *request) owner(after int) string {
	path := strings.Split(q.id, "/")
	return strings.Join(path[:len(path)-after], "/")
}

// entry makes that of a new resource at the request's path, whose group must be
// there and whose location must be this one.
func (c *Cloud) entry(q *request, kind string, location *string, tags map[string]*string, zones []*string) (entry, error) {
	g, err := c.groupOf(q)
	if err != nil {
		return entry{}, err
	}
	if !alike(strings.ReplaceAll(val(location), " ", ""), c.o.Location) {
		return entry{}, refuse(http.StatusBadRequest, "LocationNotAvailableForResourceType",
			"the provided location '%s' is not available for resource type '%s'", val(location), kind)
	}
	for _, z := range zones {
		if !slices.Contains(c.o.Zones, val(z)) {
			return entry{}, refuse(http.StatusBadRequest, "InvalidAvailabilityZone", "the zone '%s' is not one of location '%s'", val(z), c.o.Location)
		}
	}
	return c.made(g, kind, q.name(), tags, zones), nil
}

// made is the entry of a resource whose kind may name a child, in which case
// the name is a path.
func (c *Cloud) made(g *resourceGroup, kind, name string, tags map[string]*string, zones []*string) entry {
	return entry{
		id:   fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/%s/%s", subscription, g.name, kind, name),
		kind: kind, group: g.name, name: name, location: c.o.Location,
		tags: maps.Clone(tags), zones: zones, made: c.o.Clock().UTC(),
	}
}

// child is the entry of a part of another resource, as a subnet.
func (c *Cloud) child(of *entry, kind, name string) entry {
	return entry{
		id: of.id + "/" + kind + "/" + name, kind: of.kind + "/" + kind, group: of.group, name: name,
		location: of.location, state: "Succeeded", made: c.o.Clock().UTC(),
	}
}

func (c *Cloud) put(r resource) { c.resources[cleanID(r.head().id)] = r }

func (c *Cloud) drop(r resource) { delete(c.resources, cleanID(r.head().id)) }

// all lists the resources of a type that keep accepts, by ID.
func all[T resource](c *Cloud, keep func(T) bool) []T {
	var list []T
	for _, id := range slices.Sorted(maps.Keys(c.resources)) {
		if r, ok := c.resources[id].(T); ok && (keep == nil || keep(r)) {
			list = append(list, r)
		}
	}
	return list
}

// page tells a list, some at a time: what a link says is how many were told.
func page[T resource](c *Cloud, q *request, keep func(T) bool, view func(T) any) (reply, error) {
	list := all(c, keep)
	from := 0
	if s := q.query.Get("$skiptoken"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return reply{}, bad("the skip token %q is none of ours", s)
		}
		from = min(n, len(list))
	}
	to := min(from+c.o.PageSize, len(list))
	value := []any{}
	for _, r := range list[from:to] {
		value = append(value, view(r))
		look[T](c, r.head().id)
	}
	body := map[string]any{"value": value}
	if to < len(list) {
		next := url.Values{}
		for k, v := range q.query {
			next[k] = v
		}
		next.Set("$skiptoken", strconv.Itoa(to))
		body["nextLink"] = c.server.URL + q.URL.Path + "?" + next.Encode()
	}
	return ok(body)
}

// listRoutes are those of a kind, in a group and in the subscription.
func listRoutes[T resource](kind string) []route {
	show := func(c *Cloud) func(T) any { return func(r T) any { return r.view(c) } }
	return []route{
		handle("GET", inGroup+"/providers/"+kind, func(c *Cloud, q *request) (reply, error) {
			if _, err := c.groupOf(q); err != nil {
				return reply{}, err
			}
			return page(c, q, func(r T) bool { return alike(r.head().group, q.group()) }, show(c))
		}),
		handle("GET", inSubscription+"/providers/"+kind, func(c *Cloud, q *request) (reply, error) {
			return page(c, q, nil, show(c))
		}),
	}
}

// show is a handler that tells the resource in the path.
func show[T resource](c *Cloud, q *request) (reply, error) {
	r, err := need[T](c, q.id)
	if err != nil {
		return reply{}, err
	}
	return ok(r.view(c))
}

package azuretest

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
)

// resourceGroup is what resources are in.
type resourceGroup struct{ entry }

func (g *resourceGroup) view(*Cloud) any {
	return armresources.ResourceGroup{
		ID: &g.id, Name: &g.name, Type: to.Ptr("Microsoft.Resources/resourceGroups"), Location: &g.location, Tags: g.tags,
		Properties: &armresources.ResourceGroupProperties{ProvisioningState: &g.state},
	}
}

func groupRoutes() []route {
	return []route{
		handle("GET", inGroup, show[*resourceGroup]),
		handle("HEAD", inGroup, func(c *Cloud, q *request) (reply, error) {
			if _, err := c.groupOf(q); err != nil {
				return reply{}, err
			}
			return gone()
		}),
		handle("PUT", inGroup, (*Cloud).putGroup),
		handle("GET", inSubscription+"/resourceGroups", func(c *Cloud, q *request) (reply, error) {
			return page(c, q, nil, func(g *resourceGroup) any { return g.view(c) })
		}),
		handle("GET", inGroup+"/resources", func(c *Cloud, q *request) (reply, error) {
			if _, err := c.groupOf(q); err != nil {
				return reply{}, err
			}
			return c.listResources(q, func(e *entry) bool { return alike(e.group, q.group()) })
		}),
		handle("GET", inSubscription+"/resources", func(c *Cloud, q *request) (reply, error) {
			return c.listResources(q, func(*entry) bool { return true })
		}),
	}
}

func groupID(name string) string {
	return "/subscriptions/" + subscription + "/resourceGroups/" + name
}

// groupOf returns the group that the path is in.
func (c *Cloud) groupOf(q *request) (*resourceGroup, error) {
	g, ok := look[*resourceGroup](c, groupID(q.group()))
	if !ok {
		return nil, refuse(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", q.group())
	}
	return g, nil
}

// ResourceGroup makes a resource group, unless it is there.
func (c *Cloud) ResourceGroup(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.makeGroup(name)
}

func (c *Cloud) makeGroup(name string) *resourceGroup {
	if g, ok := look[*resourceGroup](c, groupID(name)); ok {
		return g
	}
	g := &resourceGroup{entry{
		id: groupID(name), kind: "Microsoft.Resources/resourceGroups", group: name, name: name,
		location: c.o.Location, state: "Succeeded", made: c.o.Clock().UTC(),
	}}
	c.put(g)
	return g
}

func (c *Cloud) putGroup(q *request) (reply, error) {
	m, err := decode[armresources.ResourceGroup](q)
	if err != nil {
		return reply{}, err
	}
	_, had := look[*resourceGroup](c, q.id)
	g := c.makeGroup(q.group())
	g.tags = m.Tags
	if had {
		return ok(g.view(c))
	}
	return reply{status: http.StatusCreated, body: g.view(c)}, nil
}

var tagFilter = regexp.MustCompile(`(?i)^\s*tagName\s+eq\s+'([^']*)'(?:\s+and\s+tagValue\s+eq\s+'([^']*)')?\s*$`)
var typeFilter = regexp.MustCompile(`(?i)^\s*resourceType\s+eq\s+'([^']*)'\s*$`)

// listResources is the generic list: of no group, no lock, no part of another.
func (c *Cloud) listResources(q *request, keep func(*entry) bool) (reply, error) {
	fits := func(*entry) bool { return true }
	if filter := q.query.Get("$filter"); filter != "" {
		tag, kind := tagFilter.FindStringSubmatch(filter), typeFilter.FindStringSubmatch(filter)
		switch {
		case tag != nil:
			byValue := strings.Contains(strings.ToLower(filter), "tagvalue")
			fits = func(e *entry) bool {
				for k, v := range e.tags { // names in any case, values exactly
					if alike(k, tag[1]) && (!byValue || val(v) == tag[2]) {
						return true
					}
				}
				return false
			}
		case kind != nil:
			fits = func(e *entry) bool { return alike(e.kind, kind[1]) }
		default:
			return reply{}, refuse(http.StatusBadRequest, "InvalidFilterInQueryString", "invalid $filter '%s'", filter)
		}
	}
	return page(c, q, func(r resource) bool {
		e := r.head()
		return strings.Count(e.kind, "/") == 1 && e.kind != "Microsoft.Resources/resourceGroups" &&
			e.kind != lockKind && keep(e) && fits(e)
	}, func(r resource) any {
		e := r.head()
		m := armresources.GenericResourceExpanded{
			ID: &e.id, Name: &e.name, Type: &e.kind, Location: &e.location, Tags: e.tags,
		}
		if strings.Contains(q.query.Get("$expand"), "provisioningState") {
			m.ProvisioningState = &e.state
		}
		if strings.Contains(q.query.Get("$expand"), "createdTime") {
			m.CreatedTime = &e.made
		}
		return m
	})
}

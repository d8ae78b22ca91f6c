package azuretest

import (
	"maps"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
)

func tagRoutes() []route {
	const at = "**/providers/Microsoft.Resources/tags/default"
	return []route{
		handle("GET", at, func(c *Cloud, q *request) (reply, error) {
			r, err := need[resource](c, q.names[0])
			if err != nil {
				return reply{}, err
			}
			return ok(tagsOf(r))
		}),
		handle("PUT", at, func(c *Cloud, q *request) (reply, error) {
			m, err := decode[armresources.TagsResource](q)
			if err != nil {
				return reply{}, err
			}
			return c.patchTags(q, armresources.TagsPatchOperationReplace, m.Properties)
		}),
		handle("PATCH", at, func(c *Cloud, q *request) (reply, error) {
			m, err := decode[armresources.TagsPatchResource](q)
			switch {
			case err != nil:
				return reply{}, err
			case m.Operation == nil:
				return reply{}, bad("a patch of tags needs an operation")
			}
			return c.patchTags(q, *m.Operation, m.Properties)
		}),
		handle("DELETE", at, func(c *Cloud, q *request) (reply, error) {
			return c.patchTags(q, armresources.TagsPatchOperationReplace, nil)
		}),
	}
}

func tagsOf(r resource) armresources.TagsResource {
	e := r.head()
	tags := e.tags
	if tags == nil {
		tags = map[string]*string{}
	}
	return armresources.TagsResource{
		ID: to.Ptr(e.id + "/providers/Microsoft.Resources/tags/default"), Name: to.Ptr("default"), Type: to.Ptr("Microsoft.Resources/tags"),
		Properties: &armresources.Tags{Tags: tags},
	}
}

func (c *Cloud) patchTags(q *request, operation armresources.TagsPatchOperation, given *armresources.Tags) (reply, error) {
	r, err := need[resource](c, q.names[0])
	if err != nil {
		return reply{}, err
	}
	e := r.head()
	tags := map[string]*string{}
	if operation != armresources.TagsPatchOperationReplace {
		maps.Copy(tags, e.tags)
	}
	if given != nil {
		for k, v := range given.Tags {
			for old := range tags { // names in any case
				if alike(old, k) && (operation == armresources.TagsPatchOperationMerge || val(tags[old]) == val(v)) {
					delete(tags, old)
				}
			}
			if operation != armresources.TagsPatchOperationDelete {
				tags[k] = v
			}
		}
	}
	if len(tags) > 50 {
		return reply{}, refuse(http.StatusBadRequest, "InvalidTags", "a resource can have 50 tags, not %d", len(tags))
	}
	e.tags = tags
	return ok(tagsOf(r))
}

package vmware

import (
	"context"
	"strings"
	"sync"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// places remembers where datastores are: they don't move.
type places struct {
	mu    sync.Mutex
	known map[types.ManagedObjectReference]place
}

// placeOf tells where the files of a datastore are found under /folder.
func (v *VSphere) placeOf(ctx context.Context, datastore types.ManagedObjectReference) (place, error) {
	v.places.mu.Lock()
	p, ok := v.places.known[datastore]
	v.places.mu.Unlock()
	if ok || datastore.Value == "" {
		return p, nil
	}
	c := property.DefaultCollector(v.client)
	var d mo.Datastore
	if err := c.RetrieveOne(ctx, datastore, []string{"summary.type"}, &d); err != nil {
		return place{}, explain(err)
	}
	above, err := mo.Ancestors(ctx, v.client, c.Reference(), datastore)
	if err != nil {
		return place{}, explain(err)
	}
	p = place{datastore: datastore, kind: d.Summary.Type}
	var path strings.Builder
	for i, e := range above {
		if i == 0 {
			continue // the root folder has no name in paths
		}
		path.WriteString("/" + e.Name)
		if e.Self.Type == "Datacenter" {
			p.datacenter = path.String()
		}
	}
	v.places.mu.Lock()
	defer v.places.mu.Unlock()
	if v.places.known == nil {
		v.places.known = map[types.ManagedObjectReference]place{}
	}
	v.places.known[datastore] = p
	return p, nil
}

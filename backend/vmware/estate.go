package vmware

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// inventory is everything that a machine can be placed on.
type inventory struct {
	entities
	vmFolders  map[types.ManagedObjectReference]types.ManagedObjectReference // by datacenter
	pools      map[types.ManagedObjectReference]types.ManagedObjectReference // the first, by compute resource
	hosts      map[types.ManagedObjectReference]hostFacts
	datastores map[types.ManagedObjectReference]types.DatastoreSummary
	networks   map[types.ManagedObjectReference]types.BaseVirtualDeviceBackingInfo
}

type hostFacts struct {
	trouble              string // why nothing should be placed there, or ""
	datastores, networks []types.ManagedObjectReference
}

func (v *VSphere) inventory(ctx context.Context) (*inventory, error) {
	type m = types.ManagedObjectReference
	inv := &inventory{entities{v.client.ServiceContent.RootFolder: entity{}}, map[m]m{}, map[m]m{}, map[m]hostFacts{}, map[m]types.DatastoreSummary{}, map[m]types.BaseVirtualDeviceBackingInfo{}}
	props := []types.PropertySpec{
		{Type: "Datacenter", PathSet: []string{"name", "parent", "vmFolder"}},
		{Type: "Folder", PathSet: []string{"name", "parent"}},
		{Type: "ComputeResource", PathSet: []string{"name", "parent", "resourcePool"}},
		{Type: "HostSystem", PathSet: []string{"name", "parent", "runtime.connectionState", "runtime.inMaintenanceMode", "datastore", "network"}},
		{Type: "ResourcePool", PathSet: []string{"name", "parent"}},
		{Type: "Datastore", PathSet: []string{"name", "parent", "summary"}},
		{Type: "Network", PathSet: []string{"name", "parent", "summary"}},
	}
	if v.client.IsVC() { // a host knows no distributed switches, and refuses their types
		props = append(props,
			types.PropertySpec{Type: "StoragePod", PathSet: []string{"name", "parent"}},
			types.PropertySpec{Type: "DistributedVirtualPortgroup", PathSet: []string{"name", "parent", "summary", "key", "config.uplink", "config.distributedVirtualSwitch"}},
			types.PropertySpec{Type: "DistributedVirtualSwitch", PathSet: []string{"name", "parent", "uuid"}})
	}
	switches := map[m]string{}
	groups := map[m]mo.DistributedVirtualPortgroup{}
	for page, err := range v.below(ctx, 5*pageSize, props...) {
		if err != nil {
			return nil, err
		}
		inv.add(page)
		for _, o := range page {
			if err := inv.load(o, switches, groups); err != nil {
				return nil, err
			}
		}
	}
	for ref, g := range groups {
		if g.Config.DistributedVirtualSwitch == nil || isTrue(g.Config.Uplink) {
			continue
		}
		inv.networks[ref] = &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{
			Port: types.DistributedVirtualSwitchPortConnection{PortgroupKey: g.Key, SwitchUuid: switches[*g.Config.DistributedVirtualSwitch]},
		}
	}
	return inv, nil
}

// load takes in what add doesn't.
func (inv *inventory) load(o types.ObjectContent, switches map[types.ManagedObjectReference]string, groups map[types.ManagedObjectReference]mo.DistributedVirtualPortgroup) error {
	content := []types.ObjectContent{o}
	switch o.Obj.Type {
	case "Datacenter":
		var d mo.Datacenter
		if err := mo.LoadObjectContent(content, &d); err != nil {
			return err
		}
		inv.vmFolders[o.Obj] = d.VmFolder
	case "ComputeResource", "ClusterComputeResource":
		var c mo.ComputeResource
		if err := mo.LoadObjectContent(content, &c); err != nil {
			return err
		}
		if c.ResourcePool != nil {
			inv.pools[o.Obj] = *c.ResourcePool
		}
	case "HostSystem":
		var h mo.HostSystem
		if err := mo.LoadObjectContent(content, &h); err != nil {
			return err
		}
		f := hostFacts{datastores: h.Datastore, networks: h.Network}
		switch {
		case h.Runtime.ConnectionState != types.HostSystemConnectionStateConnected:
			f.trouble = "it is " + spaced(string(h.Runtime.ConnectionState))
		case h.Runtime.InMaintenanceMode:
			f.trouble = "it is in maintenance mode"
		}
		inv.hosts[o.Obj] = f
	case "Datastore":
		var d mo.Datastore
		if err := mo.LoadObjectContent(content, &d); err != nil {
			return err
		}
		inv.datastores[o.Obj] = d.Summary
	case "Network", "OpaqueNetwork":
		var n mo.Network
		if err := mo.LoadObjectContent(content, &n); err != nil {
			return err
		}
		ref := o.Obj
		if s, ok := n.Summary.(*types.OpaqueNetworkSummary); ok {
			inv.networks[ref] = &types.VirtualEthernetCardOpaqueNetworkBackingInfo{OpaqueNetworkId: s.OpaqueNetworkId, OpaqueNetworkType: s.OpaqueNetworkType}
			break
		}
		inv.networks[ref] = &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: n.Name}, Network: &ref}
	case "DistributedVirtualPortgroup":
		var g mo.DistributedVirtualPortgroup
		if err := mo.LoadObjectContent(content, &g); err != nil {
			return err
		}
		groups[o.Obj] = g
	case "DistributedVirtualSwitch", "VmwareDistributedVirtualSwitch":
		var d mo.DistributedVirtualSwitch
		if err := mo.LoadObjectContent(content, &d); err != nil {
			return err
		}
		switches[o.Obj] = d.Uuid
	}
	return nil
}

// keys lists references in the order of their paths, so that every process
// chooses the same.
func keys[T any](inv *inventory, m map[types.ManagedObjectReference]T, keep func(types.ManagedObjectReference) bool) []types.ManagedObjectReference {
	var all []types.ManagedObjectReference
	for ref := range m {
		if keep(ref) {
			all = append(all, ref)
		}
	}
	slices.SortFunc(all, func(a, b types.ManagedObjectReference) int {
		return strings.Compare(inv.path(a)+"\x00"+a.Value, inv.path(b)+"\x00"+b.Value)
	})
	return all
}

// named tells whether a name, a path, or the end of a path means ref.
func (inv *inventory) named(ref types.ManagedObjectReference, want string) bool {
	if strings.HasPrefix(want, "/") {
		return inv.path(ref) == strings.TrimSuffix(want, "/")
	}
	return inv.entities[ref].name == want || strings.HasSuffix(inv.path(ref), "/"+want)
}

func (inv *inventory) all(refs []types.ManagedObjectReference, want string) []types.ManagedObjectReference {
	var found []types.ManagedObjectReference
	for _, r := range refs {
		if inv.named(r, want) {
			found = append(found, r)
		}
	}
	return found
}

// pick chooses among refs: what want names, else what had names, else the only
// one there is. option is the option to set if that can't be said.
func (inv *inventory) pick(option, want, had string, refs []types.ManagedObjectReference) (types.ManagedObjectReference, error) {
	none := types.ManagedObjectReference{}
	if want != "" {
		switch found := inv.all(refs, want); len(found) {
		case 1:
			return found[0], nil
		case 0:
			return none, &explained{fmt.Errorf("%w: option %s: there is no %q here that can be used", dr.ErrInvalid, option, want), "choose one of " + inv.list(refs)}
		default:
			return none, &explained{fmt.Errorf("%w: option %s: %q can be %s", dr.ErrAmbiguous, option, want, inv.list(found)), "write the whole inventory path"}
		}
	}
	if had != "" {
		if found := inv.all(refs, had); len(found) == 1 {
			return found[0], nil
		}
	}
	switch len(refs) {
	case 0:
		return none, &explained{fmt.Errorf("%w: no %s can be used here", dr.ErrInvalid, option), "see that the account sees one, and that a host of it is connected and not in maintenance mode"}
	case 1:
		return refs[0], nil
	}
	return none, &explained{fmt.Errorf("%w: the %s can be %s", dr.ErrAmbiguous, option, inv.list(refs)), "set the placement's option " + option}
}

// list names things for people.
func (inv *inventory) list(refs []types.ManagedObjectReference) string {
	var names []string
	for _, r := range refs {
		if len(names) == 20 {
			names = append(names, fmt.Sprintf("%d more", len(refs)-20))
			break
		}
		names = append(names, inv.path(r))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

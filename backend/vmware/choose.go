package vmware

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// choose decides where a machine is made. s, which may be nil, is where it was.
func choose(inv *inventory, p backend.Placement, o PlaceOptions, s *saved) (target, error) {
	if s == nil {
		s = &saved{}
	}
	c := chooser{inv: inv, p: p, o: o, s: s}
	for _, step := range []func() error{c.datacenter, c.compute, c.folder, c.pool, c.datastores, c.networks, c.host, c.room} {
		if err := step(); err != nil {
			return target{}, err
		}
	}
	return c.t, nil
}

// chooser is a choice that is being made, in the order of choose's steps.
type chooser struct {
	inv *inventory
	p   backend.Placement
	o   PlaceOptions
	s   *saved
	t   target

	dc     types.ManagedObjectReference
	fixed  *types.ManagedObjectReference // the host, if the options name one
	usable []types.ManagedObjectReference
	used   []types.ManagedObjectReference // datastores and networks that the host must reach
	stores map[dr.DiskID]types.ManagedObjectReference
}

func (c *chooser) inside(ref types.ManagedObjectReference) bool {
	dc, ok := c.inv.up(ref, "Datacenter")
	return ok && dc == c.dc
}

func (c *chooser) datacenter() error {
	all := keys(c.inv, c.inv.vmFolders, func(types.ManagedObjectReference) bool { return true })
	want := c.o.Datacenter
	for _, path := range []string{c.o.Folder, c.o.Cluster, c.o.Host, c.o.ResourcePool, c.o.Datastore} {
		for _, dc := range all {
			if want == "" && strings.HasPrefix(path, c.inv.path(dc)+"/") {
				want = c.inv.path(dc)
			}
		}
	}
	var err error
	c.dc, err = c.inv.pick("datacenter", want, c.s.Place.Datacenter, all)
	return err
}

func (c *chooser) compute() error {
	const cluster, single = "ClusterComputeResource", "ComputeResource"
	of := func(ref types.ManagedObjectReference) types.ManagedObjectReference {
		at, _ := c.inv.up(ref, cluster, single)
		return at
	}
	all := keys(c.inv, c.inv.pools, c.inside)
	hosts := keys(c.inv, c.inv.hosts, c.inside)
	var named []types.ManagedObjectReference // by the options
	if c.o.Cluster != "" {
		ref, err := c.inv.pick("cluster", c.o.Cluster, "", all)
		if err != nil {
			return err
		}
		named = append(named, ref)
	}
	if c.o.Host != "" {
		ref, err := c.inv.pick("host", c.o.Host, "", hosts)
		if err != nil {
			return err
		}
		if why := c.inv.hosts[ref].trouble; why != "" {
			return &explained{fmt.Errorf("%w: option host: %s can't be used: %s", dr.ErrInvalid, c.inv.path(ref), why), "choose another host, or none"}
		}
		named, c.fixed = append(named, of(ref)), &ref
	}
	if len(named) == 0 && strings.HasPrefix(c.o.ResourcePool, "/") {
		for _, ref := range all {
			if strings.HasPrefix(c.o.ResourcePool, c.inv.path(ref)+"/") {
				named = append(named, ref)
			}
		}
	}
	if len(named) == 2 && named[0] != named[1] {
		return fmt.Errorf("%w: options cluster and host: host %s is not in %s", dr.ErrInvalid, c.o.Host, c.inv.path(named[0]))
	}
	works := func(ref types.ManagedObjectReference) bool {
		return slices.ContainsFunc(hosts, func(h types.ManagedObjectReference) bool {
			return of(h) == ref && c.inv.hosts[h].trouble == ""
		})
	}
	if len(named) > 0 {
		c.t.compute = named[0]
		if !works(c.t.compute) {
			return &explained{fmt.Errorf("%w: no host of %s can be used: all are disconnected or in maintenance mode", dr.ErrInvalid, c.inv.path(c.t.compute)), "connect one, or choose another cluster"}
		}
	} else {
		var err error
		if c.t.compute, err = c.inv.pick("cluster", "", c.s.Place.Cluster, slices.DeleteFunc(all, func(r types.ManagedObjectReference) bool { return !works(r) })); err != nil {
			return err
		}
	}
	for _, h := range hosts {
		if c.fixed != nil && h == *c.fixed || c.fixed == nil && of(h) == c.t.compute && c.inv.hosts[h].trouble == "" {
			c.usable = append(c.usable, h)
		}
	}
	return nil
}

func (c *chooser) folder() error {
	top := c.inv.vmFolders[c.dc]
	c.t.folder = top
	below := keys(c.inv, c.inv.entities, func(r types.ManagedObjectReference) bool {
		return r.Type == "Folder" && strings.HasPrefix(c.inv.path(r)+"/", c.inv.path(top)+"/")
	})
	if c.o.Folder == "" {
		if found := c.inv.all(below, c.s.Place.Folder); len(found) == 1 && c.s.Place.Folder != "" {
			c.t.folder = found[0]
		}
		return nil
	}
	var err error
	c.t.folder, err = c.inv.pick("folder", c.o.Folder, "", below)
	return err
}

func (c *chooser) pool() error {
	top := c.inv.pools[c.t.compute]
	c.t.pool = top
	below := keys(c.inv, c.inv.entities, func(r types.ManagedObjectReference) bool {
		return r.Type == "ResourcePool" && strings.HasPrefix(c.inv.path(r)+"/", c.inv.path(top)+"/")
	})
	if c.o.ResourcePool == "" {
		if found := c.inv.all(below, c.s.Place.ResourcePool); len(found) == 1 && c.s.Place.ResourcePool != "" {
			c.t.pool = found[0]
		}
		return nil
	}
	var err error
	c.t.pool, err = c.inv.pick("resourcePool", c.o.ResourcePool, "", below)
	return err
}

// reached tells whether a host that can be used reaches a datastore or network.
func (c *chooser) reached(ref types.ManagedObjectReference) bool {
	return slices.ContainsFunc(c.usable, func(h types.ManagedObjectReference) bool { return c.inv.hosts[h].reach(ref) })
}

func (h hostFacts) reach(ref types.ManagedObjectReference) bool {
	return slices.Contains(h.datastores, ref) || slices.Contains(h.networks, ref)
}

func (c *chooser) datastores() error {
	fit := keys(c.inv, c.inv.datastores, func(r types.ManagedObjectReference) bool {
		s := c.inv.datastores[r]
		return c.inside(r) && s.Accessible && (s.MaintenanceMode == "" || s.MaintenanceMode == string(types.DatastoreSummaryMaintenanceModeStateNormal)) && c.reached(r)
	})
	home, err := c.inv.pick("datastore", c.o.Datastore, c.s.Place.Datastore, fit)
	if err != nil {
		return err
	}
	c.t.datastore, c.used = c.inv.entities[home].name, append(c.used, home)
	c.t.disks, c.stores = map[dr.DiskID]string{}, map[dr.DiskID]types.ManagedObjectReference{}
	for _, d := range c.p.Machine.Disks {
		at := home
		if want := c.o.DiskDatastores[d.ID]; want != "" {
			if at, err = c.inv.pick("diskDatastores", want, "", fit); err != nil {
				return err
			}
		} else if i := slices.IndexFunc(c.s.Disks, func(x savedDisk) bool { return x.ID == d.ID }); c.o.Datastore == "" && i >= 0 && c.s.Disks[i].Datastore != "" {
			if found := c.inv.all(fit, c.s.Disks[i].Datastore); len(found) == 1 {
				at = found[0]
			}
		}
		c.t.disks[d.ID], c.stores[d.ID] = c.inv.entities[at].name, at
		c.used = append(c.used, at)
	}
	return nil
}

// wanted is the network that a card should be connected to; "" is none. A
// drill's card is never connected to what nobody named for drills.
func wanted(n dr.NIC, p backend.Placement, o PlaceOptions) string {
	if to, ok := p.Connection(n); ok {
		return to
	}
	if p.Isolated {
		return o.IsolatedNetwork
	}
	return n.Network
}

func (c *chooser) networks() error {
	fit := keys(c.inv, c.inv.networks, func(r types.ManagedObjectReference) bool { return c.inside(r) && c.reached(r) })
	c.t.cards = make([]types.BaseVirtualDeviceBackingInfo, len(c.p.Machine.NICs))
	unconnected := false
	for i, n := range c.p.Machine.NICs {
		to := wanted(n, c.p, c.o)
		if to == "" {
			unconnected = true
			continue
		}
		switch found := c.inv.all(fit, to); len(found) {
		case 1:
			c.t.cards[i], c.used = c.inv.networks[found[0]], append(c.used, found[0])
		case 0:
			return &explained{fmt.Errorf("%w: card %s: there is no network %q here; there are %s", dr.ErrInvalid, n.ID, to, c.inv.list(fit)),
				fmt.Sprintf("map %q to one of them in the placement's networks, or to \"\" to leave the card unconnected", n.Network)}
		default:
			return &explained{fmt.Errorf("%w: card %s: network %q can be %s", dr.ErrAmbiguous, n.ID, to, c.inv.list(found)), "map it to a whole inventory path in the placement's networks"}
		}
	}
	if !unconnected {
		return nil
	}
	// Nothing passes a card that isn't connected, but the API wants a network
	// for it all the same; the isolated one, if there is one, is the best.
	for _, r := range append(c.inv.all(fit, c.o.IsolatedNetwork), fit...) {
		c.t.spare, c.used = c.inv.networks[r], append(c.used, r)
		return nil
	}
	return &explained{fmt.Errorf("%w: there is no network here, which even a card that isn't connected needs", dr.ErrInvalid), "see that the account sees one"}
}

// host chooses one that reaches everything that is used; the same for the same
// placement, and others for others.
func (c *chooser) host() error {
	var fit []types.ManagedObjectReference
	for _, h := range c.usable {
		if !slices.ContainsFunc(c.used, func(r types.ManagedObjectReference) bool { return !c.inv.hosts[h].reach(r) }) {
			fit = append(fit, h)
		}
	}
	if len(fit) == 0 {
		return &explained{fmt.Errorf("%w: no host of %s reaches all of %s", dr.ErrInvalid, c.inv.path(c.t.compute), c.inv.list(distinct(c.used))), "choose other datastores or networks"}
	}
	sum := fnv.New32a()
	sum.Write([]byte(c.p.Key))
	c.t.host = fit[sum.Sum32()%uint32(len(fit))]
	return nil
}

func distinct(refs []types.ManagedObjectReference) []types.ManagedObjectReference {
	var all []types.ManagedObjectReference
	for _, r := range refs {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// room refuses disks that certainly don't fit, and warns of those that may not.
func (c *chooser) room() error {
	need := map[types.ManagedObjectReference]int64{}
	for _, d := range c.p.Machine.Disks {
		need[c.stores[d.ID]] += d.Size
	}
	for _, ref := range keys(c.inv, c.inv.datastores, func(r types.ManagedObjectReference) bool { return need[r] > 0 }) {
		free := c.inv.datastores[ref].FreeSpace
		if need[ref] <= free {
			continue
		}
		text := fmt.Sprintf("datastore %s has %s free, and the disks may grow to %s", c.inv.path(ref), inGiB(free), inGiB(need[ref]))
		if !c.o.thin() {
			return &explained{fmt.Errorf("%w: %s", errNoRoom, text), "make room, choose another datastore, or let the disks be thin"}
		}
		c.t.warnings = append(c.t.warnings, text)
	}
	return nil
}

package vmware

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// PlaceOptions is the JSON of a placement's Options for this backend. Names may
// be inventory paths as govc prints them, or their ends ("prod/web"), where a
// name alone isn't unique. What is left out is taken from where the machine was,
// if there is something of that name here, else it is the only one that there
// is. Fields that aren't known are refused.
type PlaceOptions struct {
	Datacenter   string `json:"datacenter,omitempty"`
	Folder       string `json:"folder,omitempty"`       // of machines; else the datacenter's own
	Cluster      string `json:"cluster,omitempty"`      // or a host that is in none
	Host         string `json:"host,omitempty"`         // else any that can run the machine
	ResourcePool string `json:"resourcePool,omitempty"` // else the cluster's own
	Datastore    string `json:"datastore,omitempty"`

	// DiskDatastores are datastores of single disks.
	DiskDatastores map[dr.DiskID]string `json:"diskDatastores,omitempty"`
	// Thin is whether disks take only the room of what is written; default true.
	Thin *bool `json:"thin,omitempty"`
	// KeepMAC and KeepUUID give the machine the MAC addresses, and the UUIDs of
	// its BIOS and disks, that it had, where nothing here has them; default
	// true. A drill's machine never gets them.
	KeepMAC  *bool `json:"keepMAC,omitempty"`
	KeepUUID *bool `json:"keepUUID,omitempty"`
	// HardwareVersion is that of a new machine, "vmx-19"; else the machine's own,
	// or the newest of the host if that is older.
	HardwareVersion string `json:"hardwareVersion,omitempty"`
	// IsolatedNetwork is where a drill's cards are connected that
	// Placement.Networks doesn't name. Without it they are not connected.
	IsolatedNetwork string `json:"isolatedNetwork,omitempty"`

	// Addresses gives the guest the addresses of Placement.Machine's cards when
	// it starts for the first time: Linux with VMware Tools only. The other
	// three go with them; without them it gets those it had.
	Addresses bool                `json:"addresses,omitempty"`
	DNS       []string            `json:"dns,omitempty"`
	Search    []string            `json:"search,omitempty"`
	Gateways  map[string][]string `json:"gateways,omitempty"` // by the ID of the card
}

// parseOptions reads a placement's options. It is called for an original too,
// which needs none: a typo must not wait for the day when the original is gone.
func parseOptions(p backend.Placement) (PlaceOptions, error) {
	var o PlaceOptions
	if len(p.Options) == 0 {
		return o, nil
	}
	dec := json.NewDecoder(bytes.NewReader(p.Options))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return o, fmt.Errorf("%w: placement options: %w", dr.ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return o, fmt.Errorf("%w: placement options: there is something behind them", dr.ErrInvalid)
	}
	if o.HardwareVersion != "" && !hardwareVersion.MatchString(o.HardwareVersion) {
		return o, fmt.Errorf("%w: option hardwareVersion: %q is none: write it as \"vmx-19\"", dr.ErrInvalid, o.HardwareVersion)
	}
	for id := range o.DiskDatastores {
		if _, ok := p.Machine.Disk(id); !ok {
			return o, fmt.Errorf("%w: option diskDatastores: the machine has no disk %s", dr.ErrInvalid, id)
		}
	}
	for id, list := range o.Gateways {
		if !slices.ContainsFunc(p.Machine.NICs, func(n dr.NIC) bool { return n.ID == id }) {
			return o, fmt.Errorf("%w: option gateways: the machine has no card %q", dr.ErrInvalid, id)
		}
		for _, a := range list {
			if _, err := netip.ParseAddr(a); err != nil {
				return o, fmt.Errorf("%w: option gateways: %w", dr.ErrInvalid, err)
			}
		}
	}
	for _, a := range o.DNS {
		if _, err := netip.ParseAddr(a); err != nil {
			return o, fmt.Errorf("%w: option dns: %w", dr.ErrInvalid, err)
		}
	}
	return o, nil
}

// thin tells whether disks are to be thin.
func (o PlaceOptions) thin() bool { return o.Thin == nil || *o.Thin }

// target is where a machine is made.
type target struct {
	folder, pool, host, compute types.ManagedObjectReference

	datastore string               // of the machine's own files
	disks     map[dr.DiskID]string // datastores of the disks
	// cards are what Placement.Machine's cards are connected to, one by one;
	// nil is nothing. spare is for those: every card needs a network to not be
	// connected to.
	cards []types.BaseVirtualDeviceBackingInfo
	spare types.BaseVirtualDeviceBackingInfo

	hardware string   // the newest version that can be made here; "" if unknown
	warnings []string // for the log
}

// place finds out where the machine is to be made.
func (v *VSphere) place(ctx context.Context, p backend.Placement, o PlaceOptions, s *saved) (target, error) {
	inv, err := v.inventory(ctx)
	if err != nil {
		return target{}, err
	}
	t, err := choose(inv, p, o, s)
	if err != nil {
		return target{}, err
	}
	if t.hardware, err = v.newestHardware(ctx, t.compute); err != nil {
		v.options.Log.DebugContext(ctx, "newest hardware version is unknown", "error", err)
	}
	for _, w := range t.warnings {
		v.options.Log.WarnContext(ctx, w, "placement", p.Key)
	}
	return t, nil
}

// newestHardware asks for the newest hardware version that machines can be made
// of.
func (v *VSphere) newestHardware(ctx context.Context, compute types.ManagedObjectReference) (string, error) {
	var c mo.ComputeResource
	for page, err := range v.pages(ctx, 1, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: compute}},
		PropSet:   []types.PropertySpec{{Type: "ComputeResource", PathSet: []string{"environmentBrowser"}}},
	}) {
		if err != nil {
			return "", err
		}
		if err := mo.LoadObjectContent(page, &c); err != nil {
			return "", err
		}
	}
	if c.EnvironmentBrowser == nil {
		return "", errors.New("there is no environment browser")
	}
	res, err := methods.QueryConfigOptionDescriptor(ctx, v.client, &types.QueryConfigOptionDescriptor{This: *c.EnvironmentBrowser})
	if err != nil {
		return "", explain(err)
	}
	newest := ""
	for _, d := range res.Returnval {
		if hardwareVersion.MatchString(d.Key) && d.CreateSupported && (newest == "" || older(newest, d.Key)) {
			newest = d.Key
		}
	}
	return newest, nil
}

// older compares hardware versions.
func older(a, b string) bool {
	x, _ := strconv.Atoi(strings.TrimPrefix(a, "vmx-"))
	y, _ := strconv.Atoi(strings.TrimPrefix(b, "vmx-"))
	return x < y
}

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
	if to, ok := p.Networks[n.Network]; ok {
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

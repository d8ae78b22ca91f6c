package vmware

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestParseOptions(t *testing.T) {
	m := dr.Machine{Disks: []dr.Disk{{ID: "a"}}, NICs: []dr.NIC{{ID: "nic-4000"}}}
	o, err := parseOptions(backend.Placement{Machine: m, Options: json.RawMessage(
		`{"datastore":"ds","diskDatastores":{"a":"ds2"},"thin":false,"hardwareVersion":"vmx-15","gateways":{"nic-4000":["10.0.0.1"]},"dns":["10.0.0.2"]}`)})
	require.NoError(t, err)
	require.False(t, o.thin())
	require.Equal(t, "ds2", o.DiskDatastores["a"])
	for _, raw := range []string{"", "null", "{}"} {
		o, err := parseOptions(backend.Placement{Options: json.RawMessage(raw)})
		require.NoError(t, err)
		require.True(t, o.thin())
	}
	for _, raw := range []string{
		`{"no-such-option":1}`, `{"datastore":1}`, `{} {}`, `[]`, `{`, `{"hardwareVersion":"19"}`, `{"diskDatastores":{"b":"ds"}}`,
		`{"gateways":{"nic-1":["10.0.0.1"]}}`, `{"gateways":{"nic-4000":["gw"]}}`, `{"dns":["resolver"]}`,
	} {
		_, err := parseOptions(backend.Placement{Machine: m, Options: json.RawMessage(raw)})
		require.ErrorIs(t, err, dr.ErrInvalid, raw)
	}
}

func TestOlder(t *testing.T) {
	require.True(t, older("vmx-9", "vmx-10"))
	require.False(t, older("vmx-21", "vmx-21"))
}

// world is an inventory to choose from, of two datacenters.
func world(t *testing.T) (*vmwaretest.Simulator, *VSphere, *inventory) {
	t.Helper()
	sim, v := openSim(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{
		{Name: "east", Folders: []string{"prod/web", "lab/web"},
			Clusters:   []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0", "esx-1", "esx-2"}}, {Name: "C1", Hosts: []string{"esx-3"}}},
			Hosts:      []string{"solo"},
			Datastores: []vmwaretest.Datastore{{Name: "ds-0"}, {Name: "ds-1"}}, Networks: []string{"prod", "isolated"}},
		{Name: "west", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-9"}}}, Datastores: []vmwaretest.Datastore{{Name: "far-0"}}, Networks: []string{"prod"}},
	}})
	inv, err := v.inventory(t.Context())
	require.NoError(t, err)
	return sim, v, inv
}

func find[T any](t *testing.T, inv *inventory, m map[types.ManagedObjectReference]T, path string) types.ManagedObjectReference {
	t.Helper()
	for ref := range m {
		if inv.path(ref) == path {
			return ref
		}
	}
	require.Fail(t, "no such object", path)
	return types.ManagedObjectReference{}
}

func TestChoose(t *testing.T) {
	_, _, inv := world(t)
	host := func(path string, change func(*hostFacts)) {
		ref := find(t, inv, inv.hosts, path)
		f := inv.hosts[ref]
		change(&f)
		inv.hosts[ref] = f
	}
	host("/east/host/C0/esx-0", func(f *hostFacts) { f.trouble = "it is in maintenance mode" })
	host("/east/host/C1/esx-3", func(f *hostFacts) { f.trouble = "it is disconnected" })
	ds1 := find(t, inv, inv.datastores, "/east/datastore/ds-1")
	host("/east/host/C0/esx-1", func(f *hostFacts) {
		f.datastores = []types.ManagedObjectReference{find(t, inv, inv.datastores, "/east/datastore/ds-0")}
	})
	s1 := inv.datastores[ds1]
	s1.FreeSpace, s1.Accessible = 10*mib, true
	inv.datastores[ds1] = s1

	m := dr.Machine{ID: "m", Name: "web", Disks: []dr.Disk{{ID: "a", Size: 8 * mib}, {ID: "b", Size: 8 * mib}}, NICs: []dr.NIC{{ID: "n", Network: "prod"}}}
	was := &saved{Place: savedPlace{Datacenter: "east", Folder: "/east/vm/lab/web", Cluster: "C0", ResourcePool: "/east/host/C0/Resources", Datastore: "ds-0"}}
	no := false
	for name, c := range map[string]struct {
		p     backend.Placement
		o     PlaceOptions
		s     *saved
		check func(t *testing.T, x target)
		err   error
		says  string
	}{
		"where it was": {s: was, check: func(t *testing.T, x target) {
			require.Equal(t, "/east/vm/lab/web", inv.path(x.folder))
			require.Equal(t, "/east/host/C0/Resources", inv.path(x.pool))
			require.Contains(t, []string{"/east/host/C0/esx-1", "/east/host/C0/esx-2"}, inv.path(x.host))
			require.Equal(t, "ds-0", x.datastore)
			require.Equal(t, map[dr.DiskID]string{"a": "ds-0", "b": "ds-0"}, x.disks)
			require.Equal(t, "prod", x.cards[0].(*types.VirtualEthernetCardNetworkBackingInfo).DeviceName)
			require.Empty(t, x.warnings)
		}},
		"the only one that there is": {o: PlaceOptions{Datacenter: "west"}, s: was, check: func(t *testing.T, x target) {
			require.Equal(t, "/west/vm", inv.path(x.folder), "its folder isn't here")
			require.Equal(t, "/west/host/C0/esx-9", inv.path(x.host))
			require.Equal(t, "far-0", x.datastore)
		}},
		"a path says the datacenter": {o: PlaceOptions{Cluster: "/west/host/C0"}, check: func(t *testing.T, x target) {
			require.Equal(t, "/west/host/C0/esx-9", inv.path(x.host))
		}},
		"nothing is known":                  {err: dr.ErrAmbiguous, says: "datacenter can be /east, /west"},
		"nothing is known of the cluster":   {o: PlaceOptions{Datacenter: "east"}, err: dr.ErrAmbiguous, says: "cluster can be /east/host/C0, /east/host/solo"},
		"nothing is known of the datastore": {o: PlaceOptions{Datacenter: "east", Cluster: "C0"}, err: dr.ErrAmbiguous, says: "datastore can be /east/datastore/ds-0, /east/datastore/ds-1"},
		"no such datastore":                 {o: PlaceOptions{Datastore: "ds-9"}, s: was, err: dr.ErrInvalid, says: `no "ds-9" here`},
		"no such cluster":                   {o: PlaceOptions{Cluster: "C9"}, s: was, err: dr.ErrInvalid, says: "option cluster"},
		"a cluster whose hosts are gone":    {o: PlaceOptions{Cluster: "C1"}, s: was, err: dr.ErrInvalid, says: "disconnected or in maintenance"},
		"a host in maintenance":             {o: PlaceOptions{Host: "esx-0"}, s: was, err: dr.ErrInvalid, says: "it is in maintenance mode"},
		"a host of another cluster":         {o: PlaceOptions{Host: "solo", Cluster: "C0"}, s: was, err: dr.ErrInvalid, says: "not in /east/host/C0"},
		"a host":                            {o: PlaceOptions{Host: "esx-2"}, s: was, check: func(t *testing.T, x target) { require.Equal(t, "/east/host/C0/esx-2", inv.path(x.host)) }},
		"an ambiguous folder":               {o: PlaceOptions{Folder: "web"}, s: was, err: dr.ErrAmbiguous, says: "/east/vm/lab/web, /east/vm/prod/web"},
		"the end of a path":                 {o: PlaceOptions{Folder: "prod/web"}, s: was, check: func(t *testing.T, x target) { require.Equal(t, "/east/vm/prod/web", inv.path(x.folder)) }},
		"the host must reach the datastore": {o: PlaceOptions{Datastore: "ds-1"}, s: was, check: func(t *testing.T, x target) {
			require.Equal(t, "/east/host/C0/esx-2", inv.path(x.host))
			require.Equal(t, map[dr.DiskID]string{"a": "ds-1", "b": "ds-1"}, x.disks)
			require.Len(t, x.warnings, 1, "16 MiB of thin disks, 10 MiB of room")
		}},
		"no host reaches it": {o: PlaceOptions{Host: "esx-1", DiskDatastores: map[dr.DiskID]string{"b": "ds-1"}}, s: was, err: dr.ErrInvalid, says: "diskDatastores"},
		"thick, and no room": {o: PlaceOptions{Datastore: "ds-1", Thin: &no}, s: was, err: errNoRoom, says: "ds-1"},
		"one disk elsewhere": {o: PlaceOptions{DiskDatastores: map[dr.DiskID]string{"b": "ds-1"}, Thin: &no}, s: was, check: func(t *testing.T, x target) {
			require.Equal(t, map[dr.DiskID]string{"a": "ds-0", "b": "ds-1"}, x.disks)
		}},
		"disks where they were": {s: &saved{Place: was.Place, Disks: []savedDisk{{ID: "b", Datastore: "ds-1"}, {ID: "a", Datastore: "gone"}}}, check: func(t *testing.T, x target) {
			require.Equal(t, map[dr.DiskID]string{"a": "ds-0", "b": "ds-1"}, x.disks)
		}},
		"but not against the options": {o: PlaceOptions{Datastore: "ds-0"}, s: &saved{Place: was.Place, Disks: []savedDisk{{ID: "b", Datastore: "ds-1"}}}, check: func(t *testing.T, x target) {
			require.Equal(t, map[dr.DiskID]string{"a": "ds-0", "b": "ds-0"}, x.disks)
		}},
		"networks are mapped": {p: backend.Placement{Networks: map[string]string{"prod": "VM Network"}}, s: was, check: func(t *testing.T, x target) {
			require.Equal(t, "VM Network", x.cards[0].(*types.VirtualEthernetCardNetworkBackingInfo).DeviceName)
		}},
		"mapped to nothing": {p: backend.Placement{Networks: map[string]string{"prod": ""}}, s: was, check: func(t *testing.T, x target) {
			require.Nil(t, x.cards[0])
			require.NotNil(t, x.spare)
		}},
		"mapped to what isn't here":      {p: backend.Placement{Networks: map[string]string{"prod": "gone"}}, s: was, err: dr.ErrInvalid, says: `no network "gone" here; there are /east/network/VM Network`},
		"a drill never meets production": {p: backend.Placement{Isolated: true}, s: was, check: func(t *testing.T, x target) { require.Nil(t, x.cards[0]) }},
		"a drill's network": {p: backend.Placement{Isolated: true}, o: PlaceOptions{IsolatedNetwork: "isolated"}, s: was, check: func(t *testing.T, x target) {
			require.Equal(t, "isolated", x.cards[0].(*types.VirtualEthernetCardNetworkBackingInfo).DeviceName)
		}},
		"a drill's mapped network": {p: backend.Placement{Isolated: true, Networks: map[string]string{"prod": "VM Network"}}, o: PlaceOptions{IsolatedNetwork: "isolated"}, s: was, check: func(t *testing.T, x target) {
			require.Equal(t, "VM Network", x.cards[0].(*types.VirtualEthernetCardNetworkBackingInfo).DeviceName)
		}},
		"what isn't connected is nearest to the isolated network": {p: backend.Placement{Networks: map[string]string{"prod": ""}}, o: PlaceOptions{IsolatedNetwork: "isolated"}, s: was, check: func(t *testing.T, x target) {
			require.Equal(t, "isolated", x.spare.(*types.VirtualEthernetCardNetworkBackingInfo).DeviceName)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.p
			p.Key, p.Machine = "k", m
			x, err := choose(inv, p, c.o, c.s)
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			c.check(t, x)
			again, err := choose(inv, p, c.o, c.s)
			require.NoError(t, err)
			require.Equal(t, x, again)
		})
	}
}

func TestChooseWhatIsReached(t *testing.T) {
	_, _, inv := world(t)
	p := backend.Placement{Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: mib}}, NICs: []dr.NIC{{ID: "n", Network: "prod"}}}}
	choose := func(datastore string) error {
		_, err := choose(inv, p, PlaceOptions{Datacenter: "east", Cluster: "C0", Datastore: datastore}, nil)
		return err
	}
	require.NoError(t, choose("ds-0"))
	refuse := func(why string, err error) {
		t.Helper()
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.ErrorContains(t, err, why)
	}

	ds0, ds1 := find(t, inv, inv.datastores, "/east/datastore/ds-0"), find(t, inv, inv.datastores, "/east/datastore/ds-1")
	was := inv.datastores[ds0]
	for _, broken := range []types.DatastoreSummary{{}, {Accessible: true, MaintenanceMode: "inMaintenance"}} {
		inv.datastores[ds0] = broken
		refuse(`no "ds-0" here`, choose("ds-0"))
		require.NoError(t, choose(""), "there is only one left")
	}
	inv.datastores[ds0] = was

	prod := find(t, inv, inv.networks, "/east/network/prod")
	without := func(host string, ref types.ManagedObjectReference) {
		h := find(t, inv, inv.hosts, "/east/host/C0/"+host)
		f := inv.hosts[h]
		not := func(r types.ManagedObjectReference) bool { return r == ref }
		f.datastores, f.networks = slices.DeleteFunc(slices.Clone(f.datastores), not), slices.DeleteFunc(slices.Clone(f.networks), not)
		inv.hosts[h] = f
	}
	without("esx-0", ds1)
	without("esx-1", ds1)
	without("esx-2", prod)
	require.NoError(t, choose("ds-0"))
	refuse("no host of /east/host/C0 reaches all of /east/datastore/ds-1, /east/network/prod", choose("ds-1"))
	without("esx-0", prod)
	without("esx-1", prod)
	refuse(`no network "prod" here`, choose("ds-0"))
}

func TestChooseResourcePool(t *testing.T) {
	_, v, inv := world(t)
	root := object.NewResourcePool(v.client, inv.pools[find(t, inv, inv.pools, "/west/host/C0")])
	_, err := root.Create(t.Context(), "gold", types.DefaultResourceConfigSpec())
	require.NoError(t, err)
	inv, err = v.inventory(t.Context())
	require.NoError(t, err)
	p := backend.Placement{Key: "k"}
	for _, o := range []PlaceOptions{{ResourcePool: "/west/host/C0/Resources/gold"}, {Datacenter: "west", ResourcePool: "gold"}} {
		x, err := choose(inv, p, o, nil)
		require.NoError(t, err)
		require.Equal(t, "/west/host/C0/Resources/gold", inv.path(x.pool))
	}
	x, err := choose(inv, p, PlaceOptions{Datacenter: "west"}, &saved{Place: savedPlace{ResourcePool: "/west/host/C0/Resources/gold"}})
	require.NoError(t, err)
	require.Equal(t, "/west/host/C0/Resources/gold", inv.path(x.pool))
	_, err = choose(inv, p, PlaceOptions{Datacenter: "west", ResourcePool: "lead"}, nil)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

func TestPlaceMaintenance(t *testing.T) {
	_, v := openSim(t, vmwaretest.Options{})
	inv, err := v.inventory(t.Context())
	require.NoError(t, err)
	for _, name := range []string{"esx-0", "esx-1"} {
		task, err := object.NewHostSystem(v.client, find(t, inv, inv.hosts, "/DC0/host/C0/"+name)).EnterMaintenanceMode(t.Context(), 0, false, nil)
		require.NoError(t, err)
		require.NoError(t, task.Wait(t.Context()))
		x, err := v.place(t.Context(), backend.Placement{Key: "k"}, PlaceOptions{Datastore: "vmfs-0"}, nil)
		if name == "esx-1" {
			require.ErrorIs(t, err, dr.ErrInvalid)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "/DC0/host/C0/esx-1", inv.path(x.host))
		require.Regexp(t, hardwareVersion, x.hardware)
	}
}

func TestDistributedNetworks(t *testing.T) {
	_, v := openSim(t, vmwaretest.Options{})
	inv, err := v.inventory(t.Context())
	require.NoError(t, err)
	dc := object.NewDatacenter(v.client, find(t, inv, inv.vmFolders, "/DC0"))
	folders, err := dc.Folders(t.Context())
	require.NoError(t, err)
	task, err := folders.NetworkFolder.CreateDVS(t.Context(), types.DVSCreateSpec{ConfigSpec: &types.DVSConfigSpec{Name: "dvs"}})
	require.NoError(t, err)
	info, err := task.WaitForResult(t.Context())
	require.NoError(t, err)
	dvs := object.NewDistributedVirtualSwitch(v.client, info.Result.(types.ManagedObjectReference))
	var members []types.DistributedVirtualSwitchHostMemberConfigSpec
	for h := range inv.hosts {
		members = append(members, types.DistributedVirtualSwitchHostMemberConfigSpec{Operation: "add", Host: h})
	}
	task, err = dvs.Reconfigure(t.Context(), &types.DVSConfigSpec{Host: members})
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))
	task, err = dvs.AddPortgroup(t.Context(), []types.DVPortgroupConfigSpec{{Name: "prod-10", NumPorts: 8, Type: "earlyBinding"}})
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))

	p := backend.Placement{Key: "k", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: mib}}, NICs: []dr.NIC{{ID: "n", Network: "prod-10"}}}}
	x, err := v.place(t.Context(), p, PlaceOptions{Datastore: "vmfs-0"}, nil)
	require.NoError(t, err)
	b := x.cards[0].(*types.VirtualEthernetCardDistributedVirtualPortBackingInfo)
	require.NotEmpty(t, b.Port.PortgroupKey)
	require.NotEmpty(t, b.Port.SwitchUuid)

	made := createIn(t, v, p, PlaceOptions{Datastore: "vmfs-0"})
	require.Equal(t, "prod-10", v.facts(t.Context(), made).describe().NICs[0].Network)
}

package vmware

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// estate is two datacenters with a cluster, a standalone host and folders.
func estate(t *testing.T) (*vmwaretest.Simulator, *VSphere) {
	sim, v := openSim(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{
		{Name: "east", Folders: []string{"prod/web", "product"}, Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0"}}}, Hosts: []string{"solo"},
			Datastores: []vmwaretest.Datastore{{Name: "east-1"}}},
		{Name: "west", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-9"}}}, Datastores: []vmwaretest.Datastore{{Name: "west-1"}}},
	}})
	for _, s := range []vmwaretest.VMSpec{
		{Name: "web-1", Datacenter: "east", Folder: "prod/web"},
		{Name: "web-2", Datacenter: "east", Folder: "prod", Off: true},
		{Name: "wiki", Datacenter: "east", Folder: "product"},
		{Name: "solo-1", Datacenter: "east", Cluster: "solo"},
		{Name: "far", Datacenter: "west"},
	} {
		s.Disks = []vmwaretest.DiskSpec{{Size: mib}}
		addVM(t, sim, s)
	}
	golden := addVM(t, sim, vmwaretest.VMSpec{Name: "golden", Datacenter: "west", Off: true})
	require.NoError(t, object.NewVirtualMachine(v.client, golden.Reference()).MarkAsTemplate(t.Context()))
	return sim, v
}

func names(t *testing.T, v *VSphere, f Filter, size int32) []string {
	t.Helper()
	var all []string
	for m, err := range v.list(t.Context(), f, size) {
		require.NoError(t, err)
		all = append(all, m.Name)
	}
	slices.Sort(all)
	return all
}

func TestList(t *testing.T) {
	_, v := estate(t)
	yes, no := true, false
	for name, c := range map[string]struct {
		f    Filter
		want []string
	}{
		"all":             {Filter{}, []string{"far", "solo-1", "web-1", "web-2", "wiki"}},
		"templates":       {Filter{Templates: true, Datacenters: []string{"west"}}, []string{"far", "golden"}},
		"datacenter":      {Filter{Datacenters: []string{"west"}}, []string{"far"}},
		"folder":          {Filter{Folders: []string{"/east/vm/prod"}}, []string{"web-1", "web-2"}},
		"folder, slash":   {Filter{Folders: []string{"/east/vm/prod/web/"}}, []string{"web-1"}},
		"cluster":         {Filter{Clusters: []string{"C0"}, Datacenters: []string{"east"}}, []string{"web-1", "web-2", "wiki"}},
		"standalone host": {Filter{Clusters: []string{"solo"}}, []string{"solo-1"}},
		"host":            {Filter{Hosts: []string{"solo", "esx-9"}}, []string{"far", "solo-1"}},
		"names":           {Filter{Names: []string{"web-*", "wik?"}}, []string{"web-1", "web-2", "wiki"}},
		"on":              {Filter{PoweredOn: &yes, Names: []string{"w*"}}, []string{"web-1", "wiki"}},
		"off":             {Filter{PoweredOn: &no}, []string{"web-2"}},
		"none":            {Filter{Hosts: []string{"nowhere"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int32{1, 2, pageSize} {
				require.Equal(t, c.want, names(t, v, c.f, size), "pages of %d", size)
			}
		})
	}
	for m, err := range v.Machines(t.Context()) {
		require.NoError(t, err)
		one, err := v.find(t.Context(), m.ID)
		require.NoError(t, err)
		require.Equal(t, v.facts(t.Context(), one).describe(), m, "listed as it is described")
	}
	for _, err := range v.List(t.Context(), Filter{Names: []string{"["}}) {
		require.ErrorIs(t, err, dr.ErrInvalid)
	}
}

func TestListTidies(t *testing.T) {
	sim, v := estate(t)
	stopped := func() int { return sim.Calls("DestroyView") }
	before := stopped()
	for range v.list(t.Context(), Filter{}, 1) {
		break
	}
	require.Equal(t, before+1, stopped(), "after a break")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range v.list(ctx, Filter{}, 1) {
		cancel()
		last = err
	}
	require.ErrorIs(t, last, context.Canceled)
	require.Equal(t, before+2, stopped(), "after ctx ended")

	sim.Fault(vmwaretest.Fault{Call: "ContinueRetrievePropertiesEx", Err: &types.SystemError{}})
	for _, err := range v.list(t.Context(), Filter{}, 1) {
		last = err
	}
	require.Error(t, last)
	require.Equal(t, before+3, stopped(), "after an error")
}

// A view that went with its session must not look like a machine that is gone.
func TestListInterrupted(t *testing.T) {
	sim, v := estate(t)
	sim.Fault(vmwaretest.Fault{Call: "RetrievePropertiesEx", Err: &types.ManagedObjectNotFound{}})
	_, err := v.findByKey(t.Context(), "k")
	require.ErrorContains(t, err, "interrupted")
	require.NotErrorIs(t, err, dr.ErrNotFound)
}

func TestListLeavesOutWhatCannotBeRead(t *testing.T) {
	sim, v := estate(t)
	addVM(t, sim, vmwaretest.VMSpec{Name: "damaged", Datacenter: "east", ExtraConfig: map[string]string{recordKey: "{"}})
	require.Equal(t, []string{"far", "solo-1", "web-1", "web-2", "wiki"}, names(t, v, Filter{}, pageSize))
}

func TestFindByKey(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	made := func(n int, key string, self dr.MachineID) dr.MachineID {
		id := dr.MachineID(fmt.Sprintf("50000000-0000-0000-0000-%012d", n))
		if self == "" {
			self = id
		}
		val := record{Key: key, Made: true}.encode(self).GetOptionValue().Value.(string)
		addVM(t, sim, vmwaretest.VMSpec{Name: fmt.Sprint("vm-", n), InstanceUUID: string(id), ExtraConfig: map[string]string{recordKey: val, "other": "x"}})
		return id
	}
	a := made(1, "a", "")
	made(2, "b", "")
	made(3, "a", "50000000-0000-0000-0000-000000000099") // a clone
	addVM(t, sim, vmwaretest.VMSpec{Name: "plain"})
	found := func(key string) []dr.MachineID {
		all, err := v.findByKey(t.Context(), key)
		require.NoError(t, err)
		var list []dr.MachineID
		for _, m := range all {
			list = append(list, m.id)
		}
		slices.Sort(list)
		return list
	}
	require.Equal(t, []dr.MachineID{a}, found("a"))
	require.Empty(t, found("c"))
	require.Equal(t, []dr.MachineID{a, made(4, "a", "")}, found("a"), "who has two must see both")
	_, err := v.findByKey(t.Context(), "")
	require.ErrorIs(t, err, dr.ErrInvalid)

	// A server that knows no keyed paths.
	f := sim.Fault(vmwaretest.Fault{Call: "RetrievePropertiesEx", Err: &types.InvalidProperty{Name: "config.extraConfig"}})
	require.Len(t, found("a"), 2)
	require.Equal(t, 1, f.Hits())
}

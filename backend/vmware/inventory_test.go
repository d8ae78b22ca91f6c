package vmware

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// openSim is a simulated vCenter and a connection to it.
func openSim(t *testing.T, o vmwaretest.Options) (*vmwaretest.Simulator, *VSphere) {
	t.Helper()
	sim := vmwaretest.New(t, o)
	v, err := Open(t.Context(), Options{URL: sim.URL, Insecure: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = v.Close(context.Background()) })
	return sim, v
}

func addVM(t *testing.T, sim *vmwaretest.Simulator, spec vmwaretest.VMSpec) *vmwaretest.VM {
	t.Helper()
	vm, err := sim.AddVM(spec)
	require.NoError(t, err)
	return vm
}

func look(t *testing.T, v *VSphere, ref types.ManagedObjectReference) *machine {
	t.Helper()
	m, err := v.look(t.Context(), ref)
	require.NoError(t, err)
	return m
}

func TestPath(t *testing.T) {
	ref := func(kind, id string) types.ManagedObjectReference {
		return types.ManagedObjectReference{Type: kind, Value: id}
	}
	root, dc, vm, prod := ref("Folder", "group-d1"), ref("Datacenter", "datacenter-2"), ref("Folder", "group-v3"), ref("Folder", "group-v4")
	e := entities{root: {}, dc: {"DC0", &root}, vm: {"vm", &dc}, prod: {"prod", &vm}}
	require.Equal(t, "/DC0/vm/prod", e.path(prod))
	up, ok := e.up(prod, "Datacenter")
	require.True(t, ok)
	require.Equal(t, dc, up)
	_, ok = e.up(prod, "HostSystem")
	require.False(t, ok)

	delete(e, vm)
	require.Empty(t, e.path(prod), "a part is unknown")
	e[vm] = entity{"vm", &prod}
	require.Empty(t, e.path(prod), "a loop ends")
}

func TestAroundMissing(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	vm := addVM(t, sim, vmwaretest.VMSpec{Name: "web"})
	m := look(t, v, vm.Reference())
	known := entities{}
	gone := types.ManagedObjectReference{Type: "HostSystem", Value: "host-gone"}
	require.NoError(t, v.around(t.Context(), known, *m.props.Runtime.Host, gone, gone))
	require.Equal(t, "/DC0/host/C0/"+known[*m.props.Runtime.Host].name, known.path(*m.props.Runtime.Host))
	require.NotContains(t, known, gone)
}

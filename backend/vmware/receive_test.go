package vmware

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestReceives(t *testing.T) {
	const same = "6000C290-0000-0000-0000-00000000000a"
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib, UUID: same}}})
	web, vm := p.id, p.vm
	r, err := p.v.Receives(t.Context(), web)
	require.NoError(t, err)
	require.Equal(t, []backend.Answer{backend.Yes, backend.No, backend.No, backend.Yes},
		[]backend.Answer{r.Datastore.Answer, r.Snapshots.Answer, r.SameUUID.Answer, r.Writes.Answer})
	_, err = vm.AddSnapshot("by hand", "")
	require.NoError(t, err)
	p.add(vmwaretest.VMSpec{Name: "copy", Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib, UUID: same}}})
	p.sim.Deny("VirtualMachine.Provisioning.DiskRandomAccess")
	r, err = p.v.Receives(t.Context(), web)
	require.NoError(t, err)
	require.Equal(t, backend.Yes, r.Snapshots.Answer)
	require.Contains(t, r.Snapshots.Detail, "by hand")
	require.Equal(t, backend.Yes, r.SameUUID.Answer)
	require.Contains(t, r.SameUUID.Detail, "machine copy")
	require.Equal(t, backend.No, r.Writes.Answer)
	require.Contains(t, r.Writes.Detail, "DiskRandomAccess")
	_, err = p.v.Receives(t.Context(), "00000000-0000-4000-8000-000000000000")
	require.ErrorIs(t, err, dr.ErrNotFound)
}

func TestDatastoresThatCantBeWritten(t *testing.T) {
	ref := types.ManagedObjectReference{Type: "Datastore", Value: "ds"}
	m := &machine{disks: []vdisk{{label: "Hard disk 1", datastore: ref}}}
	for _, c := range []struct {
		stores map[types.ManagedObjectReference]types.DatastoreSummary
		want   backend.Answer
	}{
		{map[types.ManagedObjectReference]types.DatastoreSummary{ref: {Accessible: true, MaintenanceMode: "normal"}}, backend.Yes},
		{map[types.ManagedObjectReference]types.DatastoreSummary{ref: {MaintenanceMode: "normal"}}, backend.No},
		{map[types.ManagedObjectReference]types.DatastoreSummary{ref: {Accessible: true, MaintenanceMode: "inMaintenance"}}, backend.No},
		{nil, backend.Unknown},
	} {
		require.Equal(t, c.want, storesFact(m, c.stores).Answer)
	}
}

package vmware

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A machine that is gone is built again, elsewhere and from nothing but a point,
// as it was.
func TestAlternateMatchesTheSavedConfiguration(t *testing.T) {
	home := newVCenter(t, vmwaretest.Options{})
	_, err := home.sim.AddVM(vmwaretest.VMSpec{
		Name: "erp", EFI: true, SecureBoot: true, CPUs: 6, MemoryMB: 4096, GuestID: "rhel8_64Guest", InstanceUUID: "11111111-2222-3333-4444-555555555555",
		UUID: "99999999-2222-3333-4444-555555555555", ChangeTracking: true,
		Disks: []vmwaretest.DiskSpec{{Size: 8 << 20, UUID: "6000C290-0000-0000-0000-00000000000A"}, {Size: 2 << 20, Controller: "lsilogic-sas", UUID: "6000C290-0000-0000-0000-00000000000B"},
			{Size: 1 << 20, Controller: "sata", UUID: "6000C290-0000-0000-0000-00000000000C"}},
		NICs: []vmwaretest.NICSpec{{Network: "production", MAC: "00:50:56:00:00:01"}, {Network: "isolated", Type: "e1000e", MAC: "00:50:56:00:00:02"}},
	})
	require.NoError(t, err)
	v := connect(t, home.o)
	img, err := v.Capture(t.Context(), "11111111-2222-3333-4444-555555555555", "p", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	// The point is all that is left: it went through a store.
	b, err := json.Marshal(img.Point())
	require.NoError(t, err)
	var p dr.Point
	require.NoError(t, json.Unmarshal(b, &p))

	other := newVCenter(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "rebuilt", Hosts: []string{"esx-9"}, Datastores: []vmwaretest.Datastore{{Name: "new"}}, Networks: []string{"servers", "lab"}}}})
	w := connect(t, other.o)
	place := backend.Placement{Key: "alternate", Name: "erp", Machine: p.Machine, Networks: map[string]string{"production": "servers", "isolated": "lab"}}
	r, err := w.Prepare(t.Context(), place)
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: r.ID, New: true}, r)
	got, err := w.Machine(t.Context(), r.ID)
	require.NoError(t, err)

	require.Equal(t, "erp", got.Name)
	require.Equal(t, dr.Off, got.Power)
	require.Equal(t, p.Machine.Firmware, got.Firmware)
	require.True(t, got.SecureBoot)
	require.Equal(t, p.Machine.CPUs, got.CPUs)
	require.Equal(t, p.Machine.Memory, got.Memory)
	require.Equal(t, p.Machine.OS, got.OS)
	require.Len(t, got.Disks, 3)
	for _, want := range p.Machine.Disks {
		d, ok := got.Disk(want.ID)
		require.True(t, ok, "disk %s", want.ID)
		require.Equal(t, want.Size, d.Size)
	}
	require.Len(t, got.NICs, 2)
	for i, n := range []string{"servers", "lab"} {
		require.Equal(t, n, got.NICs[i].Network)
		require.Equal(t, p.Machine.NICs[i].MAC, got.NICs[i].MAC, "it is free here, so it is kept")
	}
	was, err := parseSaved(p.Machine.Config)
	require.NoError(t, err)
	is, err := parseSaved(got.Config)
	require.NoError(t, err)
	require.Equal(t, was.GuestID, is.GuestID)
	require.Equal(t, was.UUID, is.UUID)
	kinds := func(s *saved) (all []string) {
		for _, d := range s.Disks {
			for _, c := range s.Controllers {
				if c.Key == d.Controller {
					all = append(all, string(d.ID)+" on "+c.Type)
				}
			}
		}
		for _, n := range s.NICs {
			all = append(all, n.Type)
		}
		return all
	}
	require.ElementsMatch(t, kinds(was), kinds(is), "controllers and cards are of the same kinds")

	// A drill's machine has nothing by which it could be taken for the original.
	place.Key, place.Name, place.Isolated, place.Networks = "drill", "", true, nil
	d, err := w.Prepare(t.Context(), place)
	require.NoError(t, err)
	drill, err := w.Machine(t.Context(), d.ID)
	require.NoError(t, err)
	for i, n := range drill.NICs {
		require.Empty(t, n.Network)
		require.NotEqual(t, p.Machine.NICs[i].MAC, n.MAC)
	}
	saved, err := parseSaved(drill.Config)
	require.NoError(t, err)
	require.NotEqual(t, was.UUID, saved.UUID)
}

package vmware

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func codes(found []backend.Problem) []string {
	var all []string
	for _, p := range found {
		all = append(all, p.Code)
	}
	return all
}

// Room says before Prepare what Prepare says: of a datastore with 10 MiB left.
func TestRoomIsToldBeforePrepare(t *testing.T) {
	sim, v, _ := world(t)
	require.NoError(t, sim.SetDatastoreSpace("ds-1", 1<<30, 10<<20))
	place := func(size int64, options string) backend.Placement {
		return backend.Placement{Key: "k", Name: "replica", Options: json.RawMessage(options),
			Machine: dr.Machine{ID: "m", CPUs: 1, Memory: 64 << 20, OS: "linux", Firmware: dr.BIOS, Disks: []dr.Disk{{ID: "d", Size: size, Boot: true}}}}
	}
	at := func(ds, more string) string {
		return `{"datacenter":"east","cluster":"C0","datastore":"` + ds + `"` + more + `}`
	}
	for name, c := range map[string]struct {
		p    backend.Placement
		want []string
	}{
		"it fits":             {place(8<<20, at("ds-1", `,"thin":false`)), nil},
		"to the last byte":    {place(10<<20, at("ds-1", `,"thin":false`)), nil},
		"thick, and too big":  {place(16<<20, at("ds-1", `,"thin":false`)), []string{"datastore-full"}},
		"thin, and may grow":  {place(16<<20, at("ds-1", "")), []string{"datastore-space"}},
		"there is no such":    {place(8<<20, at("ds-9", "")), []string{"placement"}},
		"nobody says where":   {place(8<<20, ""), []string{"placement"}},
		"options of no sense": {place(8<<20, `{"no-such":1}`), []string{"placement"}},
		"no key":              {backend.Placement{Options: json.RawMessage(at("ds-1", ""))}, []string{"placement"}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := v.Room(t.Context(), c.p)
			require.NoError(t, err)
			require.Equal(t, c.want, codes(found))
			for _, x := range found {
				require.NotEmpty(t, x.Remedy)
				require.Equal(t, x.Code != "datastore-space", x.Blocker)
			}
		})
	}
	// A replica that is there needs room for what it lacks, and no more.
	p := place(8<<20, at("ds-1", `,"thin":false`))
	_, err := v.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, sim.SetDatastoreSpace("ds-1", 1<<30, 1<<20))
	found, err := v.Room(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, found, "its disk is there, and thick")
	p.Machine.Disks = append(p.Machine.Disks, dr.Disk{ID: "e", Size: 2 << 20})
	found, err = v.Room(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, []string{"datastore-full"}, codes(found))
	p.Machine.Disks = []dr.Disk{{ID: "d", Size: 10 << 20, Boot: true}}
	found, err = v.Room(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, []string{"datastore-full"}, codes(found), "the disk grows by 2 MiB")
}

func TestRoomOfAnOriginal(t *testing.T) {
	p := newPit(t, vmwaretest.Options{}, vmwaretest.VMSpec{Off: true, Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	m, err := p.v.Machine(t.Context(), p.id)
	require.NoError(t, err)
	found, err := p.v.Room(t.Context(), backend.Placement{Original: p.id, Machine: m})
	require.NoError(t, err)
	require.Empty(t, found)
	_, err = p.v.Room(t.Context(), backend.Placement{Original: "00000000-0000-4000-8000-000000000000", Machine: m})
	require.ErrorIs(t, err, dr.ErrNotFound)
}

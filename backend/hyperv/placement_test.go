package hyperv

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestSlots(t *testing.T) {
	os, data, logs := dr.Disk{ID: "os", Size: 512, Boot: true}, dr.Disk{ID: "data", Size: 512}, dr.Disk{ID: "logs", Size: 512}
	had := func(id dr.DiskID, controller string, number, location int) savedDisk {
		return savedDisk{ID: id, Controller: controller, Number: number, Location: location}
	}
	for _, c := range []struct {
		name       string
		disks      []dr.Disk
		saved      saved
		generation int
		taken      map[slot]bool
		want       map[dr.DiskID]slot
	}{
		{"generation 1 boots from IDE", []dr.Disk{data, os}, saved{}, 1, nil, map[dr.DiskID]slot{"os": {"IDE", 0, 0}, "data": {"SCSI", 0, 0}}},
		{"generation 2 has SCSI only", []dr.Disk{os, data}, saved{Disks: []savedDisk{had("data", "IDE", 0, 1)}}, 2, nil, map[dr.DiskID]slot{"os": {"SCSI", 0, 0}, "data": {"SCSI", 0, 1}}},
		{"where they were", []dr.Disk{os, data}, saved{Disks: []savedDisk{had("os", "SCSI", 1, 5), had("data", "SCSI", 0, 63)}}, 2, nil, map[dr.DiskID]slot{"os": {"SCSI", 1, 5}, "data": {"SCSI", 0, 63}}},
		{"nonsense that was saved", []dr.Disk{data}, saved{Disks: []savedDisk{had("data", "SCSI", 9, -1)}}, 2, nil, map[dr.DiskID]slot{"data": {"SCSI", 0, 0}}},
		{"two that were at one place", []dr.Disk{data, logs}, saved{Disks: []savedDisk{had("data", "SCSI", 0, 3), had("logs", "SCSI", 0, 3)}}, 2, nil, map[dr.DiskID]slot{"data": {"SCSI", 0, 3}, "logs": {"SCSI", 0, 0}}},
		{"what is taken", []dr.Disk{data}, saved{}, 2, map[slot]bool{{"SCSI", 0, 0}: true}, map[dr.DiskID]slot{"data": {"SCSI", 0, 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := slots(c.disks, c.saved, c.generation, c.taken)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	var many []dr.Disk
	for i := range maxSCSI*maxLocations + 1 {
		many = append(many, dr.Disk{ID: dr.DiskID(fmt.Sprint(i))})
	}
	_, err := slots(many, saved{}, 2, nil)
	require.ErrorIs(t, err, dr.ErrUnsupported)
	full, err := slots(many[1:], saved{}, 2, nil)
	require.NoError(t, err)
	require.Equal(t, slot{"SCSI", 3, 63}, full["256"])
}

func TestConnections(t *testing.T) {
	lan, san, again := vswitch{"11", "lan", "r1"}, vswitch{"22", "twice", "r2"}, vswitch{"33", "twice", "r3"}
	switches := []vswitch{lan, san, again}
	nic := dr.NIC{ID: "n", MAC: "00:15:5d:01:02:03", Network: "lan"}
	no := false
	for _, c := range []struct {
		name  string
		p     backend.Placement
		o     PlaceOptions
		saved saved
		want  connection
		err   error
	}{
		{name: "as before, by name", want: connection{nic, lan, "00155D010203"}},
		{name: "as before, by the switch it had", saved: saved{Cards: []savedCard{{ID: "n", Switch: "33"}}}, want: connection{nic, again, ""}},
		{name: "an address that was dynamic is not kept", saved: saved{Cards: []savedCard{{ID: "n"}}}, want: connection{nic, lan, ""}},
		{name: "but if that is asked for", saved: saved{Cards: []savedCard{{ID: "n"}}}, p: backend.Placement{Cards: map[string]backend.Card{"n": {MAC: backend.KeepMAC}}}, want: connection{nic, lan, "00155D010203"}},
		{name: "a new one", p: backend.Placement{Cards: map[string]backend.Card{"n": {MAC: backend.NewMAC}}}, want: connection{nic, lan, ""}},
		{name: "not kept by option", o: PlaceOptions{KeepMAC: &no}, want: connection{nic, lan, ""}},
		{name: "a drill's is not connected, nor its address kept", p: backend.Placement{Isolated: true}, want: connection{nic, vswitch{}, ""}},
		{name: "a drill's own switch", p: backend.Placement{Isolated: true}, o: PlaceOptions{IsolatedSwitch: "22"}, want: connection{nic, san, ""}},
		{name: "mapped", p: backend.Placement{Networks: map[string]string{"lan": "33"}}, want: connection{nic, again, "00155D010203"}},
		{name: "mapped to nothing", p: backend.Placement{Networks: map[string]string{"lan": ""}}, want: connection{nic, vswitch{}, "00155D010203"}},
		{name: "a card's word wins", p: backend.Placement{Networks: map[string]string{"lan": ""}, Cards: map[string]backend.Card{"n": {Network: "22"}}}, want: connection{nic, san, "00155D010203"}},
		{name: "unconnected", p: backend.Placement{Cards: map[string]backend.Card{"n": {Unconnected: true}}}, want: connection{nic, vswitch{}, "00155D010203"}},
		{name: "mapped to what isn't there", p: backend.Placement{Networks: map[string]string{"lan": "wan"}}, err: dr.ErrInvalid},
		{name: "mapped to one of two", p: backend.Placement{Networks: map[string]string{"lan": "twice"}}, err: dr.ErrAmbiguous},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.Machine.NICs = []dr.NIC{nic}
			got, err := connections(c.p, c.o, switches, c.saved)
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				require.ErrorContains(t, err, "card n")
				return
			}
			require.NoError(t, err)
			require.Equal(t, []connection{c.want}, got)
		})
	}
}

func TestPlacementsThatAreRefused(t *testing.T) {
	ok := dr.Machine{Disks: []dr.Disk{{ID: "a", Size: 512}}, NICs: []dr.NIC{{ID: "n"}}}
	for name, c := range map[string]struct {
		p    backend.Placement
		want error
	}{
		"no key":       {backend.Placement{Machine: ok}, dr.ErrInvalid},
		"a disk twice": {backend.Placement{Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: 512}, {ID: "a", Size: 512}}}}, dr.ErrInvalid},
		"half sectors": {backend.Placement{Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: 700}}}}, dr.ErrInvalid},
		"too large":    {backend.Placement{Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: maxDisk + 512}}}}, dr.ErrUnsupported},
		"a subnet":     {backend.Placement{Key: "k", Machine: ok, Cards: map[string]backend.Card{"n": {Network: "x", Subnet: "s"}}}, dr.ErrUnsupported},
		"DHCP":         {backend.Placement{Key: "k", Machine: ok, Cards: map[string]backend.Card{"n": {DHCP: true}}}, dr.ErrUnsupported},
		"no such card": {backend.Placement{Key: "k", Machine: ok, Cards: map[string]backend.Card{"m": {}}}, dr.ErrInvalid},
	} {
		require.ErrorIs(t, checkPlacement(c.p), c.want, name)
	}
	require.NoError(t, checkPlacement(backend.Placement{Key: "k", Machine: ok}))
	for _, bad := range []string{`{"folde":"x"}`, `{"generation":3}`, `{} {}`, `[]`} {
		_, err := parseOptions(backend.Placement{Options: json.RawMessage(bad)})
		require.ErrorIs(t, err, dr.ErrInvalid, bad)
	}
}

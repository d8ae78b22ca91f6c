package readiness_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func TestEveryDemandOfAFailback(t *testing.T) {
	group := func(a, b readiness.Member) readiness.Plant { return readiness.Plant{Group: []readiness.Member{a, b}} }
	for _, c := range []struct {
		demand, code string
		good, bad    readiness.Plant
	}{
		{"Temporary process server", "failback-process-server", readiness.Plant{Engine: yes}, readiness.Plant{Engine: no}},
		{"VPN connection or ExpressRoute", "failback-link", readiness.Plant{Link: yes}, readiness.Plant{Link: no}},
		{"Master target: enough room", "failback-room", readiness.Plant{Room: yes}, readiness.Plant{Room: no}},
		{"Master target: can it write the datastore", "failback-datastore", readiness.Plant{Datastore: yes}, readiness.Plant{Datastore: no}},
		{"Blocked: snapshots on the master target", "failback-snapshots", readiness.Plant{Snapshots: no}, readiness.Plant{Snapshots: yes}},
		{"Blocked: duplicate disk UUID", "failback-disk-uuid", readiness.Plant{SameUUID: no}, readiness.Plant{SameUUID: yes}},
		{"Blocked: a read-only account", "failback-account", readiness.Plant{Writes: yes}, readiness.Plant{Writes: no}},
		{"Blocked: deleted or migrated machine", "failback-original", readiness.Plant{Original: yes}, readiness.Plant{Original: no}},
		{"A replication group has one OS type", "failback-group-os", group(readiness.Member{OS: "linux"}, readiness.Member{OS: "linux"}), group(readiness.Member{OS: "linux"}, readiness.Member{OS: "windows"})},
		{"A replication group has one master target", "failback-group-target", group(readiness.Member{Target: "a"}, readiness.Member{Target: "a"}), group(readiness.Member{Target: "a"}, readiness.Member{Target: "b"})},
	} {
		t.Run(c.demand, func(t *testing.T) {
			result := func(p dr.Protection, x readiness.Plant) readiness.Check {
				return find(t, readiness.JudgeFailback(p, x), c.code)
			}
			require.Equal(t, readiness.Passed, result(away, c.good).Result)
			require.Equal(t, readiness.Failed, result(away, c.bad).Result)
			require.NotEmpty(t, result(away, c.bad).Remedy)
			require.Equal(t, readiness.Unknown, result(away, group(readiness.Member{}, readiness.Member{})).Result)
			require.Equal(t, readiness.NotApplicable, result(home, c.bad).Result)
		})
	}
	off := away
	off.State = dr.Unprotected
	require.Equal(t, readiness.Failed, find(t, readiness.JudgeFailback(off, readiness.Plant{}), "failback-protection").Result)
	require.Equal(t, readiness.Passed, find(t, readiness.JudgeFailback(away, readiness.Plant{}), "failback-protection").Result)
}

func TestFailbackAsksBothSites(t *testing.T) {
	cloud, local := memory.New(memory.Options{}), memory.New(memory.Options{})
	disks := []dr.Disk{{ID: "d", Size: 1 << 20}}
	require.NoError(t, cloud.Add(dr.Machine{ID: "r", Disks: disks}))
	require.NoError(t, local.Add(dr.Machine{ID: "m", Disks: disks}))
	e := &replication.Env{Sites: replication.Sites{"azure": {Backend: cloud}, "home": {Backend: reacher{Backend: local,
		found: []backend.Problem{{Code: "privilege-missing", Text: "may not write", Blocker: true}}}}}}
	checks, err := readiness.Failback(t.Context(), e, away, readiness.Plant{}, 0)
	require.NoError(t, err)
	for code, want := range map[string]readiness.Result{"failback-process-server": readiness.Passed, "failback-link": readiness.Passed, "failback-original": readiness.Passed,
		"failback-account": readiness.Failed, "failback-room": readiness.Passed, "failback-snapshots": readiness.Unknown, "home-platform/privilege-missing": readiness.Failed} {
		require.Equal(t, want, find(t, checks, code).Result, code)
	}
	require.NoError(t, local.Destroy("m"))
	checks, err = readiness.Failback(t.Context(), e, away, readiness.Plant{Room: yes}, 0)
	require.NoError(t, err)
	require.Equal(t, readiness.Failed, find(t, checks, "failback-original").Result)
	require.Equal(t, readiness.Passed, find(t, checks, "failback-link").Result)
	require.Equal(t, readiness.Passed, find(t, checks, "failback-room").Result)
}

// receiver tells of the machine at home.
type receiver struct {
	*memory.Backend
	is backend.Reception
}

func (r receiver) Receives(context.Context, dr.MachineID) (backend.Reception, error) {
	return r.is, nil
}

func TestFailbackAsksThePlatformAtHome(t *testing.T) {
	cloud, local := memory.New(memory.Options{}), memory.New(memory.Options{})
	disks := []dr.Disk{{ID: "d", Size: 1 << 20}}
	require.NoError(t, cloud.Add(dr.Machine{ID: "r", Disks: disks}))
	require.NoError(t, local.Add(dr.Machine{ID: "m", Disks: disks}))
	grown := away
	grown.Last.Machine = dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: 1 << 21}}}
	for _, c := range []struct {
		is   backend.Reception
		room int64
		want readiness.Result
	}{
		{backend.Reception{Datastore: yes, Snapshots: no, SameUUID: no, Writes: yes}, -1, readiness.Passed},
		{backend.Reception{Datastore: no, Snapshots: yes, SameUUID: yes, Writes: no}, 0, readiness.Failed},
	} {
		local.SetRoom(c.room)
		e := &replication.Env{Sites: replication.Sites{"azure": {Backend: cloud}, "home": {Backend: receiver{local, c.is}}}}
		checks, err := readiness.Failback(t.Context(), e, grown, readiness.Plant{}, 0)
		require.NoError(t, err)
		for _, code := range []string{"failback-datastore", "failback-snapshots", "failback-disk-uuid", "failback-account", "failback-room"} {
			require.Equal(t, c.want, find(t, checks, code).Result, code)
		}
	}
}

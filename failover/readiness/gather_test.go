package readiness_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func world(t *testing.T) (*replication.Env, *memory.Backend) {
	t.Helper()
	b := memory.New(memory.Options{})
	require.NoError(t, b.Add(dr.Machine{ID: "m", OS: "linux", Power: dr.On, Disks: []dr.Disk{{ID: "d", Size: 1 << 20}}}))
	return &replication.Env{Sites: replication.Sites{"home": {Backend: b}, "azure": {Backend: memory.New(memory.Options{}), Points: memstore.New(memstore.Options{})}}}, b
}

func TestBeforeAsksTheGuestAndTheSites(t *testing.T) {
	e, b := world(t)
	require.NoError(t, b.SetFacts("m", backend.Facts{OS: "linux", RemoteAccess: yes, Firewall: map[string]backend.Fact{"input": no}}))
	require.NoError(t, b.SetProblems("m", backend.Problem{Code: "disk-odd", Text: "odd", Remedy: "even it", Blocker: true}))
	checks, err := readiness.Before(t.Context(), e, home, readiness.Options{})
	require.NoError(t, err)
	require.Equal(t, readiness.Passed, find(t, checks, "linux-sshd-at-boot").Result)
	require.Equal(t, "guest", find(t, checks, "linux-sshd-at-boot").From)
	require.Equal(t, readiness.Failed, find(t, checks, "linux-firewall-ssh").Result)
	require.Equal(t, readiness.Failed, find(t, checks, "source-preflight/disk-odd").Result)
	require.Equal(t, readiness.Unknown, find(t, checks, "target-platform").Result)
}

func TestBeforeAsksForRoom(t *testing.T) {
	e, _ := world(t)
	azure := e.Sites["azure"].Backend.(*memory.Backend)
	before := func(p dr.Protection, o readiness.Options) []readiness.Check {
		checks, err := readiness.Before(t.Context(), e, p, o)
		require.NoError(t, err)
		return checks
	}
	require.Equal(t, readiness.Passed, find(t, before(home, readiness.Options{}), "target-room").Result)
	azure.SetRoom(1<<20 - 1)
	full := find(t, before(home, readiness.Options{}), "target-room/room")
	require.Equal(t, readiness.Failed, full.Result)
	require.Equal(t, readiness.Blocker, full.Severity)
	// The replica that stands by has its disks already.
	r, err := azure.Prepare(t.Context(), backend.Placement{Key: "replica", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: 1 << 20}}}})
	require.NoError(t, err)
	made, given := home, home
	made.Standby.Machine, made.Standby.Key = r.ID, "replica"
	given.Standby.Machine = r.ID
	for _, p := range []dr.Protection{made, given} {
		require.Equal(t, readiness.Passed, find(t, before(p, readiness.Options{}), "target-room").Result)
	}
	find(t, before(home, readiness.Options{Place: backend.Placement{Key: "another"}}), "target-room/room")
	find(t, before(made, readiness.Options{Place: backend.Placement{Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "d", Size: 1 << 22}}}}}), "target-room/room")
	e.Sites["azure"] = replication.Site{Backend: memory.New(memory.Options{NoRoom: true})}
	require.Equal(t, readiness.Unknown, find(t, before(home, readiness.Options{}), "target-room").Result)
}

func TestAGuestThatSaysNothingIsUnknownInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, b := world(t)
		require.NoError(t, b.Hang("m", true))
		begun := time.Now()
		checks, err := readiness.Before(t.Context(), e, home, readiness.Options{Limit: time.Minute})
		require.NoError(t, err)
		require.Equal(t, time.Minute, time.Since(begun))
		c := find(t, checks, "linux-sshd-at-boot")
		require.Equal(t, readiness.Unknown, c.Result)
		require.ErrorContains(t, errors.New(c.Causes[len(c.Causes)-1]), context.DeadlineExceeded.Error())
	})
}

func TestMergeTakesTheFresherAndSaysSo(t *testing.T) {
	old := backend.Facts{From: "point 7", At: time.Unix(100, 0), OS: "linux", RemoteAccess: no, DHCP: yes}
	live := backend.Facts{From: "guest", At: time.Unix(200, 0), RemoteAccess: yes}
	for _, f := range []backend.Facts{readiness.Merge(old, live), readiness.Merge(live, old)} {
		require.Equal(t, backend.Yes, f.RemoteAccess.Answer)
		require.Contains(t, f.RemoteAccess.Detail, "point 7, which is older, says no")
		require.Equal(t, backend.Yes, f.DHCP.Answer)
		require.Contains(t, f.DHCP.Detail, "point 7")
		require.Equal(t, "linux", f.OS)
	}
	require.Equal(t, live, readiness.Merge(live, backend.Facts{}))
}

package fleet_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// A flow of another process holds one machine of a group whose cycle copies for hours:
// that machine's part of it ends by the next listing, whoever has begun the cycle, and
// the others' go on.
func TestAFlowElsewhereStopsItsPartOfAGroupsCycle(t *testing.T) {
	for held := range 3 {
		t.Run(fmt.Sprintf("vm-%d", held), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { stopPart(t, held) })
		})
	}
}

func stopPart(t *testing.T, held int) {
	var rec records
	berlin, store := memory.New(memory.Options{Site: "berlin"}), memstore.New(memstore.Options{})
	env := &replication.Env{Records: fleet.Guard(&rec), Copy: replication.CopyOptions{Limit: rate.NewLimiter(1<<10, 1<<10)}, Sites: replication.Sites{
		"berlin": {Backend: berlin}, "bonn": {Backend: memory.New(memory.Options{Site: "bonn"}), Points: store}}}
	point := func(i int) dr.Point {
		return dr.Point{ID: "flow", Machine: dr.Machine{ID: dr.MachineID(fmt.Sprint("vm-", i)), Disks: []dr.Disk{{ID: "a", Size: 4 << 20}}}}
	}
	for i := range 3 {
		m := point(i).Machine
		m.Power = dr.On
		require.NoError(t, berlin.Add(m))
		require.NoError(t, berlin.Write(m.ID, "a", make1s(4<<20), 0))
		p := replication.New(dr.ProtectionID(m.ID), dr.Place{Site: "berlin", Machine: m.ID}, "bonn")
		p.State, p.Group = dr.Protected, "g"
		_, err := rec.Save(t.Context(), p)
		require.NoError(t, err)
	}
	k, err := fleet.NewKeeper(env, fleet.Layout{Shards: 1}, scheduler.Options{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	defer func() { cancel(); <-done }()
	_, err = k.Keep("0000", 7)
	require.NoError(t, err)
	copied := func(i int) bool { // by a cycle that is under way: the store takes one draft a machine
		d, err := store.Create(t.Context(), point(i))
		if err != nil {
			require.ErrorIs(t, err, dr.ErrBusy)
			return true
		}
		require.NoError(t, d.Close())
		require.NoError(t, store.Delete(t.Context(), point(i).Machine.ID, "flow"))
		return false
	}
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	for i := range 3 {
		require.True(t, copied(i), i)
	}
	_, err = env.Amend(t.Context(), dr.ProtectionID(fmt.Sprint("vm-", held)), func(p *dr.Protection) error { p.Run = "failover-1"; return nil })
	require.NoError(t, err)
	time.Sleep(time.Minute + time.Second)
	synctest.Wait()
	for i := range 3 {
		require.Equal(t, i != held, copied(i), i)
	}
}

// make1s has nothing that is zero.
func make1s(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i%251) + 1
	}
	return b
}

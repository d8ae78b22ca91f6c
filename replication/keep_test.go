package replication_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Keep makes an application-consistent point when one is due, and retention
// follows each cycle. Where a guest can't be quiesced it is asked again after
// the policy's interval, not every time.
func TestKeepFollowsThePolicy(t *testing.T) {
	for _, reach := range []dr.Consistency{dr.ApplicationConsistent, dr.CrashConsistent} {
		t.Run(reach.String(), func(t *testing.T) {
			now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
			clock := func() time.Time { return now }
			w := newWorld(t, memory.Options{Now: clock, Consistency: reach}, memory.Options{}, memstore.Options{})
			r := &record{protected("p")}
			r.p.Policy = "own"
			r.p.Upkeep = dr.Upkeep{Failures: 3, Err: "gone"}
			env := &replication.Env{Records: r, Now: clock, Sites: replication.Sites{"home": {Backend: w.home}, "away": {Backend: w.away, Points: w.store}}}
			set := replication.Policies{"own": {Every: 10 * time.Minute, Forward: recoverypoint.Policy{Keep: 35 * time.Minute, ApplicationEvery: 30 * time.Minute}}}
			var got []dr.Consistency
			var asked int
			var gone []dr.PointID
			for range 7 {
				kept, err := env.Keep(t.Context(), "p", set, replication.KeepOptions{})
				require.NoError(t, err)
				require.Zero(t, r.p.Upkeep.Failures, "a good cycle ends what is remembered of bad ones")
				got = append(got, kept.Point.Consistency)
				if r.p.Upkeep.Asked.Equal(now) {
					asked++
				}
				gone = append(gone, kept.Expired...)
				now = now.Add(10 * time.Minute)
			}
			require.Len(t, gone, 3)
			if reach == dr.CrashConsistent {
				require.Equal(t, 3, asked)
				return
			}
			a, c := dr.ApplicationConsistent, dr.CrashConsistent
			require.Equal(t, []dr.Consistency{a, c, c, a, c, c, a}, got)
		})
	}
}

// A record that wants a resync has whole disks compared, once.
func TestReplicateHonoursResyncRequired(t *testing.T) {
	w := newWorld(t, memory.Options{}, memory.Options{}, memstore.Options{})
	r := &record{protected("p")}
	env := &replication.Env{Records: r, Sites: replication.Sites{"home": {Backend: w.home}, "away": {Backend: w.away, Points: w.store}}}
	_, err := env.Replicate(t.Context(), "p", dr.CrashConsistent, nil)
	require.NoError(t, err)
	r.p.Replication = dr.ResyncRequired
	require.NoError(t, env.Pause(t.Context(), "p"))
	require.NoError(t, env.Resume(t.Context(), "p"), "a pause forgets nothing")
	rep, err := env.Replicate(t.Context(), "p", dr.CrashConsistent, nil)
	require.NoError(t, err)
	require.Equal(t, []dr.DiskID{"a", "b"}, rep.Full)
	require.Equal(t, dr.ReplicationIdle, r.p.Replication)
}

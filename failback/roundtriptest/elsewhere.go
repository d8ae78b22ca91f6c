package roundtriptest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Elsewhere is where a machine comes home to, in place of where it came from.
type Elsewhere struct {
	End
	// Machine is one that is there to be used; "" has one made.
	Machine dr.MachineID
	// Last, if set, has the guest write what it will come home with.
	Last func(t *testing.T, tr *Trip, away dr.MachineID)
	// Ready is how many bytes at the beginning of each disk the platform may
	// change when it makes a disk ready to start from.
	Ready int
}

// OutAndElsewhere takes a machine out, and home to a third place that has nothing
// of it: all of it travels there once, and then only what changes. Bytes are
// compared where it runs, and what is written on the way back is counted.
func OutAndElsewhere(t *testing.T, home, far End, to Elsewhere) *Trip {
	written := meter(&to.End)
	tr := New(t, home, far, to.End)
	m, disks := tr.Machine, tr.Disks

	stop := home.Guest(21, m, disks)
	tr.Must(replication.Protect(tr.Record()))
	tr.Cycle()
	st := tr.Must(failover.Planned(tr.Record(), failover.Options{Where: far.Where}))
	stop()
	require.True(t, Result[failover.Report](t, st, failover.StepFinish).Loss.None)
	away := tr.Record().Active.Machine
	Same(t, home.Content(t, m, disks), far.Content(t, away, disks), "failed over")
	tr.Must(failover.Commit(tr.Record(), failover.CommitOptions{}))
	left := home.Content(t, m, disks)

	// The way back is to another place, where nothing of it is known.
	far.Scribble(t, away, disks[0], 6)
	p, err := failback.Elsewhere(tr.Record(), dr.Place{Site: to.Name, Machine: to.Machine})
	require.NoError(t, err)
	_, err = tr.Engine.Save(t.Context(), p)
	require.NoError(t, err)
	st = tr.Must(failback.Reprotect(tr.Record(), failback.ReprotectOptions{Where: to.Where}))
	back := Result[failback.Reprotected](t, st, failover.StepFinish)
	require.True(t, back.Warm, "its disks hold the first point")
	require.Equal(t, to.Name, tr.Record().Standby.Site)
	if to.Machine != "" {
		require.Equal(t, to.Machine, tr.Record().Standby.Machine)
		require.Zero(t, back.Seed.Written, "what was on given-up disks is nobody's base")
	}
	first := written.Load()
	require.LessOrEqual(t, first, tr.size())
	require.Greater(t, first, tr.size()/4)
	t.Logf("reprotected: %d bytes written there, of %d", first, tr.size())

	// From now on there is a base: only what changed.
	changed := far.Scribble(t, away, disks[1], 4)
	if to.Last != nil {
		to.Last(t, tr, away)
		changed += 2 * 128 << 10
	}
	written.Store(0)
	st = tr.Must(failback.Failback(tr.Record(), failback.Options{Options: failover.Options{Where: to.Where}}))
	rep := Result[failover.Report](t, st, failover.StepFinish)
	require.True(t, rep.Loss.None)
	require.LessOrEqual(t, written.Load(), changed, "only what changed since is written")
	require.NotZero(t, written.Load())
	t.Logf("failed back: %d bytes written there, of %d", written.Load(), tr.size())
	require.True(t, tr.Record().AtHome())
	now := tr.Record().Active
	require.Equal(t, to.Name, now.Site)
	want, got := far.Content(t, away, disks), to.Content(t, now.Machine, disks)
	for id := range want {
		clear(want[id][:to.Ready])
		clear(got[id][:to.Ready])
	}
	Same(t, want, got, "failed back")
	tr.Must(failover.Commit(tr.Record(), failover.CommitOptions{}))
	_, err = far.Backend.Machine(t.Context(), away)
	require.ErrorIs(t, err, dr.ErrNotFound, "the machine that was left is removed")
	Same(t, left, home.Content(t, m, disks), "the machine that it came from is left as it was")

	// Protected again, by what changed, and by what the disks are larger.
	is, err := to.Backend.Machine(t.Context(), now.Machine)
	require.NoError(t, err)
	changed = to.Scribble(t, now.Machine, disks[0], 3)
	for _, d := range disks {
		have, ok := is.Disk(d.ID)
		require.True(t, ok, "disk %s has its name", d.ID)
		changed += have.Size - d.Size
		if to.Ready > 0 {
			changed += 64 << 10
		}
	}
	st = tr.Must(failback.Reprotect(tr.Record(), failback.ReprotectOptions{Where: far.Where}))
	again := Result[failback.Reprotected](t, st, failover.StepFinish)
	require.LessOrEqual(t, again.First.Read, changed, "only what changed is read")
	return tr
}

package roundtriptest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Platform makes sites of one kind.
type Platform struct {
	Name string
	// End makes a new site of that name, which goes away with the test.
	End func(t *testing.T, name string) End
}

// Matrix takes a machine out and home between every two different platforms, in
// both directions: see [OutAndHome]. The pairs run side by side.
func Matrix(t *testing.T, platforms ...Platform) {
	for _, home := range platforms {
		for _, far := range platforms {
			if home.Name == far.Name {
				continue
			}
			t.Run(home.Name+" to "+far.Name, func(t *testing.T) {
				t.Parallel()
				OutAndHome(t, home.End(t, "home"), far.End(t, "far"))
			})
		}
	}
}

// OutAndHome is the short way of [Run]: protection, planned failover, commit,
// reprotection, failback, commit and reprotection again, while the guest writes
// on whichever side it is. Bytes are compared at each end, and those that are
// written to the platform at home on the way back are counted there: they may be
// no more than what the guest has written since, in blocks of 64 KiB.
func OutAndHome(t *testing.T, home, far End) {
	written := meter(&home)
	tr := New(t, home, far)
	m, disks := tr.Machine, tr.Disks

	stop := home.Guest(11, m, disks)
	tr.Must(replication.Protect(tr.Record()))
	tr.Cycle()
	stop()
	tr.Cycle()
	changed := home.Scribble(t, m, disks[0], 5)
	require.LessOrEqual(t, tr.Cycle().Read, changed, "only what the guest changed is read")

	// Out.
	stop = home.Guest(12, m, disks)
	st := tr.Must(failover.Planned(tr.Record(), failover.Options{Where: far.Where}))
	stop()
	require.True(t, Result[failover.Report](t, st, failover.StepFinish).Loss.None)
	away := tr.Record().Active.Machine
	Same(t, home.Content(t, m, disks), far.Content(t, away, disks), "failed over")
	tr.Must(failover.Commit(tr.Record(), failover.CommitOptions{}))

	// The way back is prepared: the machine at home still has its disks.
	changed = far.Scribble(t, away, disks[0], 6) + far.Scribble(t, away, disks[1], 3)
	written.Store(0)
	st = tr.Must(failback.Reprotect(tr.Record(), failback.ReprotectOptions{}))
	back := Result[failback.Reprotected](t, st, failover.StepFinish)
	require.LessOrEqual(t, back.First.Written, changed, "only what changed travels")
	require.LessOrEqual(t, written.Load(), changed, "only what changed is written to the original")
	require.NotZero(t, written.Load())
	t.Logf("reprotected: %d bytes written at home, of %d", written.Load(), tr.size())

	// Home, without loss.
	changed = far.Scribble(t, away, disks[1], 4)
	written.Store(0)
	st = tr.Must(failback.Failback(tr.Record(), failback.Options{}))
	rep := Result[failover.Report](t, st, failover.StepFinish)
	require.True(t, rep.Loss.None)
	require.LessOrEqual(t, rep.Copied.Written, changed)
	require.LessOrEqual(t, written.Load(), changed, "only what changed since is written to the original")
	require.NotZero(t, written.Load())
	t.Logf("failed back: %d bytes written at home, of %d", written.Load(), tr.size())
	require.True(t, tr.Record().AtHome())
	require.Equal(t, m, tr.Record().Active.Machine)
	Same(t, far.Content(t, away, disks), home.Content(t, m, disks), "failed back")
	tr.Must(failover.Commit(tr.Record(), failover.CommitOptions{}))
	_, err := far.Backend.Machine(t.Context(), away)
	require.ErrorIs(t, err, dr.ErrNotFound, "the machine that was left is removed")

	// Protected again.
	changed = home.Scribble(t, m, disks[0], 3)
	st = tr.Must(failback.Reprotect(tr.Record(), failback.ReprotectOptions{Where: far.Where}))
	again := Result[failback.Reprotected](t, st, failover.StepFinish)
	require.LessOrEqual(t, again.First.Read, changed, "only what changed is read")
	if home.Clean != nil {
		home.Clean(t, m)
	}
}

// meter counts the bytes that are written to an end's machines.
func meter(e *End) *atomic.Int64 {
	m := &metered{Backend: e.Backend, written: new(atomic.Int64)}
	e.Backend = m
	return m.written
}

type metered struct {
	backend.Backend
	written *atomic.Int64
}

func (m *metered) Unwrap() any { return m.Backend }

func (m *metered) Draft(ctx context.Context, id dr.MachineID, p dr.Point) (dr.Draft, error) {
	d, err := m.Backend.Draft(ctx, id, p)
	if err != nil {
		return nil, err
	}
	return &meteredDraft{d, m.written}, nil
}

type meteredDraft struct {
	dr.Draft
	written *atomic.Int64
}

func (d *meteredDraft) Unwrap() any { return d.Draft }

func (d *meteredDraft) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	n, err := d.Draft.WriteAt(ctx, disk, p, off)
	d.written.Add(int64(n))
	return n, err
}

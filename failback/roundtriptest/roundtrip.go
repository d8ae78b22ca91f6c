// Package roundtriptest is what any two backends must pass together: one machine
// on the whole cycle of protection, drill, failover, another point, commit,
// reprotection, failback, commit and reprotection, while its guest writes, with
// every byte compared and every delta measured.
//
//	func TestRoundTrip(t *testing.T) {
//		roundtriptest.Run(t, roundtriptest.End{Name: "home", Harness: mine}, roundtriptest.End{Name: "far", Harness: theirs})
//	}
//
// [Matrix] takes the short way between every two of several platforms, and
// [OutAndElsewhere] comes home to a third place.
//
// A backend's own promises are package backendtest's.
package roundtriptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// End is a site, with the hands of its platform.
type End struct {
	backendtest.Harness
	Name string
	// Points is the site's store; nil: a vault in a temporary folder.
	Points recoverypoint.PointStore
	// Clean, if set, requires that nothing of ours is left on a machine that
	// has come home.
	Clean func(t *testing.T, id dr.MachineID)
	// Where says how machines are made at this site.
	Where failover.Where
}

// Guest writes to a machine's disks until stopped, or until the machine is off.
func (e End) Guest(seed uint64, id dr.MachineID, disks []dr.Disk) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-quit:
				return
			default:
			}
			d := disks[rnd.IntN(len(disks))]
			p := make([]byte, 512*(1+rnd.IntN(16)))
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			if e.Write(id, d.ID, p, rnd.Int64N((d.Size-int64(len(p)))/512)*512) != nil {
				return // it is off
			}
		}
	})
	return func() { close(quit); wg.Wait() }
}

// Scribble lets the guest write n sectors, far from each other, and returns how
// many bytes that is at most to a tracker of 64 KiB.
func (e End) Scribble(t *testing.T, id dr.MachineID, d dr.Disk, n int) (bound int64) {
	for i := range n {
		p := bytes.Repeat([]byte{byte(i + 1)}, 512)
		require.NoError(t, e.Write(id, d.ID, p, d.Size/int64(n)/512*512*int64(i)))
	}
	return int64(n) * 64 << 10
}

// Content reads the disks of a machine that is off.
func (e End) Content(t *testing.T, id dr.MachineID, disks []dr.Disk) map[dr.DiskID][]byte {
	t.Helper()
	all := map[dr.DiskID][]byte{}
	for _, d := range disks {
		all[d.ID] = make([]byte, d.Size)
		require.NoError(t, e.Read(id, d.ID, all[d.ID], 0))
	}
	return all
}

// Same requires that disks are equal, and says where they aren't.
func Same(t *testing.T, want, got map[dr.DiskID][]byte, what string) {
	t.Helper()
	for id := range want {
		for i := range want[id] {
			if want[id][i] != got[id][i] {
				require.Fail(t, fmt.Sprintf("%s: disk %s differs from %d on", what, id, i))
			}
		}
	}
}

// Trip is one machine between two ends, with vaults and an engine.
type Trip struct {
	Home, Far End
	Env       *replication.Env
	Engine    *embedded.Engine
	Machine   dr.MachineID // at home
	Disks     []dr.Disk

	t    *testing.T
	runs int
}

// New protects nothing yet: it makes a running machine at home, and an engine that
// serves both sites, and others, until the test ends.
func New(t *testing.T, home, far End, others ...End) *Trip {
	tr := &Trip{t: t, Home: home, Far: far, Disks: []dr.Disk{{ID: "os", Size: 4 << 20, Boot: true}, {ID: "data", Size: 3<<20 + 1024}}}
	all := append([]End{home, far}, others...)
	for _, x := range all {
		if u := x.SizeUnit; u > 512 {
			tr.Disks[1].Size = (tr.Disks[1].Size + u - 1) / u * u
		}
	}
	e, err := embedded.Open(filepath.Join(t.TempDir(), "journal.db"), embedded.Options{BackoffFirst: 1, BackoffMost: 1})
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	tr.Engine = e
	sites := replication.Sites{}
	for _, x := range all {
		points := x.Points
		if points == nil {
			v, err := vault.OpenDir(t.TempDir(), vault.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { v.Close() })
			points = v
		}
		sites[x.Name] = replication.Site{Backend: x.Backend, Points: points}
	}
	tr.Env = &replication.Env{Records: e, Sites: sites}
	actions, err := dr.Merge(replication.Actions(tr.Env), failover.Actions(tr.Env), failback.Actions(tr.Env))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Serve(ctx, actions) }()
	t.Cleanup(func() { cancel(); <-done })
	tr.Machine, err = home.Machine(t, tr.Disks)
	require.NoError(t, err)
	made, err := home.Backend.Machine(t.Context(), tr.Machine)
	require.NoError(t, err)
	tr.Disks = made.Disks // by the names that the platform gives them
	require.NoError(t, home.Power(tr.Machine, dr.On))
	_, err = e.Save(t.Context(), replication.New("app", dr.Place{Site: home.Name, Machine: tr.Machine}, far.Name))
	require.NoError(t, err)
	return tr
}

// Record is the protection as it is now.
func (tr *Trip) Record() dr.Protection {
	tr.t.Helper()
	p, err := tr.Engine.Load(tr.t.Context(), "app")
	require.NoError(tr.t, err)
	return p
}

// Must runs a plan to its good end.
func (tr *Trip) Must(p dr.Plan, err error) dr.Status {
	tr.t.Helper()
	require.NoError(tr.t, err)
	tr.runs++
	run := dr.RunID(fmt.Sprintf("%02d-%s", tr.runs, p.Flow))
	require.NoError(tr.t, tr.Engine.Start(tr.t.Context(), run, p))
	st, err := dr.Wait(tr.t.Context(), tr.Engine, run, nil)
	require.NoError(tr.t, err)
	require.Equal(tr.t, dr.RunDone, st.State, "%s: %s\n%+v", st.Flow, st.Reason, st.Steps)
	return st
}

// Cycle replicates once.
func (tr *Trip) Cycle() replication.Report {
	tr.t.Helper()
	r, err := tr.Env.Replicate(tr.t.Context(), "app", dr.CrashConsistent, nil)
	require.NoError(tr.t, err)
	return r
}

// Result decodes a step's result.
func Result[T any](t *testing.T, st dr.Status, step string) (v T) {
	t.Helper()
	s, ok := st.Step(step)
	require.True(t, ok, "step %s", step)
	require.NoError(t, json.Unmarshal(s.Result, &v))
	return v
}

func (tr *Trip) size() (n int64) {
	for _, d := range tr.Disks {
		n += d.Size
	}
	return n
}

// Run takes a machine from home to far and back.
func Run(t *testing.T, home, far End) { New(t, home, far).run() }

func (tr *Trip) run() {
	t, home, far, m, disks := tr.t, tr.Home, tr.Far, tr.Machine, tr.Disks
	stop := home.Guest(1, m, disks)
	tr.Must(replication.Protect(tr.Record()))
	for range 3 {
		tr.Cycle()
	}
	stop()
	tr.Cycle() // what was written since counts into this one
	home.Scribble(t, m, disks[0], 5)
	rep := tr.Cycle()
	require.LessOrEqual(t, rep.Read, int64(5*64<<10), "only what the guest changed is read")
	stop = home.Guest(2, m, disks)

	// A drill, which production doesn't notice.
	drill, err := failover.Test(tr.Record(), "drill", failover.Options{Where: far.Where})
	require.NoError(t, err)
	require.NoError(t, tr.Engine.Start(t.Context(), "drill", drill))
	st, err := dr.Wait(t.Context(), tr.Engine, "drill", nil)
	require.NoError(t, err)
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	drilled := tr.Record().Test.Place.Machine
	tr.Cycle()
	tr.Must(failover.CleanUp(tr.Record(), "fine"))
	_, err = far.Backend.Machine(t.Context(), drilled)
	require.ErrorIs(t, err, dr.ErrNotFound)

	// Out, while the guest writes until it is shut down: nothing is lost.
	st = tr.Must(failover.Planned(tr.Record(), failover.Options{Where: far.Where}))
	stop()
	require.True(t, Result[failover.Report](t, st, failover.StepFinish).Loss.None)
	away := tr.Record().Active.Machine
	last := home.Content(t, m, disks)
	Same(t, last, far.Content(t, away, disks), "failed over")

	// Another point, and back; what the guest wrote meanwhile is undone.
	first := tr.firstPoint(far.Name, m)
	// The guest must not write any more when the machine starts again.
	far.Scribble(t, away, disks[1], 7)
	tr.Must(failover.ChangePoint(tr.Record(), recoverypoint.Choice{Option: recoverypoint.Custom, Point: first}, failover.Options{}))
	Same(t, tr.pointContent(far.Name, m, first), far.Content(t, away, disks), "another point")
	far.Scribble(t, away, disks[0], 7)
	tr.Must(failover.ChangePoint(tr.Record(), recoverypoint.Choice{}, failover.Options{}))
	Same(t, last, far.Content(t, away, disks), "the latest point again")
	tr.Must(failover.Commit(tr.Record(), failover.CommitOptions{}))

	// Both sides change before the way back: only that travels.
	changed := far.Scribble(t, away, disks[0], 6)
	require.NoError(t, home.Power(m, dr.On))
	changed += home.Scribble(t, m, disks[1], 6)
	st = tr.Must(failback.Reprotect(tr.Record(), failback.ReprotectOptions{}))
	back := Result[failback.Reprotected](t, st, failover.StepFinish)
	require.LessOrEqual(t, back.First.Written, changed, "only what either side changed travels")
	require.Less(t, back.First.Read, tr.size())
	hydrated := Result[replication.Report](t, st, failover.StepHydrate)
	require.LessOrEqual(t, hydrated.Written, changed, "only what either side changed is written to the original")
	require.Empty(t, hydrated.Full)
	stop = far.Guest(5, away, disks)
	tr.Cycle()

	// Home, to the machine that it was, without loss.
	st = tr.Must(failback.Failback(tr.Record(), failback.Options{}))
	stop()
	require.True(t, Result[failover.Report](t, st, failover.StepFinish).Loss.None)
	require.True(t, tr.Record().AtHome())
	require.Equal(t, m, tr.Record().Active.Machine)
	Same(t, far.Content(t, away, disks), home.Content(t, m, disks), "failed back")
	tr.Must(failover.Commit(tr.Record(), failover.CommitOptions{}))
	_, err = far.Backend.Machine(t.Context(), away)
	require.ErrorIs(t, err, dr.ErrNotFound, "the machine that was left is removed")

	// And protected again, by deltas.
	changed = home.Scribble(t, m, disks[0], 3)
	stop = func() {}
	st = tr.Must(failback.Reprotect(tr.Record(), failback.ReprotectOptions{}))
	again := Result[failback.Reprotected](t, st, failover.StepFinish)
	require.LessOrEqual(t, again.First.Read, changed)
	stop()
	if home.Clean != nil {
		home.Clean(t, m)
	}
}

func (tr *Trip) firstPoint(site string, m dr.MachineID) dr.PointID {
	for p, err := range tr.Env.Sites[site].Points.List(tr.t.Context(), m) {
		require.NoError(tr.t, err)
		return p.ID
	}
	require.Fail(tr.t, "no points")
	return ""
}

func (tr *Trip) pointContent(site string, m dr.MachineID, p dr.PointID) map[dr.DiskID][]byte {
	img, err := tr.Env.Sites[site].Points.Open(tr.t.Context(), m, p)
	require.NoError(tr.t, err)
	defer img.Close()
	all := map[dr.DiskID][]byte{}
	for _, d := range tr.Disks {
		all[d.ID] = make([]byte, d.Size)
		if _, err := img.ReadAt(tr.t.Context(), d.ID, all[d.ID], 0); err != io.EOF {
			require.NoError(tr.t, err)
		}
	}
	return all
}

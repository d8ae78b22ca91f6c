package drillreport_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// world is two sites in memory with the machines of a plan, protected.
type world struct {
	*testing.T
	plan     recoveryplan.Plan
	hq, away *memory.Backend
	engine   *embedded.Engine
	hang     bool // guests at away give no sign of life
}

func newWorld(t *testing.T, p recoveryplan.Plan, calls map[string]recoveryplan.Callback) *world {
	w := &world{T: t, plan: p, hq: memory.New(memory.Options{}), away: memory.New(memory.Options{Site: "away"})}
	engine, err := embedded.Open(filepath.Join(t.TempDir(), "journal.db"), embedded.Options{BackoffFirst: 1, BackoffMost: 1})
	require.NoError(t, err)
	w.engine = engine
	env := &replication.Env{Records: engine, Sites: replication.Sites{
		"hq":   {Backend: w.hq, Points: memstore.New(memstore.Options{})},
		"away": {Backend: backendtest.Wrap(w.away, w.hung), Points: memstore.New(memstore.Options{})},
	}}
	all, err := dr.Merge(replication.Actions(env), failover.Actions(env), failback.Actions(env),
		recoveryplan.Actions(&recoveryplan.Env{Replication: env, Runs: engine, Callbacks: calls}))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Serve(ctx, all) }()
	t.Cleanup(func() {
		stop()
		<-done
		require.NoError(t, engine.Close())
	})
	for _, id := range p.Machines() {
		m := dr.MachineID(id)
		require.NoError(t, w.hq.Add(dr.Machine{ID: m, Name: string(id) + ".example.org", Power: dr.On, Disks: []dr.Disk{{ID: "a", Size: 256 << 10, Boot: true}}}))
		require.NoError(t, w.hq.Write(m, "a", []byte("orders"), 4096))
		rec, err := engine.Save(t.Context(), replication.New(id, dr.Place{Site: "hq", Machine: m}, "away"))
		require.NoError(t, err)
		pl, err := replication.Protect(rec)
		w.run(dr.RunID("protect-"+id), pl, err)
	}
	return w
}

func (w *world) hung(_ context.Context, c backendtest.Call, do func() error) error {
	if at, err := w.away.Placement(c.Machine); w.hang && c.Op == backendtest.OpProbe && err == nil && at.Machine.ID == "web1" {
		return errors.New("no heartbeat")
	}
	return do()
}

func (w *world) records() (all []dr.Protection) {
	for p, err := range w.engine.Protections(w.Context()) {
		require.NoError(w, err)
		all = append(all, p)
	}
	return all
}

func (w *world) run(id dr.RunID, p dr.Plan, err error) dr.Status {
	w.Helper()
	require.NoError(w, err)
	require.NoError(w, w.engine.Start(w.Context(), id, p))
	st, err := dr.Wait(w.Context(), w.engine, id, func(s dr.Status) {
		for _, x := range s.Steps {
			if x.State == dr.StepWaiting && x.Gate != "" {
				_ = w.engine.Decide(w.Context(), id, x.ID, dr.Decision{Verdict: dr.Approve, By: "anna", Note: "seen"})
			}
		}
	})
	require.NoError(w, err)
	return st
}

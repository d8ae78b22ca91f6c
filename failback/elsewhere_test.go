package failback_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// A machine that was rebuilt is there already, with something on its disks: all
// ways of bringing the machine home to it.
func TestHomeToARebuiltMachine(t *testing.T) {
	for _, sync := range []failback.Sync{failback.FromPoints, failback.Before, failback.During} {
		t.Run("synchronize "+string(sync), func(t *testing.T) {
			w := newWorld(t, memory.Options{}, memory.Options{})
			w.serve(nil)
			w.protect()
			w.must(failover.Planned(w.record(), failover.Options{}))
			w.must(failover.Commit(w.record(), failover.CommitOptions{}))
			former := w.disks(hq, vm)
			const rebuilt = dr.MachineID("rebuilt")
			require.NoError(t, w.hosts[hq].Add(dr.Machine{ID: rebuilt, Power: dr.Off, Disks: []dr.Disk{{ID: "a", Size: sizes["a"], Boot: true}, {ID: "b", Size: sizes["b"]}}}))
			require.NoError(t, w.hosts[hq].Power(rebuilt, dr.On))
			w.fill(hq, rebuilt)
			require.NoError(t, w.hosts[hq].Power(rebuilt, dr.Off))
			p, err := failback.Elsewhere(w.record(), dr.Place{Site: hq, Machine: rebuilt})
			require.NoError(t, err)
			_, err = w.engine.Save(t.Context(), p)
			require.NoError(t, err)
			from := w.record().Active.Machine
			w.scribble(away, from, 3)
			if sync == failback.FromPoints {
				w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
				w.scribble(away, from, 3)
			}
			last := w.disks(away, from)
			w.must(failback.Failback(w.record(), failback.Options{Sync: sync}))
			require.Equal(t, dr.Place{Site: hq, Machine: rebuilt}, w.record().Active)
			require.True(t, w.record().AtHome())
			w.same(last, w.disks(hq, rebuilt))
			w.same(former, w.disks(hq, vm))
			w.must(failover.Commit(w.record(), failover.CommitOptions{}))
			w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
		})
	}
}

func TestWhenAMachineMayComeHomeElsewhere(t *testing.T) {
	base := dr.Protection{ID: "a", Home: "hq", Active: dr.Place{Site: "cloud", Machine: "m2", Key: "k"},
		Standby: dr.Place{Site: "hq", Machine: "m1"}, State: dr.Committed,
		Common: dr.Point{ID: "c"}, Pins: map[dr.PointID]string{"c": "other,standby"}}
	to := dr.Place{Site: "vsphere"}
	p, err := failback.Elsewhere(base, to)
	require.NoError(t, err)
	require.Equal(t, "vsphere", p.Home)
	require.Equal(t, to, p.Standby)
	require.Equal(t, base.Active, p.Active)
	require.Zero(t, p.Common, "its disks have nothing in common with the machine's")
	require.Equal(t, map[dr.PointID]string{"c": "other"}, p.Pins)
	require.Equal(t, "other,standby", base.Pins["c"], "the record that was given is left")
	pl, err := failback.Reprotect(p, failback.ReprotectOptions{})
	require.NoError(t, err)
	for _, s := range pl.Steps {
		require.NotEqual(t, "hq", s.Queue, "step %s", s.ID)
	}
	// To where it came from is no change.
	p, err = failback.Elsewhere(base, base.Standby)
	require.NoError(t, err)
	require.Equal(t, base, p)
	// To another machine at home: a rebuilt one.
	p, err = failback.Elsewhere(base, dr.Place{Site: "hq", Machine: "new"})
	require.NoError(t, err)
	require.EqualValues(t, "new", p.Standby.Machine)
	require.Zero(t, p.Common)

	for name, c := range map[string]struct {
		edit func(*dr.Protection, *dr.Place)
		is   error
	}{
		"no site":     {func(_ *dr.Protection, to *dr.Place) { to.Site = "" }, dr.ErrInvalid},
		"a key":       {func(_ *dr.Protection, to *dr.Place) { to.Key = "k" }, dr.ErrInvalid},
		"where it is": {func(_ *dr.Protection, to *dr.Place) { to.Site = "cloud" }, dr.ErrInvalid},
		"protected":   {func(p *dr.Protection, _ *dr.Place) { p.State = dr.Protected }, dr.ErrNotAllowed},
		"at home":     {func(p *dr.Protection, _ *dr.Place) { p.Swap() }, dr.ErrNotAllowed},
		"held":        {func(p *dr.Protection, _ *dr.Place) { p.Run = "r" }, dr.ErrNotAllowed},
		"a drill":     {func(p *dr.Protection, _ *dr.Place) { p.Test = &dr.TestFailover{} }, dr.ErrNotAllowed},
	} {
		p, to := base, to
		c.edit(&p, &to)
		_, err := failback.Elsewhere(p, to)
		require.ErrorIs(t, err, c.is, name)
	}
}

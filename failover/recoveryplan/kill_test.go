package recoveryplan_test

import (
	"context"
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

var killEvery = flag.Int("kill-every", 7, "kill the process at every n-th write to the journal")

// The process dies at a write to the journal, before or behind it, and another
// goes on: the plan comes to the same end, and no machine runs twice.
func TestKilledAtAnyWrite(t *testing.T) {
	small := recoveryplan.Plan{Name: "small", Groups: []recoveryplan.Group{
		{Name: "data", Machines: machines("db1")},
		{Name: "front", Machines: machines("web1", "web2")},
	}}
	for _, c := range []struct {
		name string
		run  func(*world) (dr.Plan, error)
		end  func(*world)
	}{
		{"planned", func(w *world) (dr.Plan, error) {
			return recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{})
		}, func(w *world) { w.everywhere(away) }},
		{"drill", func(w *world) (dr.Plan, error) {
			return recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{})
		}, func(w *world) {
			w.everywhere(hq)
			require.Empty(w, w.all(away))
		}},
		{"taken back", func(w *world) (dr.Plan, error) {
			p := w.plan
			p.After = []recoveryplan.Action{{Name: "no", Callback: "no"}}
			return recoveryplan.Planned(p, w.records(), recoveryplan.Options{})
		}, func(w *world) { w.everywhere(hq) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			deaths, most := 0, 0
			every := int64(*killEvery)
			if testing.Short() {
				every *= 4
			}
			for n := int64(1); ; n += every {
				died := false
				t.Run(fmt.Sprint(n), func(t *testing.T) { died = killed(t, small, n, c.run, c.end) })
				if !died || t.Failed() {
					break
				}
				deaths++
			}
			if most = 3; !testing.Short() {
				most = 10
			}
			t.Logf("died %d times", deaths)
			require.Greater(t, deaths, most)
		})
	}
}

func killed(t *testing.T, p recoveryplan.Plan, n int64, run func(*world) (dr.Plan, error), end func(*world)) (died bool) {
	w := newWorld(t, p)
	w.calls["no"] = func(context.Context, recoveryplan.Context) (any, error) { return nil, errBroken }
	w.protect()
	was := w.contents()
	w.end()
	w.killAt = n
	w.open()
	w.killAt = 0
	pl, err := run(w)
	require.NoError(t, err)
	id := dr.RunID("r")
	if err := w.engine.Start(t.Context(), id, pl); err != nil {
		w.crash()
		if _, err := w.engine.Status(t.Context(), id); err != nil {
			require.NoError(t, w.engine.Start(t.Context(), id, pl)) // it was not recorded
		}
		died = true
	} else if _, err := dr.Wait(t.Context(), w.engine, id, nil); err != nil {
		<-w.life.killed
		w.crash()
		died = true
	}
	st := w.wait(id)
	if _, fails := pl.Step("after/no"); !fails {
		require.Equal(t, dr.RunDone, st.State, st.Reason)
	}
	end(w)
	w.same(was)
	for _, r := range w.records() {
		require.Empty(t, r.Run, "%s is held", r.ID)
	}
	return died
}

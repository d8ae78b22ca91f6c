package suspicion_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/suspicion"
)

// scale multiplies points and runs; LIFEBOAT_FIGURES sets it for the table in
// docs/decisions/0021.
func scale() int {
	n, _ := strconv.Atoi(os.Getenv("LIFEBOAT_FIGURES"))
	return n
}

func start(t *testing.T, seed uint64, docs int64, options string) *worker {
	w := &worker{newMachine(t, 384<<20, options), rand.New(rand.NewPCG(seed, 21))}
	w.populate("docs", docs)
	w.text(w.at("log", "app.log"), 8<<20)
	return w
}

// alarms counts the points that are suspicious by themselves; each is accepted,
// as a person would who looked at it.
func (w *worker) alarms() (ids []dr.PointID) {
	accepted := map[dr.PointID]bool{}
	for {
		v := w.judge(suspicion.Options{Accepted: func(id dr.PointID) bool { return accepted[id] }})
		found := false
		for _, v := range v {
			if v.Suspicious {
				accepted[v.Point], found = true, true
				ids = append(ids, v.Point)
				break
			}
		}
		if !found {
			return ids
		}
	}
}

func show(t *testing.T, w *worker, what string) {
	v := w.judge(suspicion.Options{})
	i := 0
	for p := range w.store.List(t.Context(), "m") {
		c := p.Changes
		t.Logf("%s %s blocks %d dense %d known %d fresh %d over %d turned %d grown %dK shrunk %dK score %.2f %v", what, p.ID, c.Blocks, c.Dense, c.Known, c.Fresh, c.Over, c.Turned, c.Grown>>10, c.Shrunk>>10, v[i].Score, v[i].Reasons)
		i++
	}
}

// TestFiguresOfWork prints false alarms.
func TestFiguresOfWork(t *testing.T) {
	for _, c := range []struct {
		name string
		work work
	}{
		{"database", database}, {"logs", logs}, {"backup", backup}, {"imports", imports},
		{"upgrade", upgrade}, {"compile", compile}, {"moves", moves}, {"mixed", mixed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if scale() == 0 && c.name != "moves" {
				t.Skip("LIFEBOAT_FIGURES=1 runs it")
			}
			w := start(t, 1, 24<<20, "")
			for step := range max(6, 30*scale()) {
				w.point()
				c.work(w, step)
			}
			w.point()
			if testing.Verbose() {
				show(t, w, c.name)
			}
			alarms := w.alarms()
			t.Logf("%-12s %d points, false alarms: %v", c.name, w.n, alarms)
			if c.name != "logs" { // known to: docs/decisions/0021
				require.Empty(t, alarms)
			}
		})
	}
}

// TestFiguresOfAttacks prints how soon attacks are found. Those that are said
// to be found must be.
func TestFiguresOfAttacks(t *testing.T) {
	for _, c := range []struct {
		name    string
		attack  work
		points  int
		options string
		within  int // points; 0: may evade
		always  bool
	}{
		{"in place", attack(inPlace, 1), 1, "", 1, true},
		{"in place, over 10 points", attack(inPlace, 10), 10, "", 10, false},
		{"every other 16 KiB", attack(everyOther, 1), 1, "", 1, false},
		{"copy and delete", attack(copyAndDelete, 1), 1, "", 0, false},
		{"copy and delete, discard", attack(copyAndDelete, 1), 1, ",discard", 0, false},
		{"first 4 KiB", attack(head, 1), 1, "", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if scale() == 0 && !c.always {
				t.Skip("LIFEBOAT_FIGURES=1 runs it")
			}
			w := start(t, 2, 24<<20, c.options)
			for step := range 4 {
				w.point()
				[]work{logs, moves}[step%2](w, step)
			}
			before := w.point()
			for step := range c.points {
				c.attack(w, step)
				w.point()
			}
			if testing.Verbose() {
				show(t, w, c.name)
			}
			found := 0
			for i, v := range w.judge(suspicion.Options{}) {
				require.False(t, v.Suspicious && i < 5 && c.points == 1, "%+v", v)
				if v.Score >= 1 && found == 0 {
					found = i - 4
				}
			}
			t.Logf("%-26s found after %d of %d points (0: not found)", c.name, found, c.points)
			if c.within > 0 {
				require.Positive(t, found)
				require.LessOrEqual(t, found, c.within)
				var all []dr.Point
				for p := range w.store.List(t.Context(), "m") {
					all = append(all, p)
				}
				p, err := recoverypoint.Choose(all, recoverypoint.Choice{Option: recoverypoint.LatestBeforeSuspicion})
				require.NoError(t, err)
				if c.points == 1 {
					require.Equal(t, before.ID, p.ID)
				}
			}
		})
	}
}

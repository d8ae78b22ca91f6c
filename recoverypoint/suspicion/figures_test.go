package suspicion_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/lifeboat-dr/lifeboat/dr"
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
			if scale() == 0 && c.name != "mixed" {
				t.Skip("LIFEBOAT_FIGURES=1 runs it")
			}
			w := start(t, 1, 24<<20, "")
			for step := range max(10, 30*scale()) {
				w.point()
				c.work(w, step)
			}
			w.point()
			if testing.Verbose() {
				show(t, w, c.name)
			}
			fmt.Printf("FIG work %-12s points %3d alarms %v\n", c.name, w.n, w.alarms())
		})
	}
}
